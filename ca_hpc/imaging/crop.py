"""A box around a label: an image is cut, never resampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is kept of an image: labels of these ``values``, ``margin_mm`` on each side of them."""

    values: tuple[int, ...]
    margin_mm: float


def crop_box(mask: NDArray[np.bool_], spacing_mm: Sequence[float], *, margin_mm: float) -> Box:
    """The true voxels' bounding box, widened on each side and clipped to the image.

    ``spacing_mm`` in the order of the mask's axes. A margin that ends within a voxel takes all of
    it. Everything where nothing is true.
    """
    if not mask.any():
        return tuple(slice(0, size) for size in mask.shape)
    box = []
    for axis, (size, step) in enumerate(zip(mask.shape, spacing_mm, strict=True)):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        # rounded first: of spacings like 0.29999998 no voxel more is wanted
        margin = math.ceil(round(margin_mm / step, 3))
        start = max(int(filled[0]) - margin, 0)
        box.append(slice(start, min(int(filled[-1]) + margin + 1, size)))
    return tuple(box)


def cut_affine(affine: NDArray[Any], box: Box) -> NDArray[Any]:
    """The voxel-to-world matrix (4 x 4) of an image cut to ``box``: no voxel moves in the world."""
    out = np.array(affine)
    out[:3, 3] += out[:3, :3] @ [side.start for side in box]
    return out
