"""A SIF's header, field by field as in the format's documentation."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

TABLE: Final = 4096
DESCRIPTOR_BYTES: Final = 585
DEFINITION, PARTITION, SIGNATURE = 0x4001, 0x4004, 0x4005
SQUASHFS, EXT3 = 1, 2
DATA, PRIMARY = 3, 2
OFFSET, SIZE = 40960, 5000  # of the system partition


def descriptor(
    kind: int, *, offset: int, size: int, used: bool = True, filesystem: int = 0, role: int = 0
) -> bytes:
    """One row of the table of parts."""
    fields = struct.pack("<i?IIIqqq", kind, used, 1, 1, 0, offset, size, size)
    fields += bytes(4 * 8) + b"name".ljust(128, b"\0")  # created, modified, user, group; name
    return (fields + struct.pack("<ii3s", filesystem, role, b"02\0")).ljust(DESCRIPTOR_BYTES, b"\0")


SYSTEM: Final = descriptor(PARTITION, offset=OFFSET, size=SIZE, filesystem=SQUASHFS, role=PRIMARY)


def write_sif(file: Path, *descriptors: bytes, contents: bytes = b"") -> Path:
    """Write a file with these parts; without any, with a system partition and room for two more.

    ``contents``: what lies at ``OFFSET``, where zeros follow up to ``SIZE``.
    """
    free = 0 if descriptors else 2
    table = b"".join(descriptors or (SYSTEM, *[bytes(DESCRIPTOR_BYTES)] * free))
    data = TABLE + len(table)
    header = (
        b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0" + b"01\0" + b"02\0"
    )
    header += bytes(16 + 2 * 8)  # id, created, modified
    count = len(table) // DESCRIPTOR_BYTES
    header += struct.pack("<6q", free, count, TABLE, len(table), data, OFFSET + SIZE - data)
    assert len(contents) <= SIZE
    before = (header.ljust(TABLE, b"\0") + table).ljust(OFFSET, b"\0")
    file.write_bytes(before + contents.ljust(SIZE, b"\0"))
    return file


def add_part(file: Path, kind: int, content: bytes = b"signed by lab", *, role: int = 0) -> Path:
    """As ``apptainer sign`` and ``apptainer sif add`` do, a second after the last time."""
    found = bytearray(file.read_bytes())
    created, modified, free, total, table, size, data, _ = struct.unpack_from("<8q", found, 64)
    row = table + (total - free) * DESCRIPTOR_BYTES
    part = descriptor(kind, offset=len(found), size=len(content), filesystem=EXT3, role=role)
    found[row : row + DESCRIPTOR_BYTES] = part
    struct.pack_into("<2q", found, row + 41, modified + 1, modified + 1)
    found += content
    numbers = (created, modified + 1, free - 1, total, table, size, data, len(found) - data)
    struct.pack_into("<8q", found, 64, *numbers)
    file.write_bytes(found)
    return file


def contents_of(file: Path) -> bytes:
    """What was given to ``write_sif``, without zeros at its end."""
    return file.read_bytes()[OFFSET : OFFSET + SIZE].rstrip(b"\0")
