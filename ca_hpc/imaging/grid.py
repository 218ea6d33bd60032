"""Where the voxels of an image lie: in RPI, on one grid, along axes at right angles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from ca_hpc.core.profile import ORIENTATION
from ca_hpc.imaging.bad_case import BadCase
from ca_hpc.imaging.orientation import nibabel_axcodes
from ca_hpc.imaging.volume import Volume

# outside, the header is in other units than mm, and no tolerance of ours means anything
VOXEL_MM: Final = (1e-2, 1e2)
# Two axes whose directions have a larger scalar product are not orthonormal to ITK, nnU-Net's
# reader: it takes the qform instead, which has no shear (5.4: 1e-4 is read, 3e-4 no more)
SHEAR: Final = 5e-5


def in_rpi(volume: Volume) -> Volume:
    """``volume`` with its axes flipped and permuted to RPI: a view, nothing is resampled.

    Raises BadCase for an affine that places no image.
    """
    _check_affine(volume.affine, volume.path)
    here = io_orientation(volume.affine)
    return _reordered(volume, ornt_transform(here, axcodes2ornt(nibabel_axcodes(ORIENTATION))))


def onto_grid(grid: Volume, volume: Volume, *, tolerance_mm: float) -> Volume:
    """``volume`` with its axes flipped and permuted to those of ``grid``.

    Raises BadCase where it then lies elsewhere by more than ``tolerance_mm``.
    """
    _check_affine(volume.affine, volume.path)
    # from voxels to voxels, since of an image at 45 degrees the nearest world axis is a matter of
    # rounding: image and label could be turned differently
    turned = _reordered(volume, io_orientation(np.linalg.inv(grid.affine) @ volume.affine))
    hint = f"bring it onto the grid of {grid.path} (no registration is done here)"
    if grid.shape != turned.shape:
        raise BadCase(
            f"{volume.path}: shape {turned.shape} in RPI is not the image's {grid.shape}",
            hint=hint,
        )
    beside = _distance(grid.affine, turned.affine, grid.shape)
    if beside > tolerance_mm:
        raise BadCase(f"{volume.path}: lies {beside:.2f} mm beside its image", hint=hint)
    return turned


def orthonormal(volume: Volume, *, tolerance_mm: float) -> NDArray[np.float64]:
    """The affine of ``volume`` as nnU-Net's reader will understand it.

    Axes that are off the right angle by a rounding are put right about the image's centre. Raises
    BadCase where that would move a corner by more than ``tolerance_mm``.
    """
    shear = _shear(volume.affine)
    if shear <= SHEAR:
        return volume.affine
    mended = _orthogonal(volume.affine, volume.shape)
    moved = _distance(volume.affine, mended, volume.shape)
    if moved > tolerance_mm:
        raise BadCase(
            f"{volume.path}: direction cosines are not orthonormal: axes "
            f"{np.degrees(np.arcsin(shear)):.2g} degrees off the right angle, "
            f"{moved:.2g} mm at the corners",
            hint="resample the image to a grid without shear, or repair its header",
        )
    return mended


def _reordered(volume: Volume, transform: NDArray[Any]) -> Volume:
    return replace(
        volume,
        voxels=apply_orientation(volume.voxels, transform),
        affine=volume.affine @ inv_ornt_aff(transform, volume.shape),
    )


def _distance(one: NDArray[Any], other: NDArray[Any], shape: Sequence[int]) -> float:
    """How far apart two grids of ``shape`` are, in mm, at their farthest corners."""
    corners = np.array(list(product(*((0, size - 1) for size in shape))))
    apart = apply_affine(one, corners) - apply_affine(other, corners)
    return float(np.linalg.norm(apart, axis=1).max())


def _check_affine(affine: NDArray[Any], path: Path) -> None:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    least, most = VOXEL_MM
    if not np.isfinite(affine).all() or not ((least <= sizes) & (sizes <= most)).all():
        told = " x ".join(f"{size:g}" for size in sizes)
        raise BadCase(
            f"{path}: voxels of {told} mm: its header (sform or qform) is wrong or not in mm",
            hint="repair the header",
        )
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise BadCase(f"{path}: two voxel axes have one direction", hint="repair the header")


def _shear(affine: NDArray[Any]) -> float:
    """The largest scalar product of two axes' directions: 0 where all are at right angles."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def _orthogonal(affine: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """The nearest affine without shear, of the same voxel sizes and centre."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / sizes)
    out = np.eye(4)
    out[:3, :3] = (left @ right) * sizes
    centre = (np.array(shape) - 1) / 2
    out[:3, 3] = apply_affine(affine, centre) - out[:3, :3] @ centre
    return out
