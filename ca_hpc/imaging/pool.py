"""Cases worked on in several processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ca_hpc import processes
from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError, ExitCode

T = TypeVar("T")


def in_pool(
    work: Callable[[Case], T], cases: Sequence[Case], *, workers: int, hint: str
) -> Iterator[T]:
    """What ``work`` returns, in the order of the cases.

    ``hint``: what to do when a process was killed, of which CaHpcError is raised.
    """
    if not cases:
        return
    # forked workers wait for ever when their parent is killed: they hold each other's queue open
    with ProcessPoolExecutor(min(workers, len(cases)), initializer=_begin) as pool:
        try:
            yield from pool.map(work, cases)
        except BrokenProcessPool as error:
            raise CaHpcError(
                "a process that read images was killed, most often for want of memory",
                hint=hint,
                exit_code=ExitCode.TASK_FAILED,
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)  # of a caller that was interrupted


def _begin() -> None:
    """In a worker, before its first case."""
    # a handler that is inherited may raise, which the executor takes for the outcome of a case
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent gets it as well
    processes.end_with_parent()
