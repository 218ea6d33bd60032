"""One at a time: others wait until the holder is done, or dead."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file ``path``; ``waiting`` is called once if another process holds it.

    A POSIX lock: it works across the nodes of a network file system (NFS 4, Lustre with
    ``flock``) and ends with its process. The file stays, since deleting it would let a third
    process lock another file of the same name. Raises OSError.
    """
    with path.open("a") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            waiting()
            fcntl.lockf(stream, fcntl.LOCK_EX)
        yield
