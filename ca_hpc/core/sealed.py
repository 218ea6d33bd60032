"""Files that must not change, each with its digest and what it is known by without reading it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """As stat(2) tells it. Without the device: nodes number network file systems differently.

    ``ctime_ns`` is what a user cannot set back.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file as it was when its sha256 was taken."""

    path: str
    sha256: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class Seals:
    """What one step sealed; a record of its own in the run folder."""

    files: tuple[Sealed, ...]
