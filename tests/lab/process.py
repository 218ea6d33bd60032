"""Look at processes, and end one without ever hitting another that has got its number since."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path


def end(pid: int, *, is_ours: Callable[[int], bool], seconds: float) -> None:
    """Ask process ``pid`` to end and kill it after ``seconds``, if it exists and ``is_ours``."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Checked after the handle is open: from here on the number cannot become another process.
        if not is_ours(pid):
            return
        for signum, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10.0)):
            signal.pidfd_send_signal(handle, signum)
            if _has_ended(handle, seconds=patience):
                return
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _has_ended(handle: int, *, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def program_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def is_marked(pid: int, mark: str) -> bool:
    """Whether ``mark`` stands in the command line or the environment of process ``pid``."""
    try:
        seen = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    except OSError:
        return False
    return any(mark.encode() in text for text in seen)


def marked_processes(mark: str) -> Iterator[tuple[int, str]]:
    """Pid and program of every process that carries ``mark``."""
    for folder in Path("/proc").glob("[0-9]*"):
        if is_marked(int(folder.name), mark):
            yield int(folder.name), program_of(int(folder.name))
