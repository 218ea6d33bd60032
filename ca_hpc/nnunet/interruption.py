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
    """Whether a signal asked to stop. A context: the former handlers come back at its end."""

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
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # Forked loader workers inherit the handler and get the signal too where it goes to the
        # whole job. It may come twice, and printing in a handler can deadlock.
        if os.getpid() == self._owner:
            self.asked = True
