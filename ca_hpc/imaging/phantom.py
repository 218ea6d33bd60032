"""Images of a phantom: an anatomy as a scanner shows it in a given contrast.

The tissues are sampled on a grid finer than the voxels and averaged (partial volume), then weighted
by a coil profile and given Rician noise. Nothing is interpolated, so an image and its label fit at
any spacing and angle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ca_hpc.imaging.anatomy import Anatomy, Floats, Tissue, tissues
from ca_hpc.imaging.orientation import to_orientation


@dataclass(frozen=True)
class Contrast:
    """How one kind of image looks. Spacing and field of view in mm, in the order RL, AP, SI."""

    signal: Mapping[Tissue, float]
    spacing: tuple[float, float, float]
    field_of_view: tuple[float, float, float]
    orientations: tuple[str, ...]  # stored orders found in real data, SCT codes
    noise: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along RL, AP, SI."""
        x, y, z = (
            round(mm / step) for mm, step in zip(self.field_of_view, self.spacing, strict=True)
        )
        return x, y, z


def _signal(*values: float) -> Mapping[Tissue, float]:
    return dict(zip(Tissue, values, strict=True))


# muscle, fat, air, ligament, marrow, disc, vessel, CSF, white and grey matter. Relative brightness
# as in spoiled gradient echo (T1w), turbo spin echo (T2w) and multi-echo gradient echo (T2starw).
CONTRASTS: Final[Mapping[str, Contrast]] = {
    "T1w": Contrast(
        signal=_signal(260, 460, 15, 50, 210, 300, 330, 110, 430, 380),
        spacing=(1.2, 1.2, 1.2),
        field_of_view=(48, 64, 84),
        orientations=("LPI", "RPI", "AIL"),
        noise=24,
    ),
    "T2w": Contrast(
        signal=_signal(130, 330, 15, 35, 170, 240, 260, 820, 330, 380),
        spacing=(2.0, 1.0, 1.0),  # sagittal, thick from left to right
        field_of_view=(48, 62, 80),
        orientations=("AIL", "PIR", "RPI"),
        noise=22,
    ),
    "T2starw": Contrast(
        signal=_signal(300, 240, 15, 45, 110, 330, 700, 650, 390, 490),
        spacing=(0.8, 0.8, 3.0),  # axial, thick from top to bottom
        field_of_view=(44, 52, 84),
        orientations=("RPI", "RAI", "LPI"),
        noise=26,
    ),
}


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        cos, sin = np.cos(angle), np.sin(angle)
        turn[[i, i, j, j], [i, j, i, j]] = cos, -sin, sin, cos
        result = turn @ result
    return result


def _rpi_affine(contrast: Contrast, rng: np.random.Generator) -> NDArray[np.float64]:
    """A slightly oblique RPI affine whose field of view shows the cord off its middle."""
    rotation = _rotation(rng.uniform(-4, 4, size=3))
    centre = rng.uniform(-3, 3, size=3)
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1, 1, 1]) @ np.diag(contrast.spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(contrast.shape) - 1) / 2)
    return affine


def _subvoxels(spacing: tuple[float, float, float]) -> Iterator[tuple[float, float, float]]:
    """Offsets within a voxel, in voxels, at most 0.75 mm apart along each axis."""
    counts = [int(np.ceil(step / 0.75)) for step in spacing]
    x, y, z = ([(i + 0.5) / n - 0.5 for i in range(n)] for n in counts)
    yield from product(x, y, z)


def _sample(
    anatomy: Anatomy, contrast: Contrast, *, affine: NDArray[np.float64]
) -> tuple[Floats, Floats]:
    """Mean signal and fraction of cord of each voxel, arrays of ``contrast.shape`` (RL, AP, SI)."""
    signal = np.array([contrast.signal[tissue] for tissue in Tissue], dtype=np.float32)
    is_cord = np.isin(list(Tissue), [Tissue.WHITE_MATTER, Tissue.GREY_MATTER]).astype(np.float32)
    voxels = np.indices(contrast.shape).reshape(3, -1)
    centres = (affine[:3, :3] @ voxels + affine[:3, 3:]).astype(np.float32)
    mean, cord = np.zeros((2, *contrast.shape), dtype=np.float32)
    offsets = tuple(_subvoxels(contrast.spacing))
    for offset in offsets:
        step = (affine[:3, :3] @ offset).astype(np.float32)
        found = tissues(anatomy, centres + step[:, None]).reshape(contrast.shape)
        mean += signal[found] / len(offsets)
        cord += is_cord[found] / len(offsets)
    return mean, cord


def _scan(mean: Floats, rng: np.random.Generator, *, noise: float) -> NDArray[np.int16]:
    """What a scanner makes of the ideal ``mean`` signal (RL, AP, SI): texture, coil, noise."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in mean.shape), indexing="ij")
    texture = np.ones(mean.shape)
    for wave in rng.normal(0, 9, size=(6, 3)):
        texture += 0.012 * np.cos(wave[0] * x + wave[1] * y + wave[2] * z + rng.uniform(0, 6.3))
    # the neck's receive coil lies behind: brighter there, and falling off to both ends
    tilt = rng.uniform(-0.15, 0.15, size=2)
    coil = np.exp(tilt[0] * x - rng.uniform(0.15, 0.4) * y + tilt[1] * z - 0.25 * z**2)
    ideal = mean * texture * coil
    real, imaginary = rng.normal(0, noise, size=(2, *mean.shape))
    gain = rng.uniform(0.7, 1.4)
    scanned: NDArray[np.int16] = np.rint(gain * np.hypot(ideal + real, imaginary)).astype(np.int16)
    return scanned


def phantom(
    anatomy: Anatomy, contrast: Contrast, *, rng: np.random.Generator, orientation: str
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """An image (int16) and its cord label (uint8, 1 in voxels at least half cord).

    Both are stored in the SCT ``orientation``, slightly oblique, in mm.
    """
    affine = _rpi_affine(contrast, rng)
    varied = {tissue: level * rng.uniform(0.92, 1.08) for tissue, level in contrast.signal.items()}
    mean, cord = _sample(anatomy, replace(contrast, signal=varied), affine=affine)
    scanned = _scan(mean, rng, noise=contrast.noise)
    image, label = (
        to_orientation(_nifti(values, affine), orientation)
        for values in (scanned, (cord >= 0.5).astype(np.uint8))
    )
    return image, label


def _nifti(values: NDArray[Any], affine: NDArray[np.float64]) -> nib.Nifti1Image:
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    return image
