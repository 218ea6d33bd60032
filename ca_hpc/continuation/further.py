"""A further submission for a run that is under way, and those who must wait for it too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from ca_hpc.continuation.call import calls
from ca_hpc.continuation.standing import Standing, ask, standings
from ca_hpc.core.model import Stage, TaskState
from ca_hpc.core.record import Submission, together
from ca_hpc.core.states import LIVE
from ca_hpc.errors import SchedulerUnreachable
from ca_hpc.executors import slurm
from ca_hpc.executors.placing import Say, Sleep, place, silent
from ca_hpc.store.lock import Busy, held
from ca_hpc.store.run_folder import RunFolder

LOCK = "submissions.lock"
# A job that was warned has minutes, and those who asked for it may look away
PATIENCE_S = 60.0


@contextlib.contextmanager
def submitting(run: RunFolder, *, say: Say = silent) -> Iterator[None]:
    """Hold the run's lock, once all that it has submitted is known for sure.

    Raises SchedulerUnreachable where that cannot be found out, or another process does not let go.
    """
    try:
        with held(
            run.file(LOCK),
            waiting=lambda: say("another command submits; waiting for it"),
            patience_s=PATIENCE_S,
        ):
            settle(run, say=say)
            yield
    except Busy as error:
        raise SchedulerUnreachable(
            f"another command has been submitting for {run.path} for a minute",
            hint="try again when it has ended",
        ) from error


def further(run: RunFolder, draft: Submission, *, say: Say = silent) -> str:
    """Submit ``draft``, and have the stage behind it wait for it. Returns what was done.

    Raises SchedulerUnreachable; what is unknown then is found out by the next that submits.
    """
    with submitting(run, say=say):
        placed = submit_further(run, draft, say=say)
        told = ", ".join(dict.fromkeys(job for _, job in placed.jobs))
        said = f"stage {placed.stage}: {', '.join(placed.elements)} goes on as job {told}"
        return said + _extended(run, placed)


def submit_further(run: RunFolder, draft: Submission, *, say: Say = silent) -> Submission:
    """Submit ``draft``. The caller holds the lock."""
    return place(run, draft, call=calls(run), patience_s=PATIENCE_S, say=say)


def settle(
    run: RunFolder,
    *,
    patience_s: float = PATIENCE_S,
    sleep: Sleep = time.sleep,
    say: Say = silent,
) -> None:
    """Place submissions of which nobody knows what became, but for the first ones.

    Those are `ca-hpc submit`'s to complete. One whose tasks others have taken over is taken back.
    The caller holds the lock, so that none of them is being made by another process now. Raises as
    ``place`` does.
    """
    submissions = run.submissions()
    for intent in submissions:
        if not intent.open or intent.by == "submit":
            continue
        later = [s for s in submissions if s.number > intent.number and s.confirmed]
        tasks = [
            (element.id, task.id)
            for stage in run.workflow.stages
            for element in stage.elements
            for task in element.tasks
            if intent.names(element.id, task.id)
        ]
        if all(any(s.names(element, task) for s in later) for element, task in tasks):
            slurm.cancel(slurm.find(intent.job_name))
            run.refuse(intent, "others were submitted in its place")
        else:
            place(run, intent, call=calls(run), patience_s=patience_s, sleep=sleep, say=say)


def _extended(run: RunFolder, placed: Submission) -> str:
    """Let those who wait for the stage wait for the new jobs too; says where they will not."""
    behind = next((s for s in run.workflow.stages if s.after == placed.stage), None)
    if behind is None:
        return ""
    try:
        extend(run, behind)
    except SchedulerUnreachable as error:
        return f"; stage {behind.name} does not wait for it: {error.message}"
    return ""


def extend(run: RunFolder, stage: Stage) -> None:
    """Have the waiting jobs of ``stage`` depend on all jobs of the stage before that are to come.

    Raises SchedulerUnreachable.
    """
    assert stage.after is not None
    now = standings(run, ask(run, stages=(stage.after, stage.name)))
    waiting = {
        job
        for one in now.values()
        if one.stage == stage.name
        for job in one.jobs
        if job in one.rows and one.rows[job].state is TaskState.PENDING
    }
    if waiting:
        slurm.extend_dependency(
            together(run.submissions(), waiting),
            condition=stage.condition,
            after=awaited(run, stage.after, now),
        )


def awaited(run: RunFolder, stage: str, now: Mapping[str, Standing]) -> tuple[str, ...]:
    """The jobs of a stage that are to come: as whole arrays where all of an array is meant.

    A job that the scheduler does not know counts if it is an element's newest: it may be new.
    """
    newest = {job for jobs in run.current_jobs().values() for job in jobs}
    to_come = {
        job
        for one in now.values()
        if one.stage == stage and one.state is not TaskState.COMPLETED
        for job in one.jobs
        if (one.rows[job].state in LIVE if job in one.rows else job in newest)
    }
    return together(run.submissions(), to_come)
