"""The manifest of a run's data: what every source file holds when the job is submitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from ca_hpc.actions.job_data import Say
from ca_hpc.core.record import Cases
from ca_hpc.core.sealed import Sealed, Seals
from ca_hpc.errors import CaHpcError
from ca_hpc.sources.annex import key_sha256
from ca_hpc.store.digests import DigestCache, sealed_now
from ca_hpc.store.pack import Pack
from ca_hpc.store.seal import in_threads

TOLD_BYTES: Final = 1 << 30  # takes seconds


def seal_sources(cases: Cases, *, cache: Path, say: Say) -> Seals:
    """All files of the cases, and the packs that hold them, each once.

    What has a digest already is not read: a pack, whose manifest stands for its files, and what
    git-annex has compared with its key. Whether they are so is seen when they are used. ``cache``
    as of ``cached_sha256``. Raises CaHpcError for files that cannot be read.
    """
    packs = dict.fromkeys(case.archive for case in cases.cases if case.archive)
    files = dict.fromkeys(file for case in cases.cases if not case.archive for file in case.files)
    digests = DigestCache(cache)
    try:
        sizes = in_threads(lambda file: _unread_bytes(file, digests), list(files))
        if sum(sizes) > TOLD_BYTES:
            say(f"reading {sum(sizes) / 1e9:.1f} GB of the data for its digests, this once")
        of_files = in_threads(lambda file: _sealed(file, digests), list(files))
        of_packs = [_sealed_pack(pack) for pack in packs]
    except OSError as error:
        raise CaHpcError(
            f"{error.filename} cannot be read: {error.strerror}",
            hint="fetch or repair it, or exclude its subject",
        ) from error
    digests.save()
    return Seals((*of_packs, *of_files))


def _unread_bytes(file: str, digests: DigestCache) -> int:
    path = Path(file)
    return 0 if key_sha256(path) or digests.knows(path) else path.stat().st_size


def _sealed(file: str, digests: DigestCache) -> Sealed:
    path = Path(file)
    if (key := key_sha256(path)) is None:
        return replace(digests.sealed(path), path=file)
    return sealed_now(path, name=file, digest=lambda _: key)


def _sealed_pack(file: str) -> Sealed:
    return sealed_now(Path(file), name=file, digest=lambda path: Pack.open(path).sha256)
