"""A process that is killed with -9 right before its n-th change to the file system or program."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable

CHANGES = frozenset(
    ("os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
)


def killed(task: Callable[[], None], *, change: int) -> str | None:
    """Run ``task`` in a fork that dies right before change number ``change``, from 0.

    Returns what it was about to do; None if it made fewer changes, and ended.
    """
    told, tells = os.pipe()
    process = os.fork()
    if not process:
        left = itertools.count(change, -1)

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if _changes(event, arguments) and next(left) == 0:
                os.write(tells, f"{event} {arguments[0]}".encode()[:512])
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            task()
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(tells)
    with os.fdopen(told) as stream:
        point = stream.read()
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"failed before change {change}"
    return point or None


def _changes(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        return str(arguments[1]).startswith(("w", "x", "a"))
    if event == "os.remove":  # what is not there cannot be removed
        return os.path.lexists(str(arguments[0]))
    return event in CHANGES or event == "subprocess.Popen"
