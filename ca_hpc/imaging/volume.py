"""A NIfTI file in memory, and back: read once, hashed on the way, checked to the end of its gzip.

nibabel stops where the voxels end, and so takes a file that was cut off right behind them; of a
scaled file it makes float64. Headers are its own all the same.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ca_hpc.imaging.bad_case import BadCase
from ca_hpc.imaging.crop import cut_affine
from ca_hpc.imaging.hashed_file import HashedFile

SLAB_BYTES: Final = 1 << 22
# what nnU-Net's reader (SimpleITK) takes as it is, and float32 would only make larger
KEPT: Final = {np.dtype(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "float32")}
# ITK scales by this unit and nibabel does not: the two would see images of different sizes
NOT_MM: Final = {1: "metres", 3: "micrometres"}
HEADERS: Final = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


@dataclass(frozen=True, slots=True)
class Volume:
    """Voxels as stored, and where they lie.

    ``voxels``: axes (x, y, z); values are ``voxels * slope + intercept``. ``affine``: voxel to
    world (RAS+, mm), 4 x 4. ``sha256``: of the file's bytes.
    """

    path: Path
    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    sha256: str
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        x, y, z = self.voxels.shape
        return x, y, z

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type where it holds the values and nnU-Net reads it; else float32."""
        stored = self.voxels.dtype.newbyteorder("=")
        return stored if stored in KEPT and not self._scaled else np.dtype(np.float32)

    @property
    def _scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)

    def slabs(self, box: tuple[slice, ...] = ()) -> Iterator[NDArray[Any]]:
        """The values in ``box`` as ``dtype``: some planes at a time, flat, the first axis fastest.

        That is NIfTI's order. Planes, since a whole copy would be what takes most memory.
        """
        turned = self.voxels[box].T
        step = max(1, SLAB_BYTES // max(1, turned[0].size * self.dtype.itemsize))
        for start in range(0, len(turned), step):
            part = turned[start : start + step]
            if self._scaled:  # in float64, to be rounded once
                part = part * np.float64(self.slope) + np.float64(self.intercept)
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, is told
                yield np.ascontiguousarray(part, dtype=self.dtype).reshape(-1)

    def values(self) -> NDArray[Any]:
        """All values, axes (x, y, z). Raises BadCase for NaN and infinite ones."""
        values = self.voxels
        if self._scaled:
            values = np.concatenate(list(self.slabs())).reshape(self.shape, order="F")
        # min and max hand NaN on, and make no array of the image's size
        if values.dtype.kind == "f" and not np.isfinite([values.min(), values.max()]).all():
            raise not_finite(self.path)
        return values


def not_finite(path: Path) -> BadCase:
    """The error for NaN and infinite values."""
    return BadCase(f"{path}: holds NaN or infinite values", hint="repair or exclude it")


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file, compressed or not, to its end. Raises BadCase.

    Refused are colours, complex values, more than three dimensions, and units other than mm.
    """
    try:
        with path.open("rb") as stream:
            return _read(HashedFile(stream, size=path.stat().st_size), path)
    except (BadCase, MemoryError):
        raise
    except Exception as error:  # whatever zlib, nibabel and numpy raise over broken bytes
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadCase(f"{path}: cannot be read ({reason})", hint="fetch or repair it") from error


def _read(file: HashedFile, path: Path) -> Volume:
    start = file.take(4)
    sizes = {int.from_bytes(start, order): order for order in ("little", "big")}
    length = next((size for size in HEADERS if size in sizes), None)
    if length is None:
        raise ValueError("it is no NIfTI file")
    header = HEADERS[length](bytes(start + file.take(length - 4)))
    if not bytes(header["magic"]).startswith(b"n+"):
        raise ValueError("it is a header, its voxels are in another file")
    dtype = header.get_data_dtype()
    _check_header(header, path)
    shape = _shape(header, path)
    file.take(int(header.get_data_offset()) - length)
    count = int(np.prod(shape, dtype=object)) * dtype.itemsize
    voxels = np.frombuffer(file.take(count), dtype).reshape(shape, order="F")
    slope, intercept = header.get_slope_inter()
    return Volume(
        path,
        voxels,
        affine=header.get_best_affine(),
        sha256=file.sha256(),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
    )


def _check_header(header: Any, path: Path) -> None:
    dtype = header.get_data_dtype()
    if dtype.names is not None:
        raise BadCase(f"{path}: is a colour image", hint="give a grey-scale image")
    if dtype.kind == "c":
        raise BadCase(f"{path}: has complex values", hint="give the magnitude image")
    forms = {name: int(header[f"{name}_code"]) for name in ("qform", "sform")}
    if not any(forms.values()):
        raise BadCase(
            f"{path}: its header does not say how it lies (qform and sform codes are 0)",
            hint="set its sform from the original image",
        )
    if all(forms.values()):
        # nibabel and SCT believe the sform, other tools the qform
        axes = [nib.aff2axcodes(header.get_qform()), nib.aff2axcodes(header.get_sform())]
        if axes[0] != axes[1]:
            raise BadCase(
                f"{path}: its qform and its sform are of different orientations",
                hint="find out which one is right, and set the other to it",
            )
    unit = int(header["xyzt_units"]) % 8  # the lower three bits are of space
    if unit in NOT_MM:
        raise BadCase(f"{path}: its header is in {NOT_MM[unit]}", hint="write it in mm")


def _shape(header: Any, path: Path) -> tuple[int, int, int]:
    shape = [int(size) for size in header.get_data_shape()]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3:
        raise BadCase(f"{path}: has {len(shape)} dimensions, 3 are needed", hint="split it first")
    if min(shape) < 1:
        raise ValueError(f"its shape is {tuple(shape)}")
    if sum(size > 1 for size in shape) < 2:
        raise BadCase(f"{path}: shape {tuple(shape)} is a line of voxels", hint="give an image")
    return shape[0], shape[1], shape[2]


def write_volume(path: Path, volume: Volume, box: tuple[slice, ...] = ()) -> None:
    """Write what is in ``box`` of a volume, gzipped; the same voxels give the same bytes.

    qform and sform both say where the box lies. Raises OSError.
    """
    affine = cut_affine(volume.affine, box) if box else volume.affine
    header = nib.Nifti1Header()
    header.set_data_dtype(volume.dtype)
    header.set_data_shape(volume.voxels[box].shape)
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["magic"] = b"n+1"
    header.set_data_offset(header.single_vox_offset)
    header.set_slope_inter(1, 0)
    no_extensions = bytes(header.single_vox_offset - header.sizeof_hdr)
    # level 1 as nibabel's; neither a name nor a time in the header
    with (
        path.open("wb") as stream,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=stream, mtime=0) as zipped,
    ):
        zipped.write(header.binaryblock + no_extensions)
        for slab in volume.slabs(box):
            zipped.write(slab.data)
