"""Whether a file is an image that was signed after it was recorded, and nothing else.

``apptainer sign`` (1.4.5) appends a signature, fills a free row of the table of parts, and changes
three numbers of the header. Taken back, that gives the file from before, to the byte: so one
digest tells a signature from any other change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from ca_hpc.errors import CaHpcError
from ca_hpc.store.sif import DESCRIPTOR, HEADER, SIGNATURE, Part, read_parts

_CHUNK: Final = 1 << 20


def signed_since(sif: Path, *, sha256: str, size_bytes: int) -> bool:
    """Whether ``sif``, without signatures at its end, is the file of this digest and size.

    False also for a file that is no SIF. Raises OSError.
    """
    try:
        with sif.open("rb") as stream:
            return _before(stream, sif, size=size_bytes) == sha256
    except CaHpcError:
        return False


def _before(stream: BinaryIO, sif: Path, *, size: int) -> str | None:
    """The sha256 of the file as it was when it had ``size`` bytes; None if more was added."""
    parts = read_parts(stream, sif)
    added = [part for part in parts if part.kind == SIGNATURE and part.offset >= size]
    if not _fill(added, start=size, end=stream.seek(0, 2)):
        return None
    start = _start(stream, parts, added=added, size=size)
    digest = hashlib.sha256(start)
    stream.seek(len(start))
    left = size - len(start)
    while left > 0 and (chunk := stream.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _fill(parts: Iterable[Part], *, start: int, end: int) -> bool:
    """Whether parts lie one behind the other from ``start`` to ``end``, with nothing between."""
    place = start
    for part in sorted(parts, key=lambda part: part.offset):
        if part.offset != place:
            return False
        place += part.size
    return place == end


def _start(stream: BinaryIO, parts: Iterable[Part], *, added: list[Part], size: int) -> bytes:
    """Header and table of the file as it was."""
    stream.seek(0)
    header = HEADER.unpack(stream.read(HEADER.size))
    *fixed, created, _, free, total, table, table_size, data, _ = header
    stream.seek(0)
    found = bytearray(stream.read(table + table_size))
    for part in added:
        found[part.row : part.row + DESCRIPTOR.size] = bytes(DESCRIPTOR.size)
    # the header's time is that of the last part that was put in
    modified = max([created, *(part.modified for part in parts if part not in added)])
    numbers = (created, modified, free + len(added), total, table, table_size, data, size - data)
    HEADER.pack_into(found, 0, *fixed, *numbers)
    return bytes(found)
