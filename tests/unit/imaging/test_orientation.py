"""Reordering voxels never moves them in the world."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.quaternions import quat2mat
from numpy.typing import NDArray

from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.orientation import nibabel_axcodes, sct_orientation, to_orientation

ALL_48 = [
    "".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)
]
TURN = quat2mat([0.96, 0.10, 0.20, -0.15])
OBLIQUE = from_matvec(TURN @ [[-1.1, 0, 0], [0, 0, -3], [0, 1.2, 0]], [11, -7.5, 40])


def oblique_image(values: NDArray[Any] | None = None) -> nib.Nifti1Image:
    """An image stored in RIA that is not aligned with the world's axes."""
    values = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5) if values is None else values
    image = nib.Nifti1Image(values, OBLIQUE)
    image.set_sform(OBLIQUE, code="scanner")
    image.set_qform(OBLIQUE, code="scanner")
    return image


def worlds(image: nib.Nifti1Image, affine: NDArray[Any]) -> dict[int, NDArray[Any]]:
    """The world coordinate of every (distinct) value."""
    values = np.asarray(image.dataobj)
    voxels = np.argwhere(np.ones(values.shape, dtype=bool))
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    return dict(zip(values.ravel().tolist(), points, strict=True))


def test_there_are_48_orientations() -> None:
    assert len(set(ALL_48)) == 48


def test_sct_says_where_an_axis_comes_from_and_nibabel_where_it_goes() -> None:
    assert nibabel_axcodes("RPI") == ("L", "A", "S")
    assert sct_orientation(np.diag([-1.0, 1.0, 1.0, 1.0])) == "RPI"
    assert sct_orientation(np.eye(4)) == "LPI"


@pytest.mark.parametrize("code", ALL_48)
def test_every_voxel_keeps_its_world_coordinate(code: str) -> None:
    image = oblique_image()
    oriented = to_orientation(image, code)
    assert sct_orientation(oriented.affine) == code
    assert oriented.get_data_dtype() == np.int16
    before = worlds(image, image.affine)
    for affine in (oriented.affine, oriented.get_sform(), oriented.get_qform()):
        after = worlds(oriented, affine)
        assert after.keys() == before.keys()
        for value, point in before.items():
            np.testing.assert_allclose(after[value], point, atol=1e-3)


@pytest.mark.parametrize("code", ALL_48)
def test_there_and_back_is_the_same_image(code: str) -> None:
    image = oblique_image()
    back = to_orientation(to_orientation(image, code), sct_orientation(image.affine))
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(image.dataobj))
    np.testing.assert_allclose(back.affine, image.affine, atol=1e-4)


def test_codes_of_both_forms_survive_a_file(tmp_path: Path) -> None:
    image = oblique_image()
    image.set_sform(OBLIQUE, code="mni")
    nib.save(to_orientation(image, "RPI"), tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz")
    assert (int(stored.header["sform_code"]), int(stored.header["qform_code"])) == (4, 1)
    np.testing.assert_allclose(stored.get_sform(), stored.get_qform(), atol=1e-3)


def test_an_image_with_a_qform_only_gets_no_sform() -> None:
    image = oblique_image()
    image.set_sform(None, code=0)
    oriented = to_orientation(image, "RPI")
    assert int(oriented.header["sform_code"]) == 0
    np.testing.assert_allclose(oriented.affine, oriented.get_qform(), atol=1e-4)


def test_an_image_without_forms_keeps_the_orientation_it_is_read_in() -> None:
    image = oblique_image()
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    bare = nib.Nifti1Image.from_bytes(image.to_bytes())
    oriented = to_orientation(bare, "AIL")
    reread = nib.Nifti1Image.from_bytes(oriented.to_bytes())
    assert sct_orientation(reread.affine) == "AIL"


def test_a_scaled_file_keeps_its_values(tmp_path: Path) -> None:
    image = oblique_image()
    image.header.set_slope_inter(0.0137, 3)
    nib.save(image, tmp_path / "scaled.nii.gz")
    stored = nib.load(tmp_path / "scaled.nii.gz")
    assert np.asarray(stored.dataobj).max() == pytest.approx(59 * 0.0137 + 3)
    nib.save(to_orientation(stored, "RPI"), tmp_path / "oriented.nii.gz")
    oriented = np.asarray(nib.load(tmp_path / "oriented.nii.gz").dataobj)
    assert set(oriented.ravel()) == set(np.asarray(stored.dataobj).ravel())


def test_further_axes_stay() -> None:
    series = oblique_image(np.arange(120, dtype=np.int16).reshape(3, 4, 5, 2))
    oriented = to_orientation(series, "AIL")
    assert oriented.shape[3] == 2
    single = to_orientation(oblique_image(np.asarray(series.dataobj)[..., 1]), "AIL")
    np.testing.assert_array_equal(np.asarray(oriented.dataobj)[..., 1], np.asarray(single.dataobj))


@pytest.mark.parametrize("code", ["", "RP", "RPIX", "RRI", "rpi", "RLS", "XYZ"])
def test_what_is_not_an_orientation_is_refused(code: str) -> None:
    with pytest.raises(CaHpcError, match="not an orientation"):
        to_orientation(oblique_image(), code)


def test_an_affine_that_drops_an_axis_is_refused() -> None:
    with pytest.raises(CaHpcError, match="no direction"):
        sct_orientation(np.diag([1.0, 0.0, 1.0, 1.0]))
