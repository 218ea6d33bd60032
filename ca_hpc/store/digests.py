"""SHA-256 of files, and a cache of it: a 2 GB image takes seconds to read, a lookup none."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypedDict

from ca_hpc.store import atomic

_CHUNK: Final = 1 << 20


class _Entry(TypedDict):
    identity: dict[str, int]
    sha256: str


def sha256_file(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's bytes as 64 hex digits.

    ``progress`` is told the number of bytes read so far, after each chunk. Raises OSError.
    """
    digest = hashlib.sha256()
    seen = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            seen += len(chunk)
            if progress is not None:
                progress(seen)
    return digest.hexdigest()


def copy_hashing(source: Path, target: Path, *, stopping: Callable[[], bool]) -> str | None:
    """Copy a file and return the SHA-256 of the bytes that were written. Raises OSError.

    None as soon as ``stopping`` says so; the copy is not whole then.
    """
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(_CHUNK):
            if stopping():
                return None
            digest.update(chunk)
            writing.write(chunk)
    return digest.hexdigest()


def cached_sha256(path: Path, *, cache: Path) -> str:
    """:func:`sha256_file`, remembered in the JSON file ``cache``.

    An entry holds as long as size, mtime, ctime, inode and device are the same. ctime is what
    a user cannot set back, so a byte changed behind a restored mtime is still seen. A cache
    that cannot be read or written costs time, never the answer. Raises OSError for ``path``.
    """
    identity = _identity(path)
    # two nodes see a network file system under different device numbers
    place = f"{identity['device']}:{path.resolve()}"
    entries = _entries(cache)
    known = entries.get(place)
    if known is not None and known["identity"] == identity:
        return known["sha256"]
    digest = sha256_file(path)
    # what changed while it was read has no digest worth keeping
    if _identity(path) == identity:
        _remember(cache, entries | {place: _Entry(identity=identity, sha256=digest)})
    return digest


def _identity(path: Path) -> dict[str, int]:
    seen = path.stat()
    return {
        "size": seen.st_size,
        "mtime_ns": seen.st_mtime_ns,
        "ctime_ns": seen.st_ctime_ns,
        "inode": seen.st_ino,
        "device": seen.st_dev,
    }


def _entries(cache: Path) -> dict[str, _Entry]:
    try:
        found = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        place: _Entry(identity=entry["identity"], sha256=entry["sha256"])
        for place, entry in found.items()
        if isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("identity"), dict)
    }


def _remember(cache: Path, entries: dict[str, _Entry]) -> None:
    """Replace the cache in one step. Of two writers the last wins, which loses time only."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(cache, json.dumps(entries, indent=1))
