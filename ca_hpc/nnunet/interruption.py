"""Stopping on request: a handler sets a flag, the training looks at it between iterations."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR2)


class Interrupted(Exception):
    """A signal asked to stop, and what is needed to go on is saved."""


class StopRequest:
    """Whether a signal asked to stop. A context, for a process that ends when it was asked.

    At its end the former handlers come back; if it was asked, both signals stay ignored.
    """

    def __init__(self) -> None:
        self.asked = False
        self._owner = os.getpid()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._former = {number: signal.signal(number, self._ask) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Who asks may ask again (SLURM does, and sends its warning too) while what was saved is on
        # its way to exit status 85: a former handler would turn that into an end by a signal, of
        # which nobody knows whether it saved. The interpreter's own end resets handlers (Python's
        # signalmodule.c, _PySignal_Fini), but leaves what is ignored ignored.
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_IGN if self.asked else handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # Forked loader workers inherit the handler and get the signal too where it goes to the
        # whole job. It may come twice, and printing in a handler can deadlock.
        if os.getpid() == self._owner:
            self.asked = True
