"""What lies where in a SIF.

Layout: https://github.com/apptainer/sif, pkg/sif/sif.go (version 01, little-endian, packed).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ca_hpc.errors import CaHpcError

MAGIC: Final = b"SIF_MAGIC\0"
# launch script, magic, version, architecture, id; created, modified; descriptors: free, total,
# offset, bytes; data: offset, bytes
HEADER: Final = struct.Struct("<32s10s3s3s16sqqqqqqqq")
# type, used, id, group, link, offset, bytes; padded size, created, modified, owner, name; then, for
# a partition, file system and role
DESCRIPTOR: Final = struct.Struct("<i?IIIqq8x8xq144xii376x")
PARTITION: Final = 0x4004
SIGNATURE: Final = 0x4005
_PRIMARY_SYSTEM: Final = 2
_SQUASHFS: Final = 1
_HEAD_BYTES: Final = 1 << 20  # at most, by far; Apptainer's tables take 28 kB


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a file. ``offset`` and ``size`` in bytes."""

    offset: int
    size: int
    squashfs: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A row of the table that is in use, at byte ``row``. ``modified``: seconds since the epoch."""

    row: int
    kind: int
    offset: int
    size: int
    modified: int
    filesystem: int
    role: int


def system_partition(sif: Path) -> Partition:
    """The partition that ``apptainer exec`` runs.

    Raises CaHpcError for a file that is no SIF, has none, or is shorter than its header says.
    """
    try:
        with sif.open("rb") as stream:
            length = os.fstat(stream.fileno()).st_size
            parts = read_parts(stream, sif)
    except OSError as error:
        raise CaHpcError(f"{sif}: {error.strerror}") from error
    for part in parts:
        if part.kind == PARTITION and part.role == _PRIMARY_SYSTEM:
            if length < part.offset + part.size:
                raise _cut_off(sif, length=length, wanted=part.offset + part.size)
            return Partition(part.offset, part.size, squashfs=part.filesystem == _SQUASHFS)
    raise CaHpcError(f"{sif} has no system partition", hint="build it again: ca-hpc image build")


def read_parts(stream: BinaryIO, sif: Path) -> tuple[Part, ...]:
    """What a SIF consists of. Raises CaHpcError as :func:`system_partition`, and OSError."""
    length = os.fstat(stream.fileno()).st_size
    start = stream.read(HEADER.size)
    if start[32:42] != MAGIC:
        raise CaHpcError(f"{sif} is not a SIF", hint="build an image: ca-hpc image build")
    if len(start) < HEADER.size:
        raise _cut_off(sif, length=length, wanted=HEADER.size)
    *_, free, total, table, table_size, data, data_size = HEADER.unpack(start)
    ordered = HEADER.size <= table <= table + table_size <= data <= data + data_size
    if not ordered or data > _HEAD_BYTES or not 0 <= free <= total <= _HEAD_BYTES:
        raise _damaged(sif)
    wanted = data + data_size
    if length < wanted:
        raise _cut_off(sif, length=length, wanted=wanted)
    stream.seek(table)
    parts = tuple(_parts(stream.read(table_size), table=table))
    if any(part.offset < 0 or part.size < 0 for part in parts):
        raise _damaged(sif)
    return parts


def _parts(rows: bytes, *, table: int) -> Iterator[Part]:
    for place in range(0, len(rows) - DESCRIPTOR.size + 1, DESCRIPTOR.size):
        kind, used, _, _, _, *numbers = DESCRIPTOR.unpack_from(rows, place)
        if used:
            yield Part(table + place, kind, *numbers)


def _damaged(sif: Path) -> CaHpcError:
    return CaHpcError(f"{sif} has a damaged header", hint="copy or build the image again")


def _cut_off(sif: Path, *, length: int, wanted: int) -> CaHpcError:
    return CaHpcError(
        f"{sif} is cut off: {length} bytes, its header says {wanted}",
        hint="copy or build the image again",
    )
