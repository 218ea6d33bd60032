"""Files that must stay as they were: sealed by whoever makes or names them, compared before use.

Most are not read for that: size, times and inode are enough as long as they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.sealed import Sealed, Seals
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store import atomic
from ca_hpc.store.digests import DigestCache, identity_of, sealed_now, sha256_file

T = TypeVar("T")
R = TypeVar("R")

#: the record beside files that one step has sealed; paths in it are relative to its folder
SEALS: Final = "sealed.json"

_AT_ONCE: Final = 16  # a network file system takes its time for each, and has it for many at once
_MOST_TOLD: Final = 5
_HINT: Final = "put back what was recorded, then: ca-hpc retry RUN; or submit the job again"


def seal(folder: Path, names: Iterable[str]) -> Seals:
    """Files of ``folder`` as they are now, by their names: the folder may move. Raises OSError."""
    return Seals(tuple(sealed_now(folder / name, name=name) for name in names))


def write_seals(file: Path, seals: Seals) -> None:
    """Raises OSError."""
    atomic.write_text(file, encode(seals))


def read_seals(file: Path) -> Seals:
    """What was sealed so far: nothing where there is no such record. Raises CaHpcError."""
    try:
        return decode(Seals, file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Seals(())
    except (OSError, ValueError) as error:
        raise CaHpcError(
            f"{file} cannot be read: {error}",
            hint="this run's record is damaged; submit the job again",
        ) from error


def refuse_changed(
    seals: Seals, *, what: str, folder: Path, cache: DigestCache
) -> tuple[Path, ...]:
    """Compare files with their seals; returns those that are gone, which is for others to judge.

    ``what`` they are, for the message. ``folder``: where relative paths begin. Raises
    DigestMismatch with both digests of every other file, and OSError.
    """
    files = {folder / sealed.path: sealed for sealed in seals.files}
    found = in_threads(lambda path: _now(path, files[path], cache=cache), list(files))
    now = dict(zip(files, found, strict=True))
    refuse_others(
        {str(path): digest for path, digest in now.items() if digest is not None},
        {str(path): sealed.sha256 for path, sealed in files.items()},
        what=what,
    )
    return tuple(path for path, digest in now.items() if digest is None)


def refuse_other(path: Path, expected: str, *, what: str, cache: DigestCache) -> None:
    """Compare a file of which only the digest was recorded. Raises DigestMismatch and OSError."""
    found = cache.sealed(path, digest=contents_sha256).sha256
    refuse_others({str(path): found}, {str(path): expected}, what=what)


def refuse_others(found: Mapping[str, str], expected: Mapping[str, str], *, what: str) -> None:
    """Compare digests by path, as far as any are expected. Raises DigestMismatch."""
    others = [
        f"{what} {path} is sha256:{digest}, recorded is sha256:{expected[path]}"
        for path, digest in found.items()
        if digest != expected.get(path, digest)
    ]
    if others:
        more = len(others) - _MOST_TOLD
        lines = [*others[:_MOST_TOLD], *([f"… and {more} more"] if more > 0 else [])]
        raise DigestMismatch("\n".join(lines), hint=_HINT)


def contents_sha256(path: Path) -> str:
    """SHA-256 of a file; of a pack that of its manifest, with which its files are compared.

    Raises OSError, and DigestMismatch or CaHpcError for a pack that is not as it was written.
    """
    from ca_hpc.store.pack import Pack, is_pack

    if not is_pack(path):
        return sha256_file(path)
    pack = Pack.open(path)
    pack.verify(lambda done, total: None)
    return pack.sha256


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What ``work`` returns for each item, in their order: for what waits for storage."""
    if not items:
        return []
    threads = min(_AT_ONCE, len(items))
    results: dict[int, R] = {}

    def every_so_many(first: int) -> None:  # one call per thread: most take a microsecond
        for index in range(first, len(items), threads):
            results[index] = work(items[index])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(every_so_many, range(threads)))
    return [results[index] for index in range(len(items))]


def _now(path: Path, sealed: Sealed, *, cache: DigestCache) -> str | None:
    """The digest of the file now; None: there is none."""
    try:
        if identity_of(path) == sealed.identity:
            return sealed.sha256
        return cache.sealed(path, digest=contents_sha256).sha256
    except (FileNotFoundError, NotADirectoryError):
        return None
