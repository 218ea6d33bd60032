"""Let an ELF file that was linked against a newer glibc load with an older one.

A compiler with glibc 2.38's headers turns ``strtol`` and its kin into ``__isoc23_strtol``, which
differ only in reading binary literals ("0b11"). Where nothing else of the newer glibc is used, the
names can go back to the old ones in place: the old name is the tail of the new one's string.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PREFIX = b"__isoc23_"
RENAMED = {PREFIX + name for name in (b"strtol", b"strtoul", b"strtoll", b"strtoull")}
# The version under which glibc has offered strtol from the start, by e_machine.
BASE_VERSION = {62: b"GLIBC_2.2.5", 183: b"GLIBC_2.17"}

SHT_DYNSYM, SHT_GNU_VERNEED, SHT_GNU_VERSYM = 11, 0x6FFFFFFE, 0x6FFFFFFF


class CannotRemap(Exception):
    """The file needs something of the newer glibc that the older one has under no name."""


@dataclass(frozen=True)
class Section:
    kind: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True)
class NeededVersion:
    """One vernaux entry: where it lies, its name and the index that symbols refer to it by."""

    offset: int
    name: bytes
    index: int


def elf_hash(name: bytes) -> int:
    """The System V hash of a symbol or version name (gABI, "Hash Table")."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def remap(image: bytes, *, glibc: tuple[int, int]) -> bytes:
    """Return ``image`` so changed that glibc ``(major, minor)`` can load it; same length.

    Unchanged where nothing newer is needed, and for what is no dynamic ELF64 file. Raises
    ``CannotRemap`` where a symbol newer than ``glibc`` is not one of ``RENAMED``.
    """
    if image[:6] != b"\x7fELF\x02\x01":
        return image
    sections = _sections(image)
    if not {SHT_DYNSYM, SHT_GNU_VERNEED, SHT_GNU_VERSYM} <= sections.keys():
        return image
    symbols, versions = sections[SHT_DYNSYM], sections[SHT_GNU_VERSYM]
    strings = _all_sections(image)[symbols.link]
    newer = [
        needed
        for needed in _needed_versions(image, sections[SHT_GNU_VERNEED], strings=strings.offset)
        if _glibc_version(needed.name) > glibc
    ]
    if not newer:
        return image
    patched = bytearray(image)
    base = BASE_VERSION.get(struct.unpack_from("<H", image, 18)[0], b"?")
    base_at = image.find(b"\0" + base + b"\0", strings.offset, strings.offset + strings.size)
    if base_at < 0:
        raise CannotRemap(f"the file does not name {base.decode()}")
    for needed in newer:
        struct.pack_into("<I", patched, needed.offset, elf_hash(base))
        struct.pack_into("<I", patched, needed.offset + 8, base_at + 1 - strings.offset)
    indices = {needed.index for needed in newer}
    for number in range(symbols.size // 24):
        (version,) = struct.unpack_from("<H", image, versions.offset + 2 * number)
        if version & 0x7FFF not in indices:  # the top bit says "hidden"
            continue
        at = symbols.offset + 24 * number
        (name_at,) = struct.unpack_from("<I", image, at)
        name = _text(image, strings.offset + name_at)
        if name not in RENAMED:
            raise CannotRemap(f"{name.decode()} is newer than glibc {glibc[0]}.{glibc[1]}")
        struct.pack_into("<I", patched, at, name_at + len(PREFIX))
    return bytes(patched)


def _all_sections(image: bytes) -> list[Section]:
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    return [
        Section(kind, offset, length, link)
        for _, kind, _, _, offset, length, link, *_ in (
            struct.unpack_from("<IIQQQQIIQQ", image, table + size * number)
            for number in range(count)
        )
    ]


def _sections(image: bytes) -> dict[int, Section]:
    """By kind: of each of the three kinds wanted here a file has one at most."""
    return {section.kind: section for section in _all_sections(image)}


def _needed_versions(image: bytes, section: Section, *, strings: int) -> Iterator[NeededVersion]:
    at = section.offset
    while True:
        _, count, _, first, following = struct.unpack_from("<HHIII", image, at)
        entry = at + first
        for _ in range(count):
            _, _, index, name, step = struct.unpack_from("<IHHII", image, entry)
            yield NeededVersion(entry, _text(image, strings + name), index)
            entry += step
        if not following:
            return
        at += following


def _glibc_version(name: bytes) -> tuple[int, int]:
    found = re.fullmatch(rb"GLIBC_(\d+)\.(\d+)(\.\d+)?", name)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _text(image: bytes, start: int) -> bytes:
    return image[start : image.index(0, start)]
