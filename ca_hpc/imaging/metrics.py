"""Overlap of a predicted mask with its reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxel-wise measures; NaN where nothing is to be measured (both masks empty).

    ``relative_volume_difference``: (predicted - reference) / reference.
    """

    dice: float
    precision: float
    sensitivity: float
    relative_volume_difference: float


def overlap(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Overlap:
    """Compare two boolean masks of equal shape."""
    both = int(np.count_nonzero(reference & prediction))
    wanted, found = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    return Overlap(
        dice=_ratio(2 * both, wanted + found),
        precision=_ratio(both, found),
        sensitivity=_ratio(both, wanted),
        relative_volume_difference=_ratio(found - wanted, wanted),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
