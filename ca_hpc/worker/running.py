"""The steps that run now on this node, and why they were asked to stop, if they were."""

from __future__ import annotations

import contextlib
import signal
import threading
from enum import Enum
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.store.run_folder import RunFolder

STOP_SIGNAL: Final = signal.SIGTERM  # what a step is asked to stop with


class Stop(str, Enum):
    """Why the tasks were asked to stop."""

    WARNED = "warned"  # the time limit is near, or others need the node: goes on in another job
    ENDING = "ending"  # SLURM is ending the job, and knows whether it is queued again
    BUDGET = "budget"  # the run has used its GPU hours


class Running:
    """One step for each task that runs. ``reason``: why all were asked to stop."""

    def __init__(self) -> None:
        self.reason: Stop | None = None
        self._steps: dict[str, tuple[processes.Child, Path]] = {}
        self._superseded: set[str] = set()  # newer attempts run elsewhere: this node was given up
        self._stopping = threading.Event()

    def stop(self, reason: Stop) -> None:
        """Ask the steps to save and end; returns at once.

        May be called from a signal handler: it neither waits nor prints, since the handler may have
        interrupted just that. A first reason stays, but for SLURM's own: nothing follows that.
        """
        if self.reason is None or reason is Stop.ENDING:
            self.reason = reason
        self._stopping.set()
        for child, _ in list(self._steps.values()):
            _ask(child)

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def began(self, task: str, child: processes.Child, attempt: Path) -> None:
        self._steps[task] = (child, attempt)
        if self.stopping:  # it came before there was a child to tell
            _ask(child)

    def ended(self, task: str) -> None:
        del self._steps[task]

    def stop_superseded(self, run: RunFolder) -> None:
        """End what has a newer attempt: SLURM gave this node up and started the task elsewhere."""
        for task, (child, attempt) in list(self._steps.items()):
            if any(other.name > attempt.name for other in run.attempts(task)):
                self._superseded.add(task)
                _ask(child)

    def superseded(self, task: str) -> bool:
        return task in self._superseded


def _ask(child: processes.Child) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(STOP_SIGNAL)
