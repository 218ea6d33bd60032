"""Overlap of two masks."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from ca_hpc.imaging.metrics import overlap

masks = arrays(np.bool_, (3, 4, 2))


def mask(*voxels: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    out = np.zeros(10, dtype=np.bool_)
    out[list(voxels)] = True
    return out


def test_measures_of_a_known_overlap() -> None:
    found = overlap(mask(0, 1, 2, 3), mask(2, 3, 4))
    assert found.dice == pytest.approx(2 * 2 / 7)
    assert found.precision == pytest.approx(2 / 3)
    assert found.sensitivity == pytest.approx(2 / 4)
    assert found.relative_volume_difference == pytest.approx((3 - 4) / 4)


def test_nothing_found_of_something_is_zero_and_not_undefined() -> None:
    found = overlap(mask(1), mask())
    assert (found.dice, found.sensitivity, found.relative_volume_difference) == (0, 0, -1)
    assert isnan(found.precision)


def test_two_empty_masks_have_nothing_to_measure() -> None:
    found = overlap(mask(), mask())
    assert isnan(found.dice) and isnan(found.sensitivity) and isnan(found.precision)


def test_something_found_of_nothing_is_zero() -> None:
    found = overlap(mask(), mask(1))
    assert (found.dice, found.precision) == (0, 0)
    assert isnan(found.sensitivity) and isnan(found.relative_volume_difference)


@given(masks, masks)
def test_dice_is_the_same_both_ways_and_between_0_and_1(
    one: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    other: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
) -> None:
    found, back = overlap(one, other), overlap(other, one)
    assert found.dice == back.dice or (isnan(found.dice) and isnan(back.dice))
    assert isnan(found.dice) or 0 <= found.dice <= 1
    assert found.precision == back.sensitivity or isnan(found.precision)


@given(masks.filter(np.any))
def test_a_mask_agrees_with_itself(one: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
    found = overlap(one, one)
    assert (found.dice, found.relative_volume_difference) == (1, 0)
