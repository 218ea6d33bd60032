"""Where in a SIF its file system lies.

Layout: https://github.com/apptainer/sif, pkg/sif/sif.go (version 01, little-endian, packed).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ca_hpc.errors import CaHpcError

MAGIC: Final = b"SIF_MAGIC\0"
# launch script, magic, version, architecture, id, created, modified; descriptors: free, total,
# offset, bytes; data: offset, bytes
_HEADER: Final = struct.Struct("<32s10s3s3s16sqqqqqqqq")
# type, used, id, group, link, offset, bytes; then padded size, times, owner, name; then, for a
# partition, file system and role
_DESCRIPTOR: Final = struct.Struct("<i?IIIqq168xii376x")
_PARTITION: Final = 0x4004
_PRIMARY_SYSTEM: Final = 2
_SQUASHFS: Final = 1


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a file. ``offset`` and ``size`` in bytes."""

    offset: int
    size: int
    squashfs: bool


def system_partition(sif: Path) -> Partition:
    """The partition that ``apptainer exec`` runs.

    Raises CaHpcError for a file that is no SIF, has none, or is shorter than its header says.
    """
    try:
        with sif.open("rb") as stream:
            return _read(stream, sif)
    except OSError as error:
        raise CaHpcError(f"{sif}: {error.strerror}") from error


def _read(stream: BinaryIO, sif: Path) -> Partition:
    length = os.fstat(stream.fileno()).st_size
    start = stream.read(_HEADER.size)
    if start[32:42] != MAGIC:
        raise CaHpcError(f"{sif} is not a SIF", hint="build an image: ca-hpc image build")
    if len(start) < _HEADER.size:
        raise _cut_off(sif, length=length, wanted=_HEADER.size)
    *_, total, table, table_size, data, data_size = _HEADER.unpack(start)
    wanted = max(table + table_size, data + data_size)
    if length < wanted:
        raise _cut_off(sif, length=length, wanted=wanted)
    stream.seek(table)
    for _ in range(total):
        entry = stream.read(_DESCRIPTOR.size)
        if len(entry) < _DESCRIPTOR.size:
            break
        kind, used, _, _, _, offset, size, filesystem, role = _DESCRIPTOR.unpack(entry)
        if used and kind == _PARTITION and role == _PRIMARY_SYSTEM:
            if length < offset + size:
                raise _cut_off(sif, length=length, wanted=offset + size)
            return Partition(offset, size, squashfs=filesystem == _SQUASHFS)
    raise CaHpcError(f"{sif} has no system partition", hint="build it again: ca-hpc image build")


def _cut_off(sif: Path, *, length: int, wanted: int) -> CaHpcError:
    return CaHpcError(
        f"{sif} is cut off: {length} bytes, its header says {wanted}",
        hint="copy or build the image again",
    )
