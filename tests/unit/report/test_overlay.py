"""Quality control pictures show the right slices, in proportion."""

from __future__ import annotations

from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.orientation import to_orientation
from ca_hpc.report.overlay import PAIRS, overlay_png, slice_indices

CORD = {"cord": (1,)}
CORD_AND_LESION = {"cord": (1, 2), "lesion": (2,)}
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
    moved = volume(np.roll(cord(), 2, axis=1))
    png = overlay_png(volume(backdrop()), volume(cord()), moved, targets=CORD)
    assert png.startswith(b"\x89PNG")
    assert all(shows(png, colour) for colour in PAIRS[0])


def test_without_a_prediction_there_is_the_label_alone() -> None:
    png = overlay_png(volume(backdrop()), volume(cord()), targets=CORD)
    assert shows(png, PAIRS[0][0]) and not shows(png, PAIRS[0][1])


def test_the_stored_orientation_does_not_change_the_picture() -> None:
    prediction = np.roll(cord(), 2, axis=1)
    prediction[:, :, :5] = 0
    stored = [volume(backdrop()), volume(cord()), volume(prediction)]
    turned = [to_orientation(one, "AIL") for one in stored]
    assert overlay_png(*turned, targets=CORD) == overlay_png(*stored, targets=CORD)


def test_masks_may_be_empty() -> None:
    nothing = volume(np.zeros_like(cord()))
    for reference in (nothing, volume(cord())):
        png = overlay_png(volume(backdrop()), reference, nothing, targets=CORD)
        assert png.startswith(b"\x89PNG")


def with_lesion() -> NDArray[np.uint8]:
    """Cord with a lesion of 2 x 4 x 4 voxels low in it."""
    labels = cord()
    labels[10:12, 18:22, 3:7] = 2
    return labels


def test_every_target_has_its_own_colours() -> None:
    png = overlay_png(
        volume(backdrop()),
        volume(with_lesion()),
        volume(np.roll(with_lesion(), 2, axis=1)),
        targets=CORD_AND_LESION,
    )
    assert all(shows(png, colour) for pair in PAIRS[:2] for colour in pair)


def test_a_region_holds_all_its_values() -> None:
    lesion_and_cord = overlay_png(volume(backdrop()), volume(with_lesion()), targets={"a": (1, 2)})
    assert lesion_and_cord == overlay_png(volume(backdrop()), volume(cord()), targets={"a": (1,)})


def test_of_more_targets_than_colours_the_one_in_focus_is_drawn() -> None:
    targets = {f"level{value}": (value,) for value in range(1, 6)}
    several = overlay_png(volume(backdrop()), volume(cord() * 4), targets=targets, focus="level4")
    alone = overlay_png(volume(backdrop()), volume(cord() * 4), targets={"level4": (4,)})
    assert several == alone


def test_the_slices_are_those_of_the_target_in_focus() -> None:
    reference, prediction = with_lesion(), with_lesion()
    prediction[8:12, 16:24, 20] = 0  # a slice of cord missed, and a corner of the lesion
    prediction[10, 18, 5] = 1
    pictures = [
        overlay_png(
            volume(backdrop()),
            volume(reference),
            volume(prediction),
            targets=CORD_AND_LESION,
            focus=focus,
        )
        for focus in (None, "cord", "lesion")
    ]
    assert pictures[0] == pictures[1] != pictures[2]


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
    bright = pixels(overlay_png(volume(cube), empty, empty, targets=CORD)).min(axis=-1) > 0.95
    bright[:60], bright[-60:] = False, False  # title, legend and letters
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
    picture = pixels(overlay_png(volume(values), empty, empty, targets=CORD)).mean(axis=-1)
    panel = picture[60:-60, 20:180]
    left_or_upper, right_or_lower = np.array_split(panel, 2, axis=axis)
    assert left_or_upper.mean() > right_or_lower.mean()


@pytest.mark.parametrize("shape", [(20, 20, 400), (6, 60, 400)])
def test_titles_have_room_over_a_narrow_image(shape: tuple[int, int, int]) -> None:
    """Nothing bright touches the edges of the title row, and the two titles stay apart."""
    values = np.full(shape, 90, dtype=np.uint8)
    label = np.zeros_like(values)
    label[2:4, 4:10, 2:-2] = 1
    png = overlay_png(volume(values), volume(label), targets=CORD, height=2.4)
    title_row = pixels(png)[:30].max(axis=(0, 2)) > 0.5
    assert not title_row[:4].any() and not title_row[-4:].any()
    gaps = np.diff(np.flatnonzero(title_row))
    assert gaps.max() > 12


def test_volumes_of_different_grids_are_refused() -> None:
    with pytest.raises(CaHpcError, match="shapes"):
        overlay_png(volume(backdrop()), volume(cord((20, 40, 23))), volume(cord()), targets=CORD)
