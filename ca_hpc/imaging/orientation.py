"""Orientation codes in the Spinal Cord Toolbox's convention, and reorienting without resampling.

The same three letters mean opposite things in two places: SCT (and DICOM users) say where an axis
comes FROM, nibabel where it goes TO. SCT ``RPI`` is nibabel ``('L', 'A', 'S')``
(spinalcordtoolbox/image.py, ``get_orientation``). Codes in this package are always SCT's.
"""

from __future__ import annotations

from typing import Any, Final

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from ca_hpc.errors import CaHpcError

OPPOSITE: Final = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
WORLD_AXES: Final = ({"R", "L"}, {"A", "P"}, {"S", "I"})


def nibabel_axcodes(code: str) -> tuple[str, str, str]:
    """The nibabel axis codes of the SCT orientation ``code``, e.g. ``('L', 'A', 'S')`` for ``RPI``.

    Raises CaHpcError if ``code`` does not name each world axis once.
    """
    if len(code) != 3 or any(len(axis & set(code)) != 1 for axis in WORLD_AXES):
        raise CaHpcError(
            f"{code!r} is not an orientation",
            hint="use one letter each of R/L, A/P and S/I, in the order of the array's axes: RPI",
        )
    first, second, third = (OPPOSITE[letter] for letter in code)
    return first, second, third


def sct_orientation(affine: NDArray[Any]) -> str:
    """The SCT orientation code of a 4 x 4 voxel-to-world ``affine`` (RAS+ mm), e.g. ``RPI``.

    Of an oblique affine it is the nearest one. Raises CaHpcError if the affine drops an axis.
    """
    axcodes = aff2axcodes(affine)
    if None in axcodes:
        raise CaHpcError(
            f"an affine with a voxel axis of no direction: {np.asarray(affine).tolist()}",
            hint="repair the header (sform or qform) of this image",
        )
    return "".join(OPPOSITE[letter] for letter in axcodes)


def to_orientation(image: nib.Nifti1Image, code: str) -> nib.Nifti1Image:
    """``image`` with its array axes flipped and permuted to the SCT orientation ``code``.

    Nothing is resampled: each value keeps its world coordinate, in sform and qform, and the stored
    type. Only a file with a scale factor becomes float64, for its values could not be kept
    otherwise. Axes after the third (time, channels) stay. Raises CaHpcError for a bad ``code``.
    """
    transform = ornt_transform(io_orientation(image.affine), axcodes2ornt(nibabel_axcodes(code)))
    oriented = image.as_reoriented(transform)
    if oriented is image:
        return image
    if (getattr(image.dataobj, "slope", 1), getattr(image.dataobj, "inter", 0)) != (1, 0):
        oriented.set_data_dtype(np.float64)
    _carry_forms(image, oriented, voxel_map=inv_ornt_aff(transform, image.shape[:3]))
    return oriented


def _carry_forms(
    source: nib.Nifti1Image, target: nib.Nifti1Image, *, voxel_map: NDArray[Any]
) -> None:
    """Give ``target`` the sform and qform of ``source``, seen from the new voxel axes.

    nibabel alone would drop the qform and call every sform "aligned".
    """
    qform, qcode = source.get_qform(coded=True)
    sform, scode = source.get_sform(coded=True)
    if scode or qcode:
        target.set_sform(None if sform is None else sform @ voxel_map, code=int(scode))
        target.set_qform(None if qform is None else qform @ voxel_map, code=int(qcode))
