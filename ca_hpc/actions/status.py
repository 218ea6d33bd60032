"""Status: results first, then one question to the scheduler about what has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Result
from ca_hpc.core.states import LIVE, Row, derive_state
from ca_hpc.errors import ExitCode, SchedulerUnreachable
from ca_hpc.executors import local, slurm
from ca_hpc.report.gather import read_events
from ca_hpc.store.run_folder import RunFolder

QUERIES: Final = {"slurm": slurm.query, "local": local.query}


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task now. ``done`` of ``total`` epochs, cases or folds, as far as it tells."""

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


def ask(run: RunFolder) -> tuple[Mapping[str, Row], str | None]:
    """What the scheduler says about the elements with open tasks, and why it could not be asked."""
    flow = run.workflow
    unknown = {
        element.id
        for stage in flow.stages
        for element in stage.elements
        if any(not _completed(run.result(task.id)) for task in element.tasks)
    }
    if not unknown:
        return {}, None
    try:
        return QUERIES[flow.executor](run, unknown), None
    except SchedulerUnreachable as error:
        return {}, error.message


def status(
    run: RunFolder, *, rows: Mapping[str, Row] | None = None, trouble: str | None = None
) -> RunStatus:
    """The state of every task. ``rows`` and ``trouble``: what ``ask`` said; None: it is asked."""
    if rows is None:
        rows, trouble = ask(run)
    flow = run.workflow
    # read after the scheduler was asked: what ended in between has its result by now
    results = {task.id: run.result(task.id) for task in flow.tasks}
    submissions = run.submissions()
    jobs = {e: j for s in submissions.values() for e, j in s.job_ids.items()}
    refused = next((s.refused for s in submissions.values() if s.refused), None)
    tasks = []
    for stage in flow.stages:
        for element in stage.elements:
            row = rows.get(element.id)
            for task in element.tasks:
                result = results[task.id]
                attempts = run.attempts(task.id)
                submitted = element.id in jobs or flow.executor == "local"
                state = derive_state(
                    result,
                    Row(TaskState.CANCELLED) if refused else row,
                    submitted=submitted,
                    newer=result is not None and any(a.name > result.attempt for a in attempts),
                    behind=not attempts and len(element.tasks) > 1,
                )
                ended = result if state not in LIVE else None
                done, total = _progress(read_events(attempts[-1]) if attempts else [])
                tasks.append(
                    TaskStatus(
                        task=task.id,
                        stage=stage.name,
                        element=element.id,
                        job=jobs.get(element.id),
                        state=state,
                        attempts=len(attempts),
                        node=(ended.host if ended else row.node if row else None) or None,
                        seconds=result.seconds if result else None,
                        done=done,
                        total=total,
                        cause=ended.cause if ended else refused or _reason(state, row),
                        hint=ended.hint if ended else None,
                    )
                )
    return RunStatus(str(run.path), tuple(tasks), trouble)


def _completed(result: Result | None) -> bool:
    return result is not None and result.state is TaskState.COMPLETED


# Event -> (done, total) of a progress bar, and what to add: epochs are told by their index.
_COUNTERS: Final = {
    "case": ("done", "total", 0),
    "fold": ("done", "total", 0),
    "validation": ("done", "total", 0),
    "epoch": ("epoch", "epochs", 1),
}


def _progress(events: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    for event in reversed(events):
        if event["event"] not in _COUNTERS:
            continue
        done_key, total_key, add = _COUNTERS[event["event"]]
        done, total = event.get(done_key), event.get(total_key)
        if isinstance(done, int) and isinstance(total, int):
            return done + add, total
    return None, None


def _reason(state: TaskState, row: Row | None) -> str | None:
    """Why a task without a result is where it is."""
    if state is TaskState.PENDING and row is not None:
        return row.reason if row.reason not in ("", "None") else None
    if state in LIVE or state is TaskState.CANCELLED:
        return None
    return "it ended without leaving a result: killed, out of memory, or its node lost; see its log"


def cancel(run: RunFolder) -> bool:
    """Cancel everything of the run that waits or runs; False when nothing does.

    Raises SchedulerUnreachable.
    """
    if status(run).ended:
        return False
    if run.workflow.executor == "local":
        local.cancel(run)
    else:
        slurm.cancel([j for s in run.submissions().values() for j in s.job_ids.values()])
    return True
