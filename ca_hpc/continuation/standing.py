"""How every task of a run stands: by its attempts first, then by what the scheduler says.

Order of truth: a result, a fresh row of the scheduler, the record of the submission. What nobody
can tell is UNKNOWN, never failed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ca_hpc.attempts.evidence import tail
from ca_hpc.attempts.history import current_result, dead, or_full_disk
from ca_hpc.core.failures import Evidence, Verdict, addressed, diagnose
from ca_hpc.core.model import Element, Stage, Task, TaskState
from ca_hpc.core.record import Result, Submission
from ca_hpc.core.rules import Failure
from ca_hpc.core.states import LIVE, Row, derive_state, present
from ca_hpc.errors import SchedulerUnreachable
from ca_hpc.executors import local, slurm
from ca_hpc.store.run_folder import RunFolder

# Of a task's submissions, how many of the newest are asked about: what takes over waits while the
# one before still runs, and all others have ended.
ASKED: Final = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """What the scheduler said, by job id, and why it could not be asked, if it could not."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """One task now. ``jobs``: its latest, oldest first, and of them ``job`` counts, with ``row``.

    ``verdict``: why it did not complete.
    """

    task: str
    stage: str
    element: str
    state: TaskState
    result: Result | None
    attempts: int
    jobs: tuple[str, ...] = ()
    rows: Mapping[str, Row] = field(default_factory=dict)
    job: str | None = None
    row: Row | None = None
    verdict: Verdict | None = None

    @property
    def live(self) -> bool:
        """It waits, runs, or nobody can tell."""
        return self.state in LIVE


def ask(run: RunFolder, *, stages: Collection[str] | None = None) -> Asked:
    """One question to the scheduler about the jobs of all tasks that are not completed."""
    flow = run.workflow
    if flow.executor == "local":
        return Asked(local.query(run, {e.id for s in flow.stages for e in s.elements}))
    submissions = run.submissions()
    wanted = [
        job
        for stage in flow.stages
        if stages is None or stage.name in stages
        for element in stage.elements
        for task in element.tasks
        if not _completed(current_result(run, task.id))
        for job in _jobs(submissions, element, task)
    ]
    if not wanted:
        return Asked()
    try:
        return Asked(slurm.rows(wanted))
    except SchedulerUnreachable as error:
        return Asked(trouble=error.message)


def standings(run: RunFolder, asked: Asked) -> dict[str, Standing]:
    """Every task by its id, in the order of the workflow. ``asked``: before anything is read."""
    submissions = run.submissions()
    return {
        task.id: _standing(run, stage, element, task, asked=asked, submissions=submissions)
        for stage in run.workflow.stages
        for element in stage.elements
        for task in element.tasks
    }


def _standing(
    run: RunFolder,
    stage: Stage,
    element: Element,
    task: Task,
    *,
    asked: Asked,
    submissions: Sequence[Submission],
) -> Standing:
    local_run = run.workflow.executor == "local"
    jobs = (element.id,) if local_run else _jobs(submissions, element, task)
    rows = {job: asked.rows[job] for job in jobs if job in asked.rows}
    result, attempts = current_result(run, task.id), run.attempts(task.id)
    later = () if result is None else _later(result, jobs, rows)
    counting = later or jobs
    row = present([rows[job] for job in counting if job in rows])
    refused = _refused(submissions, element, task)
    newer = result is not None and (bool(later) or attempts[-1].name > result.attempt)
    state = derive_state(
        result,
        Row(TaskState.CANCELLED) if refused else row,
        submitted=bool(jobs),
        newer=newer,
        behind=not attempts and len(element.tasks) > 1,
        packed=element.slots > 1,
    )
    verdict = None
    if refused:
        verdict = Verdict(Failure.CANCELLED, refused)
    elif state not in LIVE and state is not TaskState.COMPLETED:
        verdict = _verdict(run, task, None if newer else result, row, job=counting[-1:])
    return Standing(
        task=task.id,
        stage=stage.name,
        element=element.id,
        state=state,
        result=result,
        attempts=len(attempts),
        jobs=jobs,
        rows=rows,
        job=next((job for job in counting if rows.get(job) is row), (*counting[-1:], None)[0]),
        row=row,
        verdict=verdict,
    )


def _later(result: Result, jobs: Sequence[str], rows: Mapping[str, Row]) -> tuple[str, ...]:
    """Jobs that have taken over from the one that left the result; not those dropped since."""
    own = next((i for i, job in enumerate(jobs) if f"-{job}-" in result.attempt), None)
    behind = () if own is None else jobs[own + 1 :]
    dropped = {job for job in behind if job in rows and rows[job].state is TaskState.CANCELLED}
    return tuple(job for job in behind if job not in dropped)


def _refused(submissions: Sequence[Submission], element: Element, task: Task) -> str | None:
    """Why SLURM would not take the run: one refused stage takes the others back.

    Until somebody submits them again.
    """
    refusal = next((s for s in submissions if s.refused and s.by == "submit"), None)
    if refusal is None:
        return None
    again = [s for s in submissions if s.number > refusal.number and s.confirmed]
    return None if any(s.names(element.id, task.id) for s in again) else refusal.refused


def _verdict(
    run: RunFolder, task: Task, result: Result | None, row: Row | None, *, job: Sequence[str]
) -> Verdict:
    """Why a task ended: as its result says; without one by logs and the scheduler's word."""
    if result is not None:
        failure = Failure(result.failure or Failure.UNKNOWN)
        return Verdict(failure, result.cause or "", result.hint, result.lines)
    if attempts := run.attempts(task.id):
        return dead(run, attempts[-1], row=row)
    logs = [log for one in job for log in run.job_logs(one)]
    lines = tuple(line for log in logs for line in tail(log))
    verdict = or_full_disk(diagnose(Evidence(row=row, lines=lines)), run)
    return addressed(verdict, run=run.path, task=task.id)


def _jobs(submissions: Sequence[Submission], element: Element, task: Task) -> tuple[str, ...]:
    """Ids of the jobs of the newest submissions that the task is part of, oldest first."""
    named = [s for s in submissions if s.confirmed and s.names(element.id, task.id)]
    return tuple(job for submission in named[-ASKED:] for job in submission.of(element.id))


def _completed(result: Result | None) -> bool:
    return result is not None and result.state is TaskState.COMPLETED
