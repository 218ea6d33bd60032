"""Interleaved pairs: A B B A A B …, so that a machine whose speed drifts treats both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Timed = Callable[[], None]


def seconds(work: Timed) -> float:
    """How long ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(
    name: str, ours: Timed, baseline: Timed, *, pairs: int, what: str, target: str = ""
) -> None:
    """Time both in turn and print what ``tell`` prints."""
    for work in (ours, baseline):  # warm caches; not counted
        work()
    tell(name, in_turn(ours, baseline, pairs=pairs), what=what, target=target)


def in_turn(ours: Timed, baseline: Timed, *, pairs: int) -> list[tuple[float, float]]:
    """Seconds of either, pair by pair; who begins changes from pair to pair."""
    times = []
    for number in range(pairs):
        if number % 2:
            other = seconds(baseline)
            times.append((seconds(ours), other))
        else:
            times.append((seconds(ours), seconds(baseline)))
    return times


def tell(name: str, times: Sequence[tuple[float, float]], *, what: str, target: str = "") -> None:
    """Print medians, their difference and the median of the ratios, pair by pair.

    ``times``: seconds (ours, ``what``). ``target``: what is aimed at, for the reader to compare.
    """
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    more = statistics.median(a - b for a, b in times)
    aim = f"; target: {target}" if target else ""
    print(
        f"{name}: {_shown(mine)}, {what} {_shown(other)}; ratio {ratio:.2f}, {more:+.3f} s "
        f"(medians of {len(times)} interleaved pairs){aim}",
        flush=True,
    )


def _shown(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms" if seconds < 0.01 else f"{seconds:.3f} s"
