"""Zip files of others: opened only when nothing in them can reach outside or blow up."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError

# What zipfile raises for a damaged file, beside OSError where it seeks to nonsense.
DAMAGED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    ValueError,
)
# Weights hardly shrink (float32: by a tenth), so that a file that grows twentyfold is no weights.
HARMLESS_SIZE: Final = 1 << 26
HIGHEST_RATIO: Final = 20
FETCH_AGAIN: Final = "Fetch or copy the file again and compare its sha256 with its publisher's."

_FAULTS: Final[dict[str, Callable[[zipfile.ZipInfo], bool]]] = {
    "leads outside of its folder": lambda member: (
        re.match(r"/|[A-Za-z]:", _slashed(member)) is not None
        or ".." in _slashed(member).split("/")
    ),
    "is a link": lambda member: stat.S_ISLNK(member.external_attr >> 16),
    "is encrypted": lambda member: bool(member.flag_bits & 1),
    "is compressed in another way than zip's usual one": lambda member: (
        member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ),
}


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive, closed when it is no longer used.

    Raises CaHpcError where it is damaged, where a member leads outside, is a link, encrypted or
    there twice, and where it would inflate to far more than weights do.
    """
    size = path.stat().st_size
    try:
        archive = zipfile.ZipFile(path)
        if not all(0 <= member.header_offset < size for member in archive.infolist()):
            raise zipfile.BadZipFile("a member begins outside of the file")
    except (*DAMAGED, OSError) as error:
        raise CaHpcError(
            f"{path} ({size} bytes) is a truncated or damaged zip file: {error}.", hint=FETCH_AGAIN
        ) from error
    fault = _fault(archive.infolist(), file_size=size)
    if fault is not None:
        archive.close()
        raise CaHpcError(
            f"{path} was not unpacked: {fault}.",
            hint="No publisher of weights makes such a zip; fetch it from its own place again.",
        )
    return archive


def _fault(members: list[zipfile.ZipInfo], *, file_size: int) -> str | None:
    names: set[str] = set()
    for member in members:
        for fault, applies in _FAULTS.items():
            if applies(member):
                return f"its member {member.filename!r} {fault}"
        if member.filename in names:
            return f"its member {member.filename!r} is there twice"
        names.add(member.filename)
    inflated = sum(member.file_size for member in members)
    if inflated > max(HARMLESS_SIZE, HIGHEST_RATIO * file_size):
        return f"its {file_size} bytes would become {inflated}"
    return None


def _slashed(member: zipfile.ZipInfo) -> str:
    return member.filename.replace("\\", "/")
