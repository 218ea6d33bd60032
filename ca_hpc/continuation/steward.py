"""A job that begins looks after the stages before its own: what died there without a word, and
should be tried again, is; nobody has to be logged in for that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from ca_hpc.attempts.history import decision_on, history, ordered
from ca_hpc.continuation.again import place_again
from ca_hpc.continuation.follow import Change
from ca_hpc.continuation.further import submitting
from ca_hpc.continuation.job import Job
from ca_hpc.continuation.standing import Standing, ask, standings
from ca_hpc.core.model import TaskState
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.store.run_folder import RunFolder

# Jobs that end before they have begun an attempt, one after the other: then the site is at fault
MOST_SILENT: Final = 2


def look_after(job: Job) -> str | None:
    """Submit anew what the rules want tried again of the stages before; says so, or None.

    Then the work of this job comes later too, in another one that was submitted behind them. Only
    for stages that are run whatever became of those before; what cannot be found out is left.
    """
    stage = job.stage
    if stage.condition != "afterany":
        return None
    run = job.run
    try:
        with submitting(run):
            asked = ask(run)
            if asked.trouble is not None:
                raise SchedulerUnreachable(asked.trouble)
            now = standings(run, asked)
            wanted = _to_be_tried(job, now)
            if not wanted:
                return None
            placed = place_again(run, wanted, now, by=job.id, say=print)
    except (CaHpcError, OSError) as error:
        print(f"ca-hpc: nothing is tried again: {error}", file=sys.stderr, flush=True)
        placed = [s for s in run.submissions() if s.by == job.id and s.confirmed]
    if not any(s.stage == stage.name for s in placed):
        return None
    jobs = ", ".join(dict.fromkeys(job for s in placed for _, job in s.jobs))
    return f"what died is tried again; this stage comes after that: jobs {jobs}"


def _to_be_tried(job: Job, now: Mapping[str, Standing]) -> dict[str, Change]:
    """Tasks of earlier stages that ended without a word, and for which the rules want a next try.

    What was cancelled was meant to end. Where a worker lived to see the end, it has decided.
    """
    run = job.run
    wanted: dict[str, Change] = {}
    for stage in run.workflow.stages:
        if stage.name == job.stage.name:
            break
        for task in stage.tasks:
            if not _died(now[task.id]):
                continue
            if history(run, task.id):
                decision = decision_on(run, stage, task.id)
                if decision.again:
                    wanted[task.id] = Change.of(decision)
            elif _jobs_for(run, task.id) <= MOST_SILENT:
                wanted[task.id] = Change()
    return wanted


def _died(one: Standing) -> bool:
    """Whether the task's job is over, was not cancelled, and has not completed it.

    This job was to begin after it: one that the scheduler does not know any more has ended.
    """
    if one.row is None:
        return one.state is TaskState.UNKNOWN and bool(one.jobs)
    over = not one.live and one.state is not TaskState.COMPLETED
    return over and one.row.state is not TaskState.CANCELLED


def _jobs_for(run: RunFolder, task: str) -> int:
    """How many submissions the task has had since somebody ordered it."""
    since, element = ordered(run, task), run.workflow.element_of(task)
    return sum(s.number >= since and s.names(element, task) for s in run.submissions())
