"""A case as nnU-Net wants it: image and label in SCT's RPI, on one grid, labels as integers.

If wanted, both are cut to the surroundings of one label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes

from ca_hpc.core.profile import ORIENTATION
from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.crop import Box, Surroundings, crop_box, cut_affine
from ca_hpc.imaging.orientation import sct_orientation, to_orientation

GRID_TOLERANCE_MM = 1e-2  # headers written by different tools differ by rounding
# outside, the header is in other units than mm, and no tolerance of ours means anything
VOXEL_MM = (1e-2, 1e2)


class BadCase(CaHpcError):
    """An image or label that cannot be used. The message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What was found about a case: its orientation and spacing (mm) as stored, its label's size.

    ``crop``: start and stop, by axis (RL, AP, SI), of the voxels kept of the image in RPI; None if
    it is whole. ``label_voxels_lost``: how many of ``label_voxels`` were cut off.
    """

    case: str
    orientation: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    label_voxels: int
    crop: tuple[tuple[int, int], ...] | None = None
    label_voxels_lost: int = 0

    @property
    def cropped(self) -> bool:
        """Whether the image was cut to the surroundings of a label."""
        return self.crop is not None


def convert_case(
    case: Case,
    *,
    images: Path,
    labels: Path,
    values: Mapping[str, int],
    keep: Surroundings | None = None,
) -> Converted:
    """Write ``images/CASE_0000.nii.gz …`` and ``labels/CASE.nii.gz``, both in RPI.

    Images become float32. A label map with one value is binarised at 0.5 (manual masks are often
    stored soft or as 0/255-like floats); with several, the values must be the expected ones. Both
    are cut to what is to ``keep``; a case without that label stays whole. Raises BadCase.
    """
    first: nib.Nifti1Image | None = None
    channels: list[nib.Nifti1Image] = []
    for file in case.images:
        image = _load(Path(file))
        first = first or image
        _same_grid(first, image, Path(file))
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told
            array = np.asanyarray(image.dataobj).astype(np.float32)
        if not np.isfinite(array).all():
            raise BadCase(f"{file}: holds NaN or infinite values", hint="repair or exclude it")
        channels.append(to_orientation(_image(array, image.affine), ORIENTATION))
    assert first is not None
    label = to_orientation(_load(Path(case.label)), ORIENTATION)
    _same_grid(channels[0], label, Path(case.label))
    mask = _values(np.asanyarray(label.dataobj), values, Path(case.label))
    # on the grid of the first channel to the bit: nnU-Net refuses headers that differ by 1e-10
    affine, kept = channels[0].affine, mask
    box: Box = ()  # the whole image
    if keep is not None and (inside := mask == keep.value).any():
        box = crop_box(inside, voxel_sizes(affine), margin_mm=keep.margin_mm)
        affine, kept = cut_affine(affine, box), mask[box]
    for number, channel in enumerate(channels):
        out = _image(np.asanyarray(channel.dataobj)[box], affine)
        nib.save(out, images / f"{case.id}_{number:04d}.nii.gz")
    nib.save(_image(kept, affine), labels / f"{case.id}.nii.gz")
    zooms = tuple(round(float(z), 4) for z in first.header.get_zooms()[:3])
    return Converted(
        case=case.id,
        orientation=sct_orientation(first.affine),
        spacing_mm=zooms,  # type: ignore[arg-type]
        shape=tuple(int(n) for n in first.shape),  # type: ignore[arg-type]
        label_voxels=int((mask > 0).sum()),
        crop=tuple((side.start, side.stop) for side in box) if box else None,
        label_voxels_lost=int((mask > 0).sum() - (kept > 0).sum()),
    )


def _load(path: Path) -> nib.Nifti1Image:
    try:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel passes on whatever zlib, struct and numpy raise
        reason = str(error) or type(error).__name__
        raise BadCase(f"{path}: cannot be read ({reason})", hint="fetch or repair it") from error
    if data.dtype.names is not None:
        raise BadCase(f"{path}: is a colour image", hint="give a grey-scale image")
    if data.dtype.kind == "c":
        raise BadCase(f"{path}: has complex values", hint="give the magnitude image")
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise BadCase(f"{path}: has {data.ndim} dimensions, 3 are needed", hint="split it first")
    _check_affine(image.affine, path)
    return nib.Nifti1Image(data, image.affine, image.header)


def _check_affine(affine: np.ndarray, path: Path) -> None:
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


def _image(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """``array`` with ``affine`` as its qform and its sform, in its own data type."""
    out = nib.Nifti1Image(array, affine)
    out.set_qform(affine, code=1)
    out.set_sform(affine, code=1)
    out.header.set_xyzt_units("mm")
    return out


def _same_grid(image: nib.Nifti1Image, other: nib.Nifti1Image, file: Path) -> None:
    if image.shape != other.shape:
        raise BadCase(
            f"{file}: shape {other.shape} is not the image's {image.shape}",
            hint="bring the label onto the image's grid (no registration is done here)",
        )
    corners = np.array([[0, 0, 0], [n - 1 for n in image.shape]])
    there, here = (apply_affine(i.affine, corners) for i in (image, other))
    worst = float(np.abs(there - here).max())
    if worst > GRID_TOLERANCE_MM:
        raise BadCase(
            f"{file}: lies {worst:.2f} mm beside its image",
            hint="bring the label onto the image's grid (no registration is done here)",
        )


def _values(array: np.ndarray, values: Mapping[str, int], file: Path) -> np.ndarray:
    if not np.isfinite(array).all():
        raise BadCase(f"{file}: holds NaN or infinite values", hint="repair or exclude it")
    if len(values) == 1:
        inside = array > 0.5
        if inside.all() or (array.any() and not inside.any()):
            told = "every" if inside.all() else "no"
            raise BadCase(
                f"{file}: {told} voxel is above 0.5 (values {array.min():g} to {array.max():g})",
                hint="is it a mask? Name the file that is one, or rescale it to 0 to 1",
            )
        return np.where(inside, np.uint8(next(iter(values.values()))), np.uint8(0))
    found = {float(v) for v in np.unique(array)}
    strange = sorted(found - {0.0, *map(float, values.values())})
    if strange:
        raise BadCase(
            f"{file}: values {strange[:5]} are not among {dict(values)}",
            hint="name them under `labels:`, or repair the file",
        )
    return array.astype(np.uint8)
