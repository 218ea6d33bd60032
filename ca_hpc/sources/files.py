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


def trouble(file: str, *, fetched_later: bool) -> str | None:
    """What is wrong with a file of a case, as a line. With ``fetched_later`` it may be absent."""
    try:
        file.encode()
        found = Path(file).stat()
        if not stat.S_ISREG(found.st_mode):
            return f"{file} is no file"
        if found.st_size > _MOST_IN_POINTER or not _is_pointer(file):
            return None if os.access(file, os.R_OK) else f"{file} may not be read"
        return None if fetched_later else f"{file} only points to its contents: fetch it"
    except UnicodeEncodeError:
        return f"{file}: its name is no UTF-8 text"
    except FileNotFoundError:
        if not Path(file).is_symlink():
            return f"{file} does not exist"
        return None if fetched_later else f"{file} is a link to nothing: fetch it"
    except (OSError, ValueError) as error:  # ValueError: a null character
        return f"{file}: {getattr(error, 'strerror', None) or error}"


def _is_pointer(file: str) -> bool:
    with Path(file).open("rb") as stream:
        return stream.read(max(map(len, _POINTERS))).startswith(_POINTERS)


def missing_files(cases: Cases) -> list[str]:
    """Files whose contents are not there: links to nothing, pointers, no file. Not of packs."""
    files = dict.fromkeys(
        file for case in cases.cases if case.archive is None for file in case.files
    )
    return [file for file in files if trouble(file, fetched_later=False) is not None]
