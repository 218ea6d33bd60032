"""What the tasks of a job may see: its run folder, and read-only what it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ca_hpc.core.data_spec import BidsSource, NnunetSource
from ca_hpc.core.model import Mount
from ca_hpc.core.record import Cases
from ca_hpc.core.spec import JobSpec

# Pairs may lie in a folder per subject: a command line of thousands of mounts would not start
MOST_FOLDERS: Final = 30


def data_folders(spec: JobSpec, cases: Cases | None, *, repositories: Path) -> set[str]:
    """The folders and archives that the cases' files lie in.

    ``repositories``: where git sources are cloned to; one is seen whole, with its annex. Links are
    followed: in a git-annex data set an image lies outside the folder that names it.
    """
    folders = {s.path for s in spec.data if isinstance(s, BidsSource | NnunetSource)}
    if cases is None:
        return folders | {s.path for s in spec.data if s.type == "pack"}
    folders |= {case.archive for case in cases.cases if case.archive is not None}
    named = [file for case in cases.cases if case.archive is None for file in case.files]
    parents: set[str] = set()
    for place in {p for file in named for p in (file, os.path.realpath(file))}:
        if below(place, (str(repositories),)):
            first, *_ = Path(place).relative_to(repositories).parts
            folders.add(str(repositories / first))
        elif not below(place, folders):
            parents.add(str(Path(place).parent))
    while len(parents) > MOST_FOLDERS:
        parents = {str(Path(folder).parent) for folder in parents}
    return folders | parents


def mounts(*, run_folder: Path, read: Iterable[str]) -> tuple[Mount, ...]:
    """The run folder, writable, and what is ``read``; nothing twice."""
    folders = set(read)
    outer = {place for place in folders if not below(str(Path(place).parent), folders)}
    found = [Mount(str(run_folder), writable=True), *(Mount(place) for place in outer)]
    # a folder before what lies in it, whose own mount it would hide: runs often lie beside data
    return tuple(sorted(found, key=lambda mount: mount.path))


def below(path: str, folders: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``folders`` or lies in one."""
    return any(path == f or path.startswith(f.rstrip("/") + "/") for f in folders)
