"""One at a time: others wait until the holder is done, or dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

POLL_S = 0.2


class Busy(Exception):
    """Another process holds the lock, and does not let go."""


@contextlib.contextmanager
def held(
    path: Path, *, waiting: Callable[[], None], patience_s: float | None = None
) -> Iterator[None]:
    """Hold the lock file ``path``; ``waiting`` is called once if another process holds it.

    Raises Busy after ``patience_s`` seconds; None: never.

    A POSIX lock: it works across the nodes of a network file system (NFS 4, Lustre with
    ``flock``) and ends with its process. The file stays, since deleting it would let a third
    process lock another file of the same name. Raises OSError, for a link too: in a folder that
    others write to, it could lead to any file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o666), "r+") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            waiting()
            _wait(stream, patience_s)
        yield


def _wait(stream: TextIO, patience_s: float | None) -> None:
    if patience_s is None:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError) as error:
            if time.monotonic() > deadline:
                raise Busy(stream.name) from error
            time.sleep(POLL_S)
