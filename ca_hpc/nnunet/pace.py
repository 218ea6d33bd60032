"""How long each kind of work takes, and whether more of it fits in before the job ends.

A job that ends at its time limit loses what is not saved. A signal before the end may be missing
(the profile decides), late, or early by a minute; the time that is left is known to the second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias, get_args

from ca_hpc.nnunet.interruption import StopRequest

Clock: TypeAlias = Callable[[], float]
Reason: TypeAlias = Literal["signal", "deadline"]
# epoch_end: scores, best checkpoint and plot; case: one image segmented
Work: TypeAlias = Literal["iteration", "validation_iteration", "epoch_end", "checkpoint", "case"]

ASSUMED_S: Final[Mapping[Work, float]] = {  # until one was measured
    "iteration": 10.0,
    "validation_iteration": 10.0,
    "epoch_end": 20.0,
    "checkpoint": 10.0,
    "case": 30.0,
}
UNITS: Final[frozenset[Work]] = frozenset({"iteration", "validation_iteration", "case"})
RECENT: Final = 20  # the first iteration compiles the network, and need not count for ever
SAFETY: Final = 1.5
EXIT_S: Final = 5.0  # loader processes end, the worker writes the result


class Pace:
    """Durations measured in this process, the job's end and the request to stop, seen together.

    ``ends_at_s``: when the job ends, by ``clock``; None: not known. ``done``: units of work that
    were done here, that is iterations and cases.
    """

    def __init__(self, *, clock: Clock, ends_at_s: float | None, stop: StopRequest) -> None:
        self.clock = clock
        self.done = 0
        self._ends_at_s = ends_at_s
        self._stop = stop
        self._recent: dict[Work, deque[float]] = {
            work: deque(maxlen=RECENT) for work in get_args(Work)
        }

    @contextmanager
    def measured(self, work: Work) -> Iterator[None]:
        """Do one unit of ``work``."""
        began = self.clock()
        yield
        self._recent[work].append(self.clock() - began)
        self.done += work in UNITS

    def last(self, work: Work) -> float:
        """Seconds of the last one. Raises IndexError where none was measured."""
        return self._recent[work][-1]

    def longest(self, work: Work) -> float | None:
        """Seconds of the longest of the last few; None where none was measured."""
        return max(self._recent[work], default=None)

    def reason_to_stop(self, *upcoming: Work) -> Reason | None:
        """Why ``upcoming`` should not be begun, if so.

        Not for the time that is left before one unit was done here: otherwise a job that is
        hardly long enough would be queued again and again without getting on.
        """
        if self._stop.asked:
            return "signal"
        if self._ends_at_s is None or not self.done:
            return None
        needed = sum(self._expected(work) for work in upcoming)
        fits = self.clock() + SAFETY * needed + EXIT_S <= self._ends_at_s
        return None if fits else "deadline"

    def stopping(self, reason: Reason) -> dict[str, object]:
        """The event that tells why this attempt ends here, and at what pace it went."""
        left = None if self._ends_at_s is None else self._ends_at_s - self.clock()
        return {
            "event": "stopping",
            "reason": reason,
            "done": self.done,
            "seconds_left": left,
            **{f"seconds_per_{work}": self.longest(work) for work in get_args(Work)},
        }

    def _expected(self, work: Work) -> float:
        measured = self.longest(work)
        return ASSUMED_S[work] if measured is None else measured
