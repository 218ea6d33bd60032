"""SHA-256 of files, and a cache of it: a 2 GB image takes seconds to read, a lookup none."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.sealed import Identity, Sealed, Seals
from ca_hpc.errors import CaHpcError
from ca_hpc.store import atomic

_CHUNK: Final = 1 << 20
_FRESH_NS: Final = 2_000_000_000  # at least the longest time that a time stamp stands for


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
    """:func:`sha256_file`, remembered in the file ``cache``; see :class:`DigestCache`.

    Raises OSError for ``path``.
    """
    digests = DigestCache(cache)
    found = digests.sealed(path).sha256
    digests.save()
    return found


def reread_sha256(path: Path, *, cache: Path) -> str:
    """:func:`sha256_file`, and what ``cache`` remembers is put right.

    A disk that loses a bit changes no time: all who ask the cache learn of it by this alone. Raises
    OSError for ``path``.
    """
    digests = DigestCache(cache)
    found = digests.reread(path).sha256
    digests.save()
    return found


class DigestCache:
    """What files hold, by path and identity: a JSON file, read once and written by ``save``.

    An entry holds as long as size, mtime, ctime and inode are the same. ctime is what a user cannot
    set back, so a byte changed behind a restored mtime is still seen. A cache that cannot be read
    or written costs time, never the answer. Threads may share one.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _read(file)
        self._new: dict[str, Sealed] = {}

    def knows(self, path: Path) -> bool:
        """Whether the file need not be read. Raises OSError."""
        known = self._known.get(str(path.absolute()))
        return known is not None and known.identity == identity_of(path)

    def sealed(self, path: Path, *, digest: Callable[[Path], str] = sha256_file) -> Sealed:
        """The file as it is now; ``digest`` reads it if nothing is known. Raises OSError."""
        known = self._known.get(str(path.absolute()))
        if known is not None and known.identity == identity_of(path):
            return known
        return self.reread(path, digest=digest)

    def reread(self, path: Path, *, digest: Callable[[Path], str] = sha256_file) -> Sealed:
        """The file as it is now, read in any case. Raises OSError."""
        place = str(path.absolute())
        found = sealed_now(path, name=place, digest=digest)
        # what changed while it was read has no digest worth keeping
        if identity_of(path) == found.identity:
            self._known[place] = self._new[place] = found
        return found

    def save(self) -> None:
        """Write what is new beside what others have written since; of two writers the last wins."""
        if not self._new:
            return
        entries = {**_read(self._file), **self._new}
        with contextlib.suppress(OSError, CaHpcError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(self._file, encode(Seals(tuple(entries.values()))))
        self._new = {}


def identity_of(path: Path) -> Identity:
    """What a file is known by without reading it, links followed. Raises OSError."""
    seen = path.stat()
    return Identity(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)


def sealed_now(path: Path, *, name: str, digest: Callable[[Path], str] = sha256_file) -> Sealed:
    """A file as ``digest`` reads it, under ``name``. Whoever changes it meanwhile or later, changes
    its identity, too.

    So the identity is from before the reading, and a file that was changed a moment ago, and could
    be so again within the same time stamp, is read when that is over. Raises OSError.
    """
    identity = identity_of(path)
    if time.time_ns() - identity.ctime_ns < _FRESH_NS:  # by the file server's clock, perhaps
        time.sleep(_granule_s(identity.ctime_ns))
    return Sealed(name, digest(path), identity)


def _granule_s(ctime_ns: int) -> float:
    """How far apart two changes are at most that have the same ctime."""
    if ctime_ns % 1_000_000_000 == 0:  # whole seconds: ext4 with small inodes, Lustre
        return 2.0
    return 0.02  # kernels take the time of their last tick, which is 10 ms ago at most


def _read(cache: Path) -> dict[str, Sealed]:
    try:
        return {each.path: each for each in decode(Seals, cache.read_text()).files}
    except (OSError, ValueError):
        return {}
