"""Whether the files of the cases are there: one stat each, and a look into very small ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from ca_hpc.core.record import Cases

# what stands in a file whose contents are kept elsewhere: git-annex's unlocked files
# (git-annex, "pointer file"), git-lfs (docs/spec.md)
_POINTERS: Final = (b"/annex/objects/", b"version https://git-lfs")
_MOST_IN_POINTER: Final = 1024


def not_fetched(file: str) -> str | None:
    """Why the contents of ``file`` are elsewhere: a link to nothing, a pointer. None: they are not.

    Raises OSError where there is nothing of this name at all.
    """
    try:
        found = Path(file).stat()
    except OSError:
        if stat.S_ISLNK(os.lstat(file).st_mode):
            return "is a link to nothing"
        raise
    if stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_IN_POINTER:
        with Path(file).open("rb") as stream:
            if stream.read(max(map(len, _POINTERS))).startswith(_POINTERS):
                return "only points to its contents"
    return None


def trouble(file: str, *, fetched_later: bool) -> str | None:
    """What is wrong with a file of a case, as a line. With ``fetched_later`` it may be absent."""
    try:
        file.encode()
    except UnicodeEncodeError:
        return f"{file}: its name is no UTF-8 text"
    try:
        if (reason := not_fetched(file)) is not None:
            return None if fetched_later else f"{file} {reason}: fetch it"
        if not Path(file).is_file():
            return f"{file} is no file"
        return None if os.access(file, os.R_OK) else f"{file} may not be read"
    except FileNotFoundError:
        return f"{file} does not exist"
    except (OSError, ValueError) as error:  # ValueError: a null character
        return f"{file}: {getattr(error, 'strerror', None) or error}"


def missing_files(cases: Cases) -> list[str]:
    """Files whose contents are not there: links to nothing, pointers, no file. Not of packs."""
    files = dict.fromkeys(
        file for case in cases.cases if case.archive is None for file in case.files
    )
    return [file for file in files if trouble(file, fetched_later=False) is not None]
