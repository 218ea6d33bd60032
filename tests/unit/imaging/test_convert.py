"""A case becomes what nnU-Net wants; nothing moves in space, and what is unfit is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.eulerangles import euler2mat
from numpy.typing import NDArray

from ca_hpc.core.data_spec import Label
from ca_hpc.core.record import Case, LabelFile
from ca_hpc.imaging.conversion import Conversion
from ca_hpc.imaging.convert import Converted, convert_case
from ca_hpc.imaging.crop import Surroundings
from ca_hpc.imaging.orientation import to_orientation

SHAPE = (5, 6, 7)
SPACING = (0.5, 1.0, 2.0)
AXES = (("R", "L"), ("A", "P"), ("S", "I"))
ORIENTATIONS = [
    "".join(code)
    for axes in permutations(AXES)
    for code in product(*axes)
]  # all 48, nibabel's letters  # fmt: skip

Array = NDArray[Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("in", "images", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path


def affine(axcodes: str = "RAS", *, shift: float = 0.0) -> Array:
    """Voxel to world (RAS+ mm) for nibabel's ``axcodes``, ``SPACING`` along the voxel axes."""
    orientation = nib.orientations.axcodes2ornt(tuple(axcodes))
    out = np.zeros((4, 4))
    for voxel_axis, (world_axis, sign) in enumerate(orientation):
        out[int(world_axis), voxel_axis] = sign * SPACING[voxel_axis]
    out[:, 3] = (10 + shift, -20, 30, 1)
    return out


def picture() -> Array:
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def blob(dtype: Any = np.uint8, *, value: float = 1) -> Array:
    out = np.zeros(SHAPE, dtype=dtype)
    out[1:3, 2:5, 3] = value
    return out


def save(array: Array, to: Path, *, matrix: Array | None = None) -> str:
    nib.save(nib.Nifti1Image(array, affine() if matrix is None else matrix), to)
    return str(to)


Convert = Callable[..., Converted]


@pytest.fixture
def convert(folder: Path) -> Convert:
    """Convert one image (or a file per channel) with its label; arrays are written first.

    ``label``: a map, or by name of the label a mask each.
    """

    def call(
        image: Array | list[Array] | None = None,
        label: Array | dict[str, Array] | None = None,
        *,
        image_affine: Array | None = None,
        label_affine: Array | None = None,
        labels: dict[str, Label] | None = None,
        targets: dict[str, tuple[int, ...]] | None = None,
        masks: dict[str, Array] | None = None,
        keep: Surroundings | None = None,
        tolerance_mm: float = 0.01,
    ) -> Converted:
        channels = image if isinstance(image, list) else [picture() if image is None else image]
        images = tuple(
            save(channel, folder / "in" / f"i{n}.nii.gz", matrix=image_affine)
            for n, channel in enumerate(channels)
        )
        maps = label if isinstance(label, dict) else {None: blob() if label is None else label}
        files = tuple(
            LabelFile(
                save(array, folder / "in" / f"{name or 'seg'}.nii.gz", matrix=label_affine), name
            )
            for name, array in maps.items()
        )
        rules = labels or {"cord": Label(1)}
        extra = {
            name: save(array, folder / "in" / f"{name}_mask.nii.gz", matrix=image_affine)
            for name, array in (masks or {}).items()
        }
        case = Case("c", "s1", images, files, "sub-01", "sub-01", None, "T2w",
                    masks=tuple(extra.values()))  # fmt: skip
        conversion = Conversion(
            labels=rules,
            targets=targets or {name: (rule.value,) for name, rule in rules.items()},
            masks=tuple(extra),
            keep=keep,
            tolerance_mm=tolerance_mm,
        )
        return convert_case(case, conversion, images=folder / "images", labels=folder / "labels")

    return call


CORD_AND_LESION = {"cord": Label(1), "lesion": Label(2)}


def written(folder: Path, name: str) -> nib.Nifti1Image:
    return nib.load(folder / name)


def assert_same_in_the_world(one: nib.Nifti1Image, other: nib.Nifti1Image) -> None:
    """Both images, brought to nibabel's canonical orientation, have equal voxels and affines."""
    first, second = nib.as_closest_canonical(one), nib.as_closest_canonical(other)
    np.testing.assert_array_equal(np.asanyarray(first.dataobj), np.asanyarray(second.dataobj))
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_keeps_its_place_in_the_world(
    folder: Path, convert: Convert, orientation: str
) -> None:
    matrix = affine(orientation)
    convert(image_affine=matrix, label_affine=matrix)
    image = written(folder, "images/c_0000.nii.gz")
    label = written(folder, "labels/c.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")  # RPI in SCT's words
    assert_same_in_the_world(image, nib.Nifti1Image(picture(), matrix))
    assert_same_in_the_world(label, nib.Nifti1Image(blob(), matrix))


def test_image_and_label_have_the_same_header_to_the_bit(folder: Path, convert: Convert) -> None:
    tilted = affine("PIR")
    tilted[:3, :3] = euler2mat(0.1, -0.2, 0.05) @ tilted[:3, :3]
    convert(image_affine=tilted, label_affine=tilted + 1e-7)
    image = written(folder, "images/c_0000.nii.gz")
    label = written(folder, "labels/c.nii.gz")
    np.testing.assert_array_equal(image.affine, label.affine)
    np.testing.assert_array_equal(image.get_qform(), label.get_qform())
    assert image.header.get_zooms() == label.header.get_zooms()


def test_a_label_stored_in_another_orientation_is_on_the_same_grid(
    folder: Path, convert: Convert
) -> None:
    turned = nib.Nifti1Image(blob(), affine()).as_reoriented(
        nib.orientations.axcodes2ornt(("S", "R", "P"))
    )
    convert(label=np.asanyarray(turned.dataobj), label_affine=turned.affine)
    label = written(folder, "labels/c.nii.gz")
    assert_same_in_the_world(label, nib.Nifti1Image(blob(), affine()))


def test_what_is_told_about_a_case_is_as_it_was_stored(folder: Path, convert: Convert) -> None:
    found = convert(image_affine=affine("LPI"), label_affine=affine("LPI"))
    assert (found.case, found.orientation, found.spacing_mm, found.shape) == (
        "c", "RAS", SPACING, SHAPE,
    )  # fmt: skip
    assert (found.label_voxels, found.volume_mm3) == ({"cord": 6}, {"cord": 6.0})
    for digest, name in zip((*found.image_sha256, *found.label_sha256), ("i0", "seg"), strict=True):
        assert digest == hashlib.sha256((folder / f"in/{name}.nii.gz").read_bytes()).hexdigest()


def test_at_45_degrees_a_rounding_does_not_turn_image_and_label_apart(
    folder: Path, convert: Convert
) -> None:
    # two voxel axes are equally near to two axes of the world: a rounding decides
    tilted = np.eye(4)
    tilted[:3, :3] = euler2mat(np.pi / 4, 0, 0)
    for nudge in (-1e-7, 1e-7):
        nudged = np.eye(4)
        nudged[:3, :3] = euler2mat(np.pi / 4 + nudge, 0, 0)
        convert(image_affine=tilted, label_affine=nudged)
        image, label = written(folder, "images/c_0000.nii.gz"), written(folder, "labels/c.nii.gz")
        inside = np.asanyarray(label.dataobj) > 0
        np.testing.assert_array_equal(
            np.sort(np.asanyarray(image.dataobj)[inside]), np.sort(picture()[blob() > 0])
        )


# --- channels ------------------------------------------------------------------------------------


def test_every_channel_gets_a_file(folder: Path, convert: Convert) -> None:
    convert(image=[picture(), picture() + 1])
    found = [np.asanyarray(written(folder, f"images/c_000{n}.nii.gz").dataobj) for n in (0, 1)]
    np.testing.assert_array_equal(found[0] + 1, found[1])


def test_masks_follow_the_images_as_channels_of_0_and_1(folder: Path, convert: Convert) -> None:
    found = convert(masks={"cord": blob(np.float32, value=0.7), "spine": blob(value=255)})
    for number in (1, 2):
        mask = written(folder, f"images/c_000{number}.nii.gz")
        assert mask.get_data_dtype() == np.uint8
        assert_same_in_the_world(mask, nib.Nifti1Image(blob(), affine()))
    assert len(found.image_sha256) == 3


def test_a_fourth_dimension_of_one_is_no_dimension(folder: Path, convert: Convert) -> None:
    found = convert(image=picture()[..., None], label=blob()[..., None])
    assert found.shape == SHAPE
    assert written(folder, "images/c_0000.nii.gz").ndim == 3


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "kept"), [(0.0, 0), (0.49, 0), (0.5, 0), (0.51, 1), (1.0, 1)])
def test_a_soft_label_is_cut_at_a_half(
    folder: Path, convert: Convert, stored: float, kept: int
) -> None:
    soft = blob(np.float32, value=stored)
    soft[4, 5, 6] = 1
    found = convert(label=soft)
    assert found.label_voxels == {"cord": 6 * kept + 1}
    label = np.asanyarray(written(folder, "labels/c.nii.gz").dataobj)
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 1}


def test_several_labels_keep_their_values(folder: Path, convert: Convert) -> None:
    label = blob()
    label[4, 5, 6] = 2
    convert(label=label.astype(np.float64), labels=CORD_AND_LESION)
    found = np.asanyarray(written(folder, "labels/c.nii.gz").dataobj)
    assert np.unique(found, return_counts=True)[1].tolist() == [label.size - 7, 6, 1]


def test_masks_are_painted_in_the_order_of_their_values(folder: Path, convert: Convert) -> None:
    lesion = blob(value=0)
    lesion[2, 2, 3] = lesion[4, 5, 6] = 1  # in the cord, and beside it
    for order in (["cord", "lesion"], ["lesion", "cord"]):
        masks = {"cord": blob(), "lesion": lesion}
        found = convert(
            label={name: masks[name] for name in order},
            labels=CORD_AND_LESION,
            targets={"cord": (1, 2), "lesion": (2,)},
        )
        painted = blob()
        painted[2, 2, 3] = painted[4, 5, 6] = 2
        assert_same_in_the_world(
            written(folder, "labels/c.nii.gz"), nib.Nifti1Image(painted, affine())
        )
        assert found.label_voxels == {"cord": 7, "lesion": 2}
        assert found.volume_mm3 == {"cord": 7.0, "lesion": 2.0}
        assert len(found.label_sha256) == 2


@pytest.mark.parametrize(
    ("rule", "kept"), [(Label(1, from_values=(2, 3)), 2), (Label(1, from_values=(9,)), 0)]
)
def test_from_values_says_what_counts_in_a_file(convert: Convert, rule: Label, kept: int) -> None:
    levels = blob(value=0)
    levels[0, 0, :4] = (1, 2, 3, 4)
    assert convert(label={"cord": levels}, labels={"cord": rule}).label_voxels == {"cord": kept}
    assert convert(label=levels, labels={"cord": rule}).label_voxels == {"cord": kept}


@pytest.mark.parametrize("value", [0.6, 1, 1.0000001, 2, 255])
def test_a_mask_is_soft_or_of_one_constant(convert: Convert, value: float) -> None:
    found = convert(label={"cord": blob(np.float64, value=value)})
    assert found.label_voxels == {"cord": 6}


def test_an_empty_label_is_one(convert: Convert) -> None:
    assert convert(label=blob(value=0)).label_voxels == {"cord": 0}


def test_a_case_that_is_to_be_skipped_for_an_empty_label_is_told_and_not_written(
    folder: Path, convert: Convert
) -> None:
    labels = {"cord": Label(1, empty="fail"), "lesion": Label(2, empty="skip")}
    found = convert(label={"cord": blob(), "lesion": blob(value=0)}, labels=labels)
    assert found.left_out is not None and found.left_out.endswith(
        "lesion.nii.gz: no voxel of lesion"
    )
    assert found.label_voxels == {"cord": 6, "lesion": 0}
    assert not [*folder.glob("images/*"), *folder.glob("labels/*")]


# --- the same image, stored otherwise ------------------------------------------------------------


def test_the_content_is_the_same_however_it_is_stored(folder: Path, convert: Convert) -> None:
    first = convert()
    content = {
        convert(image=picture().astype(np.float32)).content_sha256,
        convert(keep=Surroundings((1,), margin_mm=0)).content_sha256,
        convert(label={"cord": blob()}, masks={"cord": blob()}).content_sha256,
    }
    turned = nib.Nifti1Image(picture(), affine()).as_reoriented(
        nib.orientations.axcodes2ornt(("S", "R", "P"))
    )
    nib.save(turned, file := folder / "in" / "turned.nii")
    label = LabelFile(str(folder / "in" / "seg.nii.gz"))
    case = Case("c", "s1", (str(file),), (label,), "s", "s", None, "T2w")
    conversion = Conversion({"cord": Label(1)}, {"cord": (1,)})
    again = convert_case(case, conversion, images=folder / "images", labels=folder / "labels")
    assert content | {again.content_sha256} == {first.content_sha256}
    assert convert(image=picture() + 1).content_sha256 != first.content_sha256


# --- cut to the surroundings of a label ----------------------------------------------------------


def in_rpi(array: Array, matrix: Array | None = None) -> Array:
    return np.asanyarray(
        to_orientation(
            nib.Nifti1Image(array, affine() if matrix is None else matrix), "RPI"
        ).dataobj
    )


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SRP", "AIR"])
def test_image_and_label_are_cut_alike_and_stay_in_place(
    folder: Path, convert: Convert, orientation: str
) -> None:
    matrix = affine(orientation)
    matrix[:3, :3] = euler2mat(0.1, -0.2, 0.05) @ matrix[:3, :3]
    found = convert(
        image_affine=matrix, label_affine=matrix, keep=Surroundings((1,), margin_mm=1.0)
    )
    assert found.cropped and found.crop is not None
    image = written(folder, "images/c_0000.nii.gz")
    label = written(folder, "labels/c.nii.gz")
    box = tuple(slice(*side) for side in found.crop)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), in_rpi(picture(), matrix)[box])
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), in_rpi(blob(), matrix)[box])
    np.testing.assert_array_equal(image.affine, label.affine)
    np.testing.assert_array_equal(image.get_qform(), label.get_qform())
    # the label's voxels, in the world
    before = apply_affine(matrix, np.argwhere(blob()))
    after = apply_affine(label.affine, np.argwhere(np.asanyarray(label.dataobj)))
    np.testing.assert_allclose(np.sort(after, axis=0), np.sort(before, axis=0), atol=1e-4)


def test_the_crop_is_told_in_voxels_of_the_image_in_rpi(convert: Convert) -> None:
    # blob: 1:3, 2:5, 3:4 of (5, 6, 7) in nibabel's RAS; RPI turns the first axis: 2:4
    found = convert(keep=Surroundings((1,), margin_mm=1.0))  # 2, 1 and half a voxel
    assert found.crop == ((0, 5), (1, 6), (2, 5))
    assert found.label_voxels == {"cord": 6} and found.label_voxels_lost == {"cord": 0}
    assert found.shape == SHAPE


def test_every_channel_is_cut_alike(folder: Path, convert: Convert) -> None:
    convert(image=[picture(), picture() + 1], keep=Surroundings((1,), margin_mm=0))
    first, second = (written(folder, f"images/c_000{n}.nii.gz") for n in (0, 1))
    assert first.shape == second.shape == (2, 3, 1)
    np.testing.assert_array_equal(first.affine, second.affine)
    np.testing.assert_array_equal(np.asanyarray(first.dataobj) + 1, np.asanyarray(second.dataobj))


def test_of_two_labels_the_box_is_around_the_one_and_what_is_lost_is_told(
    folder: Path, convert: Convert
) -> None:
    label = blob()
    label[2, 4, 3] = label[4, 5, 6] = 2  # one inside the box, one far from it
    found = convert(label=label, labels=CORD_AND_LESION, keep=Surroundings((1,), margin_mm=0))
    kept = np.asanyarray(written(folder, "labels/c.nii.gz").dataobj)
    assert np.unique(kept, return_counts=True)[1].tolist() == [5, 1]
    assert found.label_voxels == {"cord": 5, "lesion": 2}
    assert found.label_voxels_lost == {"cord": 0, "lesion": 1}
    around = convert(label=label, labels=CORD_AND_LESION, keep=Surroundings((2,), margin_mm=0))
    assert around.crop == ((0, 3), (4, 6), (3, 7))
    assert around.label_voxels_lost == {"cord": 5, "lesion": 0}


@pytest.mark.parametrize("value", [0, 2])
def test_a_case_without_the_label_stays_whole(folder: Path, convert: Convert, value: int) -> None:
    found = convert(
        label=blob(value=value), labels=CORD_AND_LESION, keep=Surroundings((1,), margin_mm=5)
    )
    assert (found.cropped, found.crop) == (False, None)
    assert found.label_voxels_lost == {"cord": 0, "lesion": 0}
    assert_same_in_the_world(
        written(folder, "images/c_0000.nii.gz"),
        nib.Nifti1Image(picture().astype(np.float32), affine()),
    )


# --- headers that differ by rounding -------------------------------------------------------------


@pytest.mark.parametrize(("shift", "tolerance_mm"), [(0.005, 0.01), (0.4, 0.5)])
def test_a_label_takes_its_image_s_header_within_the_tolerance(
    folder: Path, convert: Convert, shift: float, tolerance_mm: float
) -> None:
    convert(label_affine=affine(shift=shift), tolerance_mm=tolerance_mm)
    image, label = written(folder, "images/c_0000.nii.gz"), written(folder, "labels/c.nii.gz")
    np.testing.assert_array_equal(image.affine, label.affine)


def sheared(by: float) -> Array:
    skewed = np.array([[1, by, 0], [0, 1, 0], [0, 0, 1]])
    out = affine("LAS")
    out[:3, :3] = euler2mat(0.3, -0.2, 0.1) @ skewed @ out[:3, :3]
    return out


@pytest.mark.parametrize("by", [0, 1e-6, 1e-4, 3e-4, 1e-3])
def test_axes_off_the_right_angle_by_rounding_are_mended_and_nothing_moves_visibly(
    folder: Path, convert: Convert, by: float
) -> None:
    matrix = sheared(by)
    convert(image_affine=matrix, label_affine=matrix)
    image = written(folder, "images/c_0000.nii.gz")
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    assert np.abs(axes.T @ axes - np.eye(3)).max() < 1e-4  # what ITK takes as it is
    corner = np.array(SHAPE) - 1
    for voxel in ((0, 0, 0), corner):
        apart = apply_affine(image.affine, voxel) - apply_affine(matrix, voxel)
        assert np.linalg.norm(apart) < 0.01
