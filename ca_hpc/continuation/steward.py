"""A job that begins looks after the stages before its own: what died there without a word, and
should be tried again, is; nobody has to be logged in for that.
"""

from __future__ import annotations

import sys

from ca_hpc.attempts.history import decision_on, history
from ca_hpc.continuation.again import place_again
from ca_hpc.continuation.follow import Change
from ca_hpc.continuation.further import LOCK
from ca_hpc.continuation.job import Job
from ca_hpc.continuation.standing import Standing, ask, standings
from ca_hpc.core.model import TaskState
from ca_hpc.errors import CaHpcError
from ca_hpc.store.lock import held


def look_after(job: Job) -> str | None:
    """Submit anew what the rules want tried again of the stages before; says so, or None.

    Then the work of this job comes later too, in another one that was submitted behind them. Only
    for stages that are run whatever became of those before; what cannot be found out is left.
    """
    stage = job.stage
    if stage.condition != "afterany":
        return None
    run = job.run
    with held(run.file(LOCK), waiting=lambda: None):
        asked = ask(run)
        if asked.trouble is not None:
            print(f"ca-hpc: {asked.trouble}", file=sys.stderr, flush=True)
            return None
        now = standings(run, asked)
        wanted = _to_be_tried(job, now)
        if not wanted:
            return None
        try:
            placed = place_again(run, wanted, now, by=job.id, say=print)
        except CaHpcError as error:
            print(f"ca-hpc: not tried again: {error.message}", file=sys.stderr, flush=True)
            return None
    if not any(s.stage == stage.name for s in placed):
        return None
    jobs = ", ".join(dict.fromkeys(job for s in placed for _, job in s.jobs))
    return f"{', '.join(wanted)}: tried again; this stage comes after that: jobs {jobs}"


def _to_be_tried(job: Job, now: dict[str, Standing]) -> dict[str, Change]:
    """Tasks of earlier stages that ended without a word, and for which the rules want a next try.

    What was cancelled was meant to end. Where a worker lived to see the end, it has decided.
    """
    run = job.run
    wanted: dict[str, Change] = {}
    for stage in run.workflow.stages:
        if stage.name == job.stage.name:
            break
        for task in stage.tasks:
            one = now[task.id]
            ended = not one.live and one.state is not TaskState.COMPLETED
            cancelled = one.row is None or one.row.state is TaskState.CANCELLED
            if not ended or cancelled or not history(run, task.id):
                continue
            decision = decision_on(run, stage, task.id)
            if decision.again:
                wanted[task.id] = Change.of(decision)
    return wanted
