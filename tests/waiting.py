"""For tests of real processes: wait for something, see whether a process lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

WAIT_S = 30.0


def until(true: Callable[[], bool], *, what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs; an orphan that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
