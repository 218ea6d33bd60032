"""Interleaved pairs: A B A B …, so that a machine whose speed drifts treats both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Timed = Callable[[], None]


def seconds(work: Timed) -> float:
    """How long ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(name: str, ours: Timed, baseline: Timed, *, pairs: int, what: str) -> None:
    """Print medians, their difference and the median of the ratios pair by pair."""
    ours(), baseline()  # warm caches; not counted
    times = [(seconds(ours), seconds(baseline)) for _ in range(pairs)]
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    more = statistics.median(a - b for a, b in times)
    print(
        f"{name}: {mine:.3f} s, {what} {other:.3f} s; ratio {ratio:.2f}, {more:+.3f} s "
        f"(medians of {pairs} interleaved pairs)",
        flush=True,
    )
