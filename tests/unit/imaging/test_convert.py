"""A case becomes what nnU-Net wants; nothing moves in space, and what is unfit is refused."""

from __future__ import annotations

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

from ca_hpc.core.record import Case
from ca_hpc.imaging.convert import BadCase, Converted, convert_case
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
    """Convert one image (or a file per channel) with its label; arrays are written first."""

    def call(
        image: Array | list[Array] | None = None,
        label: Array | None = None,
        *,
        image_affine: Array | None = None,
        label_affine: Array | None = None,
        values: dict[str, int] | None = None,
        keep: Surroundings | None = None,
    ) -> Converted:
        channels = image if isinstance(image, list) else [picture() if image is None else image]
        images = tuple(
            save(channel, folder / "in" / f"i{n}.nii.gz", matrix=image_affine)
            for n, channel in enumerate(channels)
        )
        seg = save(
            blob() if label is None else label, folder / "in" / "seg.nii.gz", matrix=label_affine
        )
        case = Case("c", "s1", images, seg, "sub-01", "sub-01", None, "T2w")
        return convert_case(
            case,
            images=folder / "images",
            labels=folder / "labels",
            values=values or {"cord": 1},
            keep=keep,
        )

    return call


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


def test_what_is_told_about_a_case_is_as_it_was_stored(convert: Convert) -> None:
    found = convert(image_affine=affine("LPI"), label_affine=affine("LPI"))
    assert found == Converted(
        case="c", orientation="RAS", spacing_mm=SPACING, shape=SHAPE, label_voxels=6
    )


def test_images_become_float32_with_their_scale_applied(folder: Path, convert: Convert) -> None:
    convert()
    image = nib.Nifti1Image(picture(), affine())
    image.header.set_slope_inter(0.5, 10)
    file = folder / "in" / "scaled.nii.gz"
    nib.save(image, file)
    case = Case("d", "s1", (str(file),), str(folder / "in/seg.nii.gz"), "s", "s", None, "T2w")
    convert_case(case, images=folder / "images", labels=folder / "labels", values={"cord": 1})
    out = written(folder, "images/d_0000.nii.gz")
    assert out.get_data_dtype() == np.float32
    expected = np.asanyarray(nib.load(file).dataobj)
    assert_same_in_the_world(out, nib.Nifti1Image(expected.astype(np.float32), affine()))


def test_every_channel_gets_a_file(folder: Path, convert: Convert) -> None:
    convert(image=[picture(), picture() + 1])
    found = [np.asanyarray(written(folder, f"images/c_000{n}.nii.gz").dataobj) for n in (0, 1)]
    np.testing.assert_array_equal(found[0] + 1, found[1])


def test_a_fourth_dimension_of_one_is_no_dimension(folder: Path, convert: Convert) -> None:
    found = convert(image=picture()[..., None], label=blob()[..., None])
    assert found.shape == SHAPE
    assert written(folder, "images/c_0000.nii.gz").ndim == 3


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "kept"), [(0.0, 0), (0.49, 0), (0.5, 0), (0.51, 1), (1.0, 1), (255.0, 1)]
)
def test_a_soft_label_is_cut_at_a_half(
    folder: Path, convert: Convert, stored: float, kept: int
) -> None:
    soft = blob(np.float32, value=stored)
    soft[4, 5, 6] = 1
    found = convert(label=soft)
    assert found.label_voxels == 6 * kept + 1
    label = np.asanyarray(written(folder, "labels/c.nii.gz").dataobj)
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 1}


def test_several_labels_keep_their_values(folder: Path, convert: Convert) -> None:
    label = blob()
    label[4, 5, 6] = 2
    convert(label=label.astype(np.float64), values={"cord": 1, "lesion": 2})
    found = np.asanyarray(written(folder, "labels/c.nii.gz").dataobj)
    assert np.unique(found, return_counts=True)[1].tolist() == [label.size - 7, 6, 1]


@pytest.mark.parametrize("value", [3, 1.5, -1])
def test_a_value_that_is_no_label_is_refused(convert: Convert, value: float) -> None:
    with pytest.raises(BadCase, match=rf"seg\.nii\.gz: values \[{value:.1f}\] are not among"):
        convert(label=blob(np.float32, value=value), values={"cord": 1, "lesion": 2})


def test_an_empty_label_is_one(convert: Convert) -> None:
    assert convert(label=blob(value=0)).label_voxels == 0


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (blob(np.float32, value=0.45), "no voxel is above 0.5 (values 0 to 0.45)"),
        (blob(np.int16, value=-1), "no voxel is above 0.5 (values -1 to 0)"),
        (picture() + 100, "every voxel is above 0.5 (values 100 to 309)"),
    ],
)
def test_what_is_no_mask_is_refused_rather_than_trained_on(
    convert: Convert, label: Array, told: str
) -> None:
    with pytest.raises(BadCase) as refused:
        convert(label=label)
    assert told in refused.value.message


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
    found = convert(image_affine=matrix, label_affine=matrix, keep=Surroundings(1, margin_mm=1.0))
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
    found = convert(keep=Surroundings(1, margin_mm=1.0))  # 2, 1 and half a voxel
    assert found.crop == ((0, 5), (1, 6), (2, 5))
    assert (found.shape, found.label_voxels, found.label_voxels_lost) == (SHAPE, 6, 0)


def test_every_channel_is_cut_alike(folder: Path, convert: Convert) -> None:
    convert(image=[picture(), picture() + 1], keep=Surroundings(1, margin_mm=0))
    first, second = (written(folder, f"images/c_000{n}.nii.gz") for n in (0, 1))
    assert first.shape == second.shape == (2, 3, 1)
    np.testing.assert_array_equal(first.affine, second.affine)
    np.testing.assert_array_equal(np.asanyarray(first.dataobj) + 1, np.asanyarray(second.dataobj))


def test_of_two_labels_the_box_is_around_the_one_and_what_is_lost_is_told(
    folder: Path, convert: Convert
) -> None:
    label = blob()
    label[2, 4, 3] = label[4, 5, 6] = 2  # one inside the box, one far from it
    found = convert(label=label, values={"cord": 1, "lesion": 2}, keep=Surroundings(1, margin_mm=0))
    kept = np.asanyarray(written(folder, "labels/c.nii.gz").dataobj)
    assert np.unique(kept, return_counts=True)[1].tolist() == [5, 1]
    assert (found.label_voxels, found.label_voxels_lost) == (7, 1)
    around = convert(
        label=label, values={"cord": 1, "lesion": 2}, keep=Surroundings(2, margin_mm=0)
    )
    assert (around.crop, around.label_voxels_lost) == (((0, 3), (4, 6), (3, 7)), 5)


@pytest.mark.parametrize("value", [0, 2])
def test_a_case_without_the_label_stays_whole(folder: Path, convert: Convert, value: int) -> None:
    found = convert(
        label=blob(value=value), values={"cord": 1, "lesion": 2}, keep=Surroundings(1, margin_mm=5)
    )
    assert (found.cropped, found.crop, found.label_voxels_lost) == (False, None, 0)
    assert_same_in_the_world(
        written(folder, "images/c_0000.nii.gz"),
        nib.Nifti1Image(picture().astype(np.float32), affine()),
    )


# --- what is refused -----------------------------------------------------------------------------


def test_a_label_beside_its_image_is_refused_with_the_distance(convert: Convert) -> None:
    with pytest.raises(BadCase, match=r"seg\.nii\.gz: lies 1\.50 mm beside its image") as refused:
        convert(label_affine=affine(shift=1.5))
    assert "no registration" in str(refused.value.hint)


def test_headers_that_differ_by_rounding_are_the_same_grid(convert: Convert) -> None:
    assert convert(label_affine=affine(shift=0.005)).label_voxels == 6


def test_a_label_of_another_shape_is_refused(convert: Convert) -> None:
    with pytest.raises(BadCase, match=r"seg\.nii\.gz: shape .*6, 6\) is not the image's .*6, 7\)"):
        convert(label=blob()[..., :-1])


def test_channels_on_different_grids_are_refused(convert: Convert) -> None:
    with pytest.raises(BadCase, match=r"i1\.nii\.gz: shape"):
        convert(image=[picture(), picture()[:-1]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_or_label_with_nan_or_infinity_is_refused(convert: Convert, bad: float) -> None:
    image = picture().astype(np.float32)
    image[0, 0, 0] = bad
    with pytest.raises(BadCase, match=r"i0\.nii\.gz: holds NaN or infinite values"):
        convert(image=image)
    with pytest.raises(BadCase, match=r"seg\.nii\.gz: holds NaN or infinite values"):
        convert(label=blob(np.float32, value=bad))


def test_a_time_series_is_refused(convert: Convert) -> None:
    with pytest.raises(BadCase, match=r"i0\.nii\.gz: has 4 dimensions, 3 are needed"):
        convert(image=np.stack([picture(), picture()], axis=-1))


def test_a_flat_image_is_refused(convert: Convert) -> None:
    with pytest.raises(BadCase, match=r"i0\.nii\.gz: has 2 dimensions"):
        convert(image=picture()[..., 0])


def test_a_colour_image_is_refused(convert: Convert) -> None:
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(BadCase, match=r"i0\.nii\.gz: is a colour image"):
        convert(image=colour)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "cut off"])
def test_a_file_that_cannot_be_read_is_named(
    folder: Path, convert: Convert, content: bytes | None
) -> None:
    rng = np.random.default_rng(0)  # noise, so that what is cut off is pixels
    convert(image=rng.normal(size=SHAPE))
    file = folder / "in" / "i0.nii.gz"
    file.write_bytes(file.read_bytes()[:-400] if content is None else content)
    case = Case("c", "s1", (str(file),), str(folder / "in/seg.nii.gz"), "s", "s", None, "T2w")
    with pytest.raises(BadCase, match=r"i0\.nii\.gz: cannot be read \("):
        convert_case(case, images=folder / "images", labels=folder / "labels", values={"cord": 1})


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    case = Case("c", "s1", ("/gone.nii.gz",), "/gone-seg.nii.gz", "s", "s", None, "T2w")
    with pytest.raises(BadCase, match=r"/gone\.nii\.gz: cannot be read"):
        convert_case(case, images=folder / "images", labels=folder / "labels", values={"cord": 1})


@pytest.mark.parametrize("row", [(0, 0, 0), (float("nan"), 0, 0), (1e6, 0, 0), (1e-6, 0, 0)])
def test_a_header_that_cannot_be_in_mm_is_refused(
    folder: Path, row: tuple[float, float, float]
) -> None:
    image, label = save(picture(), folder / "in" / "i.nii"), save(blob(), folder / "in" / "s.nii")
    with Path(image).open("r+b") as stream:  # nibabel does not write such an affine
        stream.seek(280)  # srow_x (nifti1.h)
        stream.write(np.array(row, "<f4").tobytes())
    with pytest.raises(BadCase, match=r"i\.nii: voxels of .* mm: its header .* is wrong"):
        one(image, label, folder)


def test_voxel_axes_that_coincide_are_refused(folder: Path) -> None:
    image, label = save(picture(), folder / "in" / "i.nii"), save(blob(), folder / "in" / "s.nii")
    with Path(image).open("r+b") as stream:
        stream.seek(280)
        stream.write(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], "<f4").tobytes())
    with pytest.raises(BadCase, match="two voxel axes have one direction"):
        one(image, label, folder)


def test_complex_values_are_refused(convert: Convert) -> None:
    with pytest.raises(BadCase, match="has complex values"):
        convert(image=picture().astype(np.complex64))


def test_values_too_large_for_float32_are_refused(convert: Convert) -> None:
    with pytest.raises(BadCase, match="holds NaN or infinite values"):
        convert(image=np.full(SHAPE, 1e300))


def one(image: str, label: str, folder: Path) -> Converted:
    case = Case("c", "s1", (image,), label, "sub-01", "sub-01", None, "T2w")
    return convert_case(
        case, images=folder / "images", labels=folder / "labels", values={"cord": 1}
    )
