"""Status: results first, then one question to the scheduler about what has none."""

from __future__ import annotations

from dataclasses import dataclass

from ca_hpc.continuation.standing import Asked, ask, standings
from ca_hpc.core.model import TaskState
from ca_hpc.core.states import LIVE
from ca_hpc.errors import ExitCode
from ca_hpc.executors import local, slurm
from ca_hpc.store.progress import done_and_total, read_events
from ca_hpc.store.run_folder import RunFolder

__all__ = ["Asked", "RunStatus", "TaskStatus", "ask", "cancel", "status"]


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task now. ``done`` of ``total`` epochs, cases or folds, as far as it tells.

    If it ended without completing: ``failure`` is its class, ``cause`` one sentence, ``hint`` the
    next move, and ``lines`` are those of its logs that show it.
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
    def exit_code(self) -> ExitCode:
        """0 all completed or still going, 1 all trainings lost, 5 some."""
        bad = [t for t in self.tasks if t.state not in LIVE | {TaskState.COMPLETED}]
        if not bad:
            return ExitCode.OK
        finished = [t for t in self.tasks if t.stage == "train" and t.state is TaskState.COMPLETED]
        return ExitCode.PARTLY_DONE if finished else ExitCode.TASK_FAILED


def status(run: RunFolder, *, asked: Asked | None = None) -> RunStatus:
    """The state of every task. ``asked``: what ``ask`` said; None: it is asked."""
    said = ask(run) if asked is None else asked
    on_slurm = run.workflow.executor == "slurm"
    tasks = []
    for one in standings(run, said).values():
        attempts = run.attempts(one.task)
        done, total = done_and_total(read_events(attempts[-1]) if attempts else [])
        ended = one.result if one.state not in LIVE else None
        row, verdict = one.row, one.verdict
        waiting = row.reason if one.state is TaskState.PENDING and row is not None else ""
        tasks.append(
            TaskStatus(
                task=one.task,
                stage=one.stage,
                element=one.element,
                job=one.job if on_slurm else None,
                state=one.state,
                attempts=one.attempts,
                node=(ended.host if ended else row.node if row else None) or None,
                seconds=one.result.seconds if one.result else None,
                done=done,
                total=total,
                cause=verdict.cause if verdict else None if waiting in ("", "None") else waiting,
                hint=verdict.hint if verdict else None,
                failure=verdict.failure.value if verdict else None,
                lines=verdict.lines if verdict else (),
            )
        )
    return RunStatus(str(run.path), tuple(tasks), said.trouble)


def cancel(run: RunFolder) -> bool:
    """Cancel everything of the run that waits or runs; False when nothing does.

    Raises SchedulerUnreachable.
    """
    if status(run).ended:
        return False
    if run.workflow.executor == "local":
        local.cancel(run)
        return True
    submissions = run.submissions()
    slurm.cancel([job for s in submissions for _, job in s.jobs])
    for unsure in (s for s in submissions if s.open):  # sbatch may have failed and submitted
        slurm.cancel_named(unsure.job_name)
    return True
