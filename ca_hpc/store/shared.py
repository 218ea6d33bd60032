"""Folders of a store that a group shares: it does so where the store's root has the setgid bit and
the group may write to it. The bit alone says nothing: each folder below one that has it gets it.

Modes are set by chmod there, since a umask takes bits away from those of mkdir. Elsewhere the umask
decides.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError

STICKY: Final = 0o3775  # all may add, each removes their own
ENTRY: Final = 0o2755  # of one who added it, for all to read
READABLE: Final = 0o644

_MOST_TEXT: Final = 1 << 16  # bytes: a path has 4096 at most


def is_shared(root: Path) -> bool:
    """Whether a group shares what is in a folder. Raises OSError."""
    needed = stat.S_ISGID | stat.S_IWGRP
    return root.stat().st_mode & needed == needed


def is_own(folder: Path) -> bool:
    """Whether it is a folder of this user's that nobody else can write to, and no link.

    In one of another's, links may lie where a file is going to be written. Raises OSError.
    """
    seen = folder.lstat()
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and not seen.st_mode & 0o022


def owner(path: Path) -> str:
    """Who made a file or folder, for a message."""
    try:
        return user_name(path.lstat().st_uid)
    except OSError:
        return "somebody"


def user_name(uid: int) -> str:
    """A user's name, or number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a directory service that does not answer
        return str(uid)


def make(folder: Path, *, shared: bool, mode: int) -> Path:
    """Make a folder, of ``mode`` if it is shared; one that is there stays as it is.

    Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        if shared:
            folder.chmod(mode)
    return folder


def folder_of(root: Path, name: str) -> Path:
    """The folder ``name`` of a store, made if need be. Raises CaHpcError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return make(root / name, shared=is_shared(root), mode=STICKY)
    except OSError as error:
        raise not_writable(root / name, error) from error


def not_writable(folder: Path, error: OSError) -> CaHpcError:
    """The error for a store that takes no files of this user."""
    return CaHpcError(
        f"cannot write to {folder}: {error.strerror or error}",
        hint="ask its owner, or use another store: folders: {store: …} in the cluster's profile, "
        "else CA_HPC_STORE",
    )


def small_text(file: Path) -> str:
    """Of a small file that anybody may have put there. Raises OSError, and ValueError for what is
    no text and no plain file: a link, or a pipe, whose end may never come."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise ValueError(f"{file} is no file")
    with file.open("rb") as stream:
        return stream.read(_MOST_TEXT).decode()
