"""A box around a label: it holds the label and its margin, and no voxel moves in the world."""

from __future__ import annotations

import math
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.eulerangles import euler2mat
from numpy.typing import NDArray

from ca_hpc.imaging.crop import crop_box, cut_affine

SHAPE = (40, 50, 60)
SPACING = (0.5, 1.0, 2.0)


def mask(*voxels: tuple[int, int, int]) -> NDArray[np.bool_]:
    out = np.zeros(SHAPE, dtype=bool)
    for voxel in voxels:
        out[voxel] = True
    return out


@pytest.mark.parametrize(
    ("margin", "box"),
    [
        (0, (slice(10, 16), slice(20, 23), slice(30, 41))),
        (4, (slice(2, 24), slice(16, 27), slice(28, 43))),
        (3, (slice(4, 22), slice(17, 26), slice(28, 43))),  # 1.5 voxels along the last axis: 2
        (20, (slice(0, 40), slice(0, 43), slice(20, 51))),
        (1000, (slice(0, 40), slice(0, 50), slice(0, 60))),
    ],
)
def test_the_margin_is_in_mm_on_each_side_and_ends_with_the_image(
    margin: float, box: tuple[slice, ...]
) -> None:
    label = mask((10, 22, 40), (15, 20, 30))
    assert crop_box(label, SPACING, margin_mm=margin) == box


def test_a_margin_of_whole_voxels_is_not_one_more_for_a_rounding() -> None:
    # 30 mm of float32 voxels: 99.99999 and 100.00001 voxels are both 100
    for step in (float(np.float32(0.3)), 0.29999998, 0.3000000001):
        line = np.zeros((500, 1, 1), dtype=bool)
        line[250] = True
        assert crop_box(line, (step, 1, 1), margin_mm=30)[0] == slice(150, 351)


def test_without_a_label_everything_is_kept() -> None:
    assert crop_box(mask(), SPACING, margin_mm=1) == tuple(slice(0, n) for n in SHAPE)


voxel = st.tuples(*[st.integers(0, n - 1) for n in SHAPE])


@given(
    voxels=st.lists(voxel, min_size=1, max_size=5),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    margin=st.floats(0, 60),
)
def test_the_label_is_whole_and_its_margin_too_where_there_is_image(
    voxels: list[tuple[int, int, int]], spacing: tuple[float, ...], margin: float
) -> None:
    label = mask(*voxels)
    box = crop_box(label, spacing, margin_mm=margin)
    assert label[box].sum() == label.sum()
    for axis, side in enumerate(box):
        low, high = min(v[axis] for v in voxels), max(v[axis] for v in voxels)
        for room, border in (
            (low - side.start, low),
            (side.stop - 1 - high, SHAPE[axis] - 1 - high),
        ):
            assert room == border or margin - 1e-3 * spacing[axis] <= room * spacing[axis]
            assert room <= math.ceil(margin / spacing[axis])


@pytest.mark.parametrize("axcodes", ["LAS", "RAS", "PIR", "SPL"])
def test_each_voxel_stays_where_it_was(axcodes: str) -> None:
    turned = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(tuple(axcodes)), (1, 1, 1))
    affine: NDArray[Any] = np.diag([*SPACING, 1.0]) @ turned
    affine[:3, :3] = euler2mat(0.2, -0.1, 0.3) @ affine[:3, :3]
    affine[:3, 3] = (-31.5, 12.25, 700)
    before = affine.copy()
    box = crop_box(mask((10, 22, 40), (15, 20, 30)), SPACING, margin_mm=3)
    start = np.array([side.start for side in box])
    cut = cut_affine(affine, box)
    for corner in ((0, 0, 0), (5, 3, 12)):
        there = apply_affine(cut, corner)
        np.testing.assert_allclose(there, apply_affine(affine, start + corner), atol=1e-9)
    np.testing.assert_array_equal(affine, before)
    np.testing.assert_array_equal(cut[:3, :3], affine[:3, :3])


def test_the_whole_box_leaves_the_affine_as_it_is_to_the_bit() -> None:
    affine = np.diag([0.1, 0.3, 0.7, 1.0])
    affine[:3, 3] = (1 / 3, -1e5 / 7, 0.1)
    box = tuple(slice(0, n) for n in SHAPE)
    np.testing.assert_array_equal(cut_affine(affine, box), affine)
