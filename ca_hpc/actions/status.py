"""Status: results first, then one question to the scheduler about what has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ca_hpc.continuation.further import LOCK
from ca_hpc.continuation.standing import Asked, Standing, ask, standings
from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Attempt
from ca_hpc.core.rules import Failure
from ca_hpc.core.states import LIVE, Row
from ca_hpc.errors import ExitCode
from ca_hpc.executors import local, slurm
from ca_hpc.store.lock import held
from ca_hpc.store.progress import done_and_total, read_events
from ca_hpc.store.run_folder import RunFolder

__all__ = ["Asked", "RunStatus", "TaskStatus", "ask", "cancel", "status"]

# What the events of a task count.
UNITS: Final = {"case": "cases", "validation": "cases", "fold": "folds", "epoch": "epochs"}


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task now. ``done`` of ``total`` epochs, cases or folds (``unit``), as far as it tells.

    ``seconds``: how long it has been running, or ran when it ended; None while it waits.

    If it ended without completing: ``failure`` is its class, ``cause`` one sentence, ``hint`` the
    next move, and ``lines`` are those of its logs that show it. The ``cause`` of one that waits is
    what it waits for, and why it is done again.
    """

    task: str
    stage: str
    element: str
    job: str | None
    state: TaskState
    attempts: int
    node: str | None
    seconds: float | None
    done: int | None
    total: int | None
    cause: str | None
    hint: str | None
    failure: str | None = None
    lines: tuple[str, ...] = ()
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """All tasks of a run. ``trouble``: why the scheduler could not be asked, if it could not."""

    run: str
    tasks: tuple[TaskStatus, ...]
    trouble: str | None

    @property
    def ended(self) -> bool:
        """Nothing waits or runs any more."""
        return not any(task.state in LIVE for task in self.tasks)

    @property
    def failed(self) -> tuple[TaskStatus, ...]:
        """Tasks that have ended without completing."""
        return tuple(t for t in self.tasks if t.state not in LIVE | {TaskState.COMPLETED})

    @property
    def exit_code(self) -> ExitCode:
        """0 all completed or still going, 3 something was refused as not the recorded one, 1 all
        trainings lost, 5 some.
        """
        if not self.failed:
            return ExitCode.OK
        if any(task.failure == Failure.CHANGED.value for task in self.failed):
            return ExitCode.DIGEST_MISMATCH
        finished = [t for t in self.tasks if t.stage == "train" and t.state is TaskState.COMPLETED]
        return ExitCode.PARTLY_DONE if finished else ExitCode.TASK_FAILED


def status(run: RunFolder, *, asked: Asked | None = None, now: datetime | None = None) -> RunStatus:
    """The state of every task. ``asked``: what ``ask`` said; None: it is asked.

    ``now``, with its time zone: without it nothing tells how long it has been running.
    """
    said = ask(run) if asked is None else asked
    on_slurm = run.workflow.executor == "slurm"
    tasks = []
    for one in standings(run, said).values():
        attempts = run.attempts(one.task)
        events = read_events(attempts[-1]) if attempts else []
        done, total = done_and_total(events)
        ended = one.result if one.state not in LIVE else None
        current = _current(run, one, attempts)
        row, verdict = one.row, one.verdict
        tasks.append(
            TaskStatus(
                task=one.task,
                stage=one.stage,
                element=one.element,
                job=one.job if on_slurm else None,
                state=one.state,
                attempts=one.attempts,
                node=ended.host if ended else _node(row, current),
                seconds=ended.seconds if ended else _running_s(current, now),
                done=done,
                total=total,
                cause=verdict.cause if verdict else _why_again(run, one, attempts),
                hint=verdict.hint if verdict else None,
                failure=verdict.failure.value if verdict else None,
                lines=verdict.lines if verdict else (),
                unit=None if total is None else _unit(events),
            )
        )
    return RunStatus(str(run.path), tuple(tasks), said.trouble)


def _current(run: RunFolder, one: Standing, attempts: Sequence[Path]) -> Attempt | None:
    """The attempt that is under way."""
    if one.state is not TaskState.RUNNING or not attempts:
        return None
    under_way = run.attempt_result(attempts[-1]) is None
    return run.attempt_record(attempts[-1]) if under_way else None


def _node(row: Row | None, current: Attempt | None) -> str | None:
    """Where it is: the scheduler's word, else that of the attempt under way."""
    return (row.node if row else "") or (current.host if current else None)


def _running_s(current: Attempt | None, now: datetime | None) -> float | None:
    if current is None or now is None:
        return None
    # clocks of nodes differ
    return max(0.0, (now - datetime.fromisoformat(current.started)).total_seconds())


def _why_again(run: RunFolder, one: Standing, attempts: Sequence[Path]) -> str | None:
    """What a task waits for in the scheduler's word, and how its last attempt failed."""
    said = []
    waits = one.state is TaskState.PENDING
    if waits and one.row is not None and one.row.reason not in ("", "None"):
        said.append(one.row.reason)
    last = run.attempt_result(attempts[-1]) if attempts else None
    if last is not None and last.failure is not None and (waits or one.state is TaskState.RUNNING):
        said.append(f"{'again after' if waits else 'after'} {last.failure}: {last.cause}")
    return "; ".join(said) or None


def _unit(events: Sequence[Mapping[str, Any]]) -> str | None:
    return next((UNITS[e["event"]] for e in reversed(events) if e["event"] in UNITS), None)


def cancel(run: RunFolder) -> bool:
    """Cancel everything of the run that waits or runs; False when nothing does.

    Without SLURM it waits a while until what runs has saved. Raises SchedulerUnreachable.
    """
    if status(run).ended:
        return False
    # not above: it brings pydantic, which `status` need not wait for
    from ca_hpc.report.run_files import refresh

    if run.workflow.executor == "local":
        local.cancel(run)
        refresh(run)
        return True
    # a job that is just submitting a further one must not leave it behind
    with held(run.file(LOCK), waiting=lambda: None):
        submissions = run.submissions()
        slurm.cancel([job for s in submissions for _, job in s.jobs])
        for unsure in (s for s in submissions if s.open):  # sbatch may have failed and submitted
            slurm.cancel_named(unsure.job_name)
        refresh(run)
    return True
