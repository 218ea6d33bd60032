"""Quality control pictures show the right slices, in proportion."""

from __future__ import annotations

from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.orientation import to_orientation
from ca_hpc.report.overlay import OUTLINES, overlay_png, slice_indices

RPI_2x1x3 = np.diag([-2.0, 1.0, 3.0, 1.0])


def cord(shape: tuple[int, int, int] = (20, 40, 24)) -> NDArray[np.uint8]:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[8:12, 16:24, :] = 1
    return mask


def volume(values: NDArray[np.uint8]) -> nib.Nifti1Image:
    return nib.Nifti1Image(values, RPI_2x1x3)


def pixels(png: bytes) -> NDArray[np.float64]:
    from matplotlib.image import imread

    return np.asarray(imread(BytesIO(png)))[..., :3]


def shows(png: bytes, colour: str) -> bool:
    from matplotlib.colors import to_rgb

    return bool((np.abs(pixels(png) - to_rgb(colour)).max(axis=-1) < 0.02).any())


def backdrop() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 200, size=cord().shape).astype(np.uint8)


def test_both_outlines_are_drawn_and_named_in_the_legend() -> None:
    png = overlay_png(volume(backdrop()), volume(cord()), volume(np.roll(cord(), 2, axis=1)))
    assert png.startswith(b"\x89PNG")
    assert all(shows(png, colour) for _, colour, _ in OUTLINES)


def test_the_stored_orientation_does_not_change_the_picture() -> None:
    prediction = np.roll(cord(), 2, axis=1)
    prediction[:, :, :5] = 0
    stored = [volume(backdrop()), volume(cord()), volume(prediction)]
    turned = [to_orientation(one, "AIL") for one in stored]
    assert overlay_png(*turned) == overlay_png(*stored)


def test_masks_may_be_empty() -> None:
    nothing = volume(np.zeros_like(cord()))
    assert overlay_png(volume(backdrop()), nothing, nothing).startswith(b"\x89PNG")
    assert overlay_png(volume(backdrop()), volume(cord()), nothing).startswith(b"\x89PNG")


def test_one_label_of_several_is_outlined() -> None:
    only_lesion = overlay_png(volume(backdrop()), volume(cord() * 2), volume(cord()), label=2)
    assert only_lesion == overlay_png(
        volume(backdrop()), volume(cord()), volume(np.zeros_like(cord()))
    )


def test_the_axial_slice_is_the_one_where_the_masks_disagree_most() -> None:
    reference, prediction = cord() == 1, cord() == 1
    assert slice_indices(reference, prediction)[1] == 12  # perfect: half way up the cord
    prediction[9:11, 18:20, 5] = False
    prediction[10, 18, 20] = False
    assert slice_indices(reference, prediction)[1] == 5


def test_the_sagittal_slice_runs_through_the_reference_or_else_the_prediction() -> None:
    off_centre = np.roll(cord(), -6, axis=0) == 1
    off_centre[3, 0, :] = True
    nothing = np.zeros_like(off_centre)
    assert slice_indices(off_centre, nothing)[0] == 3
    assert slice_indices(nothing, off_centre)[0] == 3
    assert slice_indices(nothing, nothing) == (10, 12)


def test_thick_slices_are_drawn_as_thick_as_they_are() -> None:
    """A cube in mm looks square though it has 12 x 24 x 8 voxels."""
    cube = np.zeros((12, 24, 8), dtype=np.uint8)
    cube[3:9, 6:18, 2:6] = 200  # 12 mm along each axis
    empty = volume(np.zeros_like(cube))
    bright = pixels(overlay_png(volume(cube), empty, empty)).min(axis=-1) > 0.95
    bright[:50], bright[-50:] = False, False  # title and legend
    columns = np.flatnonzero(bright.sum(axis=0) > 40)
    left = columns[: np.flatnonzero(np.diff(columns, append=10**6) > 1)[0] + 1]
    height = bright[:, left].any(axis=1).sum()
    assert left.size == pytest.approx(height, rel=0.06)


@pytest.mark.parametrize(
    ("bright_part", "axis"), [(np.s_[:, 20:, :], 1), (np.s_[:, :, 12:], 0)], ids=["front", "head"]
)
def test_the_sagittal_panel_faces_left_with_the_head_up(
    bright_part: tuple[slice, ...], axis: int
) -> None:
    values = np.full((8, 40, 24), 20, dtype=np.uint8)
    values[bright_part] = 200
    empty = volume(np.zeros_like(values))
    picture = pixels(overlay_png(volume(values), empty, empty)).mean(axis=-1)
    panel = picture[60:-60, 20:180]
    left_or_upper, right_or_lower = np.array_split(panel, 2, axis=axis)
    assert left_or_upper.mean() > right_or_lower.mean()


def test_volumes_of_different_grids_are_refused() -> None:
    with pytest.raises(CaHpcError, match="shapes"):
        overlay_png(volume(backdrop()), volume(cord((20, 40, 23))), volume(cord()))
