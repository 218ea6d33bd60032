"""What an attempt leaves behind for whoever asks why it ended: its words, its log, the kernel's."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from ca_hpc.core.codec import decode
from ca_hpc.core.failures import TOLD_MARK, Told

MOST_BYTES: Final = 64 * 1024
MOST_LINES: Final = 200
# a line that is drawn again and again, as progress bars are
_DRAWN: Final = re.compile(r"[^\n]*\r(?!\n)")


def tail(
    file: Path, *, most_bytes: int = MOST_BYTES, most_lines: int = MOST_LINES
) -> tuple[str, ...]:
    """The last whole lines of a text file, whatever its length; () if it cannot be read."""
    try:
        with file.open("rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - most_bytes))
            content = stream.read(most_bytes)
    except OSError:
        return ()
    lines = _DRAWN.sub("", content.decode("utf-8", errors="replace")).split("\n")
    cut = 1 if length > most_bytes and len(lines) > 1 else 0  # half a line
    return tuple(line.rstrip("\r") for line in lines[cut:] if line.strip())[-most_lines:]


def told(attempt: Path) -> Told | None:
    """What the step itself said: ``error.json``, or the line of its log that stands for it."""
    with contextlib.suppress(OSError, ValueError):
        return decode(Told, (attempt / "error.json").read_text(encoding="utf-8"))
    for line in reversed(tail(attempt / "log.txt")):
        if line.startswith(TOLD_MARK):
            with contextlib.suppress(ValueError):
                return decode(Told, line.removeprefix(TOLD_MARK))
    return None


def oom_kills(
    memberships: Path = Path("/proc/self/cgroup"), hierarchies: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Processes of this process's cgroup that the kernel has killed for want of memory so far.

    None where it does not say. Of cgroup v2 ``memory.events``, of v1 ``memory.oom_control``
    (Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst); v1's ``failcnt``
    also counts what reclaiming caches has solved, so it is no evidence.
    """
    try:
        entries = [line.split(":", 2) for line in memberships.read_text().splitlines()]
    except OSError:
        return None
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        own = path.lstrip("/")
        if "memory" in controllers.split(","):
            file = hierarchies / "memory" / own / "memory.oom_control"
        elif not controllers:
            file = hierarchies / own / "memory.events"
        else:
            continue
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill" and count.isdigit():
                    return int(count)
    return None
