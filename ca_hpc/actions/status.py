"""Status: results first, then one question to the scheduler about what has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Result
from ca_hpc.core.states import LIVE, Row, derive_state
from ca_hpc.errors import CaHpcError, ExitCode, SchedulerUnreachable
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


def status(run: RunFolder, *, ask: bool = True) -> RunStatus:
    """The state of every task. With ``ask=False`` only files are read."""
    flow = run.workflow
    open_tasks = any(not _completed(run.result(task.id)) for task in flow.tasks)
    rows: Mapping[str, Row] = {}
    trouble = None
    if ask and open_tasks:
        try:
            rows = QUERIES[flow.executor](run)
        except SchedulerUnreachable as error:
            trouble = error.message
    # read after the scheduler was asked: what ended in between has its result by now
    results = {task.id: run.result(task.id) for task in flow.tasks}
    jobs = {e: j for s in run.submissions().values() for e, j in s.job_ids.items()}
    tasks = []
    for stage in flow.stages:
        for element in stage.elements:
            row = rows.get(element.id)
            for task in element.tasks:
                result = results[task.id]
                attempts = run.attempts(task.id)
                submitted = element.id in jobs or flow.executor == "local"
                state = derive_state(result, row, submitted=submitted)
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
                        cause=ended.cause if ended else _queue_reason(state, row),
                        hint=ended.hint if ended else None,
                    )
                )
    return RunStatus(str(run.path), tuple(tasks), trouble)


def _completed(result: Result | None) -> bool:
    return result is not None and result.state is TaskState.COMPLETED


# Event -> (done, total) of a progress bar.
_COUNTERS: Final = {
    "case": ("done", "total"),
    "fold": ("done", "total"),
    "validation": ("done", "total"),
}


def _progress(events: list[dict[str, object]]) -> tuple[int | None, int | None]:
    for event in reversed(events):
        kind = str(event.get("event"))
        if kind == "epoch":
            return int(str(event["epoch"])) + 1, int(str(event["epochs"]))
        if kind in _COUNTERS:
            done, total = _COUNTERS[kind]
            return int(str(event[done])), int(str(event[total]))
    return None, None


def _queue_reason(state: TaskState, row: Row | None) -> str | None:
    if row is None or row.reason in ("", "None"):
        return None
    return row.reason if state is TaskState.PENDING else None


def log_file(run: RunFolder, task_id: str) -> str:
    """Path of the newest log of a task: its attempt's, else its element's."""
    flow = run.workflow
    known = {task.id: (stage, element) for stage in flow.stages for element in stage.elements
             for task in element.tasks}  # fmt: skip
    if task_id not in known:
        raise CaHpcError(f"no task {task_id} in {run.path}", hint="tasks: " + ", ".join(known))
    for attempt in reversed(run.attempts(task_id)):
        if (attempt / "log.txt").is_file():
            return str(attempt / "log.txt")
    stage, element = known[task_id]
    jobs = run.submissions().get(stage.name)
    if jobs is not None and element.id in jobs.job_ids:
        job = jobs.job_ids[element.id]
        for file in sorted(slurm.log_folder(run.path, stage.name).glob(f"{job}_*_log.out")):
            return str(file)
    local_log = run.file("local", f"{element.id}.log")
    if local_log.is_file():
        return str(local_log)
    raise CaHpcError(f"{task_id} has no log yet", hint="it has not started: ca-hpc status RUN")


def cancel(run: RunFolder) -> None:
    """Cancel everything of the run that waits or runs. Raises SchedulerUnreachable."""
    if run.workflow.executor == "local":
        local.cancel(run)
        return
    slurm.cancel([j for s in run.submissions().values() for j in s.job_ids.values()])
