"""From how a step ended to its class and its state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ca_hpc.attempts.evidence import oom_kills, told
from ca_hpc.attempts.history import last_words
from ca_hpc.core.failures import Evidence, Told, Verdict, addressed, diagnose
from ca_hpc.core.model import TaskState
from ca_hpc.core.rules import Failure
from ca_hpc.store.run_folder import RunFolder

_SPECIAL: Final = {
    Failure.PREEMPTED: TaskState.PREEMPTED,
    Failure.TIME: TaskState.TIMEOUT,
    Failure.NODE: TaskState.NODE_FAIL,
    Failure.HOST_MEMORY: TaskState.OUT_OF_MEMORY,
    Failure.CANCELLED: TaskState.CANCELLED,
    Failure.DEPENDENCY: TaskState.CANCELLED,
}
STATES: Final[Mapping[Failure, TaskState]] = {
    failure: _SPECIAL.get(failure, TaskState.FAILED) for failure in Failure
}
_INTERRUPTED: Final[Mapping[Failure, str]] = {
    Failure.PREEMPTED: "stopped by a signal; its state is saved",
    Failure.TIME: "its time was up; its state is saved",
    Failure.NODE: "SLURM gave this node up and started the task elsewhere; its state is saved",
}


def judge(
    status: int,
    run: RunFolder,
    attempt: Path,
    *,
    error: Exception | None = None,
    asked_to_stop: bool = False,
    oom_kills_before: int | None = None,
) -> Verdict:
    """What the exit status of a step means. ``error``: why it could not even be started.

    ``oom_kills_before``: the count of the job's cgroup when the step began.
    """
    now, before = oom_kills(), oom_kills_before
    verdict = diagnose(
        Evidence(
            exit_status=status,
            told=told(attempt) if error is None else Told.of(error),
            lines=last_words(run, attempt),
            oom_kills=None if now is None or before is None else now - before,
            asked_to_stop=asked_to_stop,
        )
    )
    return addressed(verdict, run=run.path, task=attempt.parent.parent.name)


def interrupted(
    failure: Failure, *, used: float | None = None, most: float | None = None
) -> Verdict:
    """The verdict on a step that has saved its state, or that was not started for want of budget.

    ``used`` of ``most`` GPU hours.
    """
    if failure is Failure.BUDGET:
        amounts = "" if used is None else f": {used:.1f} of {most:g}"
        return Verdict(
            failure,
            f"the run has used its GPU hours{amounts}; what was reached is saved",
            "ca-hpc retry RUN --max-gpu-hours N goes on with more",
        )
    return Verdict(failure, _INTERRUPTED[failure])
