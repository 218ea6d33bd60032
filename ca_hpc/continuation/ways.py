"""How the tasks of an interrupted job go on: three ways, since sites differ in what they allow.

``requeue``: the job is queued again under its own id. ``array``: the next link of an array that
runs one at a time takes over. ``resubmit``: a job that was submitted when this one began, and
waits for its end, takes over; so it does when this one is killed without a word.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

from ca_hpc.continuation.further import further
from ca_hpc.continuation.job import Job
from ca_hpc.core.model import SLICED, Continuation, TaskState
from ca_hpc.core.record import Submission
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.executors import slurm


def go_on(job: Job) -> str:
    """See to it that the job's tasks go on. Returns what was done; raises SchedulerUnreachable."""
    return _WAYS[job.run.workflow.continuation](job)


def prepare_heir(job: Job) -> None:
    """Where sites continue by resubmission: submit the job that takes over, to wait for this one.

    Before this one has done anything, because a job that is killed can submit nothing. What goes
    wrong is told only: it is tried again at the end.
    """
    resubmits = job.run.workflow.continuation == "resubmit" and job.stage.name in SLICED
    if not resubmits or not job.open_tasks or any(heir.confirmed for heir in job.heirs):
        return
    try:
        print(further(job.run, _heir(job, after=(job.id,))), flush=True)
    except (CaHpcError, OSError) as error:
        print(f"ca-hpc: no job to take over: {error}", file=sys.stderr, flush=True)


def drop_heirs(job: Job) -> None:
    """Cancel what was to take over: there is nothing more to do. They would see it themselves."""
    try:
        if job.submission.links > 1:
            slurm.cancel_waiting(job.submission.of(job.element))
        slurm.cancel_waiting([j for heir in job.heirs for j in heir.of(job.element)])
    except CaHpcError as error:
        print(f"ca-hpc: {error.message}", file=sys.stderr, flush=True)


def was_cancelled(job: Job) -> bool:
    """Whether somebody cancelled the job that this one is the heir or the next link of."""
    before = [one for one in job.submission.after if job.submission.by == one]
    if job.link:
        before = [job.submission.of(job.element)[job.link - 1]]
    if not before:
        return False
    try:
        found = slurm.rows(before)
    except SchedulerUnreachable:
        return False
    return any(row.state is TaskState.CANCELLED for row in found.values())


def _requeue(job: Job) -> str:
    try:
        slurm.requeue(job.id)
    except SchedulerUnreachable as error:
        print(f"ca-hpc: {error.message}; submitting a further job instead", flush=True)
        return further(job.run, _heir(job, after=()))
    return f"job {job.id} is queued again"


def _next_link(job: Job) -> str:
    if job.link < job.submission.links - 1:
        return f"link {job.link + 2} of {job.submission.links} takes over"
    return further(job.run, _heir(job, after=()))


def _heir_takes_over(job: Job) -> str:
    for heir in job.heirs:
        if heir.confirmed:
            return f"job {', '.join(heir.of(job.element))} takes over"
    return further(job.run, _heir(job, after=()))


def _heir(job: Job, *, after: tuple[str, ...]) -> Submission:
    own = job.submission
    _, element = job.run.workflow.stage_of(job.element)
    return Submission(
        number=0,
        stage=own.stage,
        job_name="",
        elements=(job.element,),
        # not what others have in hand by now
        tasks=job.tasks if element.slots > 1 else own.tasks,
        again=own.again,
        after=after,
        condition="afterany",
        memory_mib=own.memory_mib,
        exclude=own.exclude,
        links=own.links,
        by=job.id,
    )


_WAYS: Final[Mapping[Continuation, Callable[[Job], str]]] = {
    "requeue": _requeue,
    "array": _next_link,
    "resubmit": _heir_takes_over,
}
