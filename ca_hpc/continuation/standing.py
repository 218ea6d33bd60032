"""How every task of a run stands: by its attempts first, then by what the scheduler says.

Order of truth: a result, a fresh row of the scheduler, the record of the submission. What nobody
can tell is UNKNOWN, never failed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ca_hpc.attempts.evidence import tail
from ca_hpc.attempts.history import dead
from ca_hpc.core.failures import Evidence, Verdict, diagnose
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
    """One task now. ``jobs``: its latest, oldest first. ``verdict``: why it did not complete."""

    task: str
    stage: str
    element: str
    state: TaskState
    result: Result | None
    attempts: int
    jobs: tuple[str, ...] = ()
    rows: Mapping[str, Row] = field(default_factory=dict)
    verdict: Verdict | None = None

    @property
    def row(self) -> Row | None:
        """Of its jobs' rows the one that counts now."""
        return present([self.rows[job] for job in self.jobs if job in self.rows])

    @property
    def job(self) -> str | None:
        """The id of the job that counts now."""
        row = self.row
        known = [job for job in self.jobs if self.rows.get(job) is row and row is not None]
        return next(iter(known or self.jobs[-1:]), None)

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
        if not _completed(_current(run, submissions, element, task))
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
    refused = next((s for s in submissions if s.refused and s.by == "submit"), None)
    return {
        task.id: _standing(run, stage, element, task, asked, submissions, refused)
        for stage in run.workflow.stages
        for element in stage.elements
        for task in element.tasks
    }


def _standing(
    run: RunFolder,
    stage: Stage,
    element: Element,
    task: Task,
    asked: Asked,
    submissions: Sequence[Submission],
    refusal: Submission | None,
) -> Standing:
    on_slurm = run.workflow.executor == "slurm"
    jobs = _jobs(submissions, element, task) if on_slurm else (element.id,)
    rows = {job: asked.rows[job] for job in jobs if job in asked.rows}
    # one refused stage took the others back, until somebody submitted them again
    anew = [s for s in submissions if s.confirmed and s.names(element.id, task.id)][-1:]
    over = refusal is not None and not any(s.number > refusal.number for s in anew)
    refused = refusal.refused if refusal is not None and over else None
    row = Row(TaskState.CANCELLED) if refused else present(list(rows.values()))
    result, attempts = _current(run, submissions, element, task), run.attempts(task.id)
    newer = result is not None and (
        attempts[-1].name > result.attempt
        or (row is not None and on_slurm and not _of_job(result, jobs, rows, row))
    )
    state = derive_state(
        result,
        row,
        submitted=bool(jobs),
        newer=newer,
        behind=not attempts and len(element.tasks) > 1,
        packed=element.slots > 1,
    )
    verdict = None
    if state not in LIVE and state is not TaskState.COMPLETED:
        if result is not None and not newer:
            verdict = Verdict(
                Failure(result.failure or Failure.UNKNOWN),
                result.cause or "",
                result.hint,
                result.lines,
            )
        elif refused is not None:
            verdict = Verdict(Failure.CANCELLED, refused)
        elif attempts:
            verdict = dead(run, attempts[-1], row=row)
        else:
            lines = [line for job in jobs[-1:] for log in run.job_logs(job) for line in tail(log)]
            verdict = diagnose(Evidence(exit_status=None, lines=tuple(lines), row=row))
    return Standing(
        task.id, stage.name, element.id, state, result, len(attempts), jobs, rows, verdict
    )


def _jobs(submissions: Sequence[Submission], element: Element, task: Task) -> tuple[str, ...]:
    """Ids of the jobs of the newest submissions that the task is part of, oldest first."""
    named = [s for s in submissions if s.confirmed and s.names(element.id, task.id)]
    return tuple(job for submission in named[-ASKED:] for job in submission.of(element.id))


def _current(
    run: RunFolder, submissions: Sequence[Submission], element: Element, task: Task
) -> Result | None:
    """The task's result, unless somebody has ordered it anew since."""
    result = run.result(task.id)
    if result is None:
        return None
    again = [s.number for s in submissions if s.again and s.names(element.id, task.id)]
    own = run.attempt_record(run.attempt(task.id, result.attempt))
    return None if again and own is not None and own.submission < again[-1] else result


def _of_job(result: Result, jobs: Sequence[str], rows: Mapping[str, Row], row: Row) -> bool:
    """Whether the row that counts is of the job that left the result."""
    return any(rows.get(job) is row and f"-{job}-" in result.attempt for job in jobs)


def _completed(result: Result | None) -> bool:
    return result is not None and result.state is TaskState.COMPLETED
