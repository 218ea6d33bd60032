"""What follows an element that ended with tasks undone: decided by class, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ca_hpc.attempts.history import decision_on, history
from ca_hpc.continuation.job import Job
from ca_hpc.core.model import Stage
from ca_hpc.core.record import Submission
from ca_hpc.core.retry import Decision
from ca_hpc.worker.execution import Outcome


@dataclass(frozen=True, slots=True)
class Change:
    """What the next jobs of a task ask for otherwise than its stage does."""

    memory_mib: int | None = None
    exclude: tuple[str, ...] = ()
    wait_s: int = 0

    @classmethod
    def of(cls, decision: Decision) -> Change:
        """The changes of a decision, without its reasons."""
        return cls(decision.memory_mib, decision.exclude, decision.wait_s)


@dataclass(frozen=True, slots=True)
class Follow:
    """``as_it_is``: the job goes on in the profile's way. ``changed``: further submissions.

    ``lost``: tasks that are not tried again, and why.
    """

    as_it_is: tuple[str, ...]
    changed: tuple[Submission, ...]
    lost: Mapping[str, Decision]


def follow(job: Job, outcomes: Sequence[Outcome], *, unbegun: Sequence[str] = ()) -> Follow:
    """See ``Follow``. What a newer attempt of another job has taken over is nobody's business here.

    ``unbegun``: tasks that a warning has kept from beginning. With one slot tasks run in order:
    those not reached otherwise come with the one that ended the element.
    """
    run, stage = job.run, job.stage
    as_it_is: list[str] = list(unbegun)
    changed: dict[Change, list[str]] = {}
    lost: dict[str, Decision] = {}
    for outcome in outcomes:
        if outcome.completed or not outcome.mine:
            continue
        decision = decision_on(run, stage, outcome.task)
        if not decision.again:
            lost[outcome.task] = decision
        elif plain(decision, job.submission):
            as_it_is.append(outcome.task)
        else:
            changed.setdefault(Change.of(decision), []).append(outcome.task)
    return Follow(tuple(as_it_is), _drafts(job, changed), lost)


def changed_already(job: Job) -> tuple[Submission, ...]:
    """What is to be submitted before anything is run: tasks that this job has the wrong means for.

    SLURM queues a job again as it was, also after an attempt that was killed for want of memory or
    died on a node that is to be left out.
    """
    run, stage = job.run, job.stage
    changed: dict[Change, list[str]] = {}
    for task in job.open_tasks:
        if not history(run, task):
            continue
        decision = decision_on(run, stage, task)
        if decision.again and not suits(decision, job.submission):
            changed.setdefault(Change.of(decision), []).append(task)
    return _drafts(job, changed)


def plain(decision: Decision, own: Submission) -> bool:
    """Whether the job can go on as it was submitted, and at once."""
    return not decision.wait_s and suits(decision, own)


def suits(decision: Decision, own: Submission) -> bool:
    """Whether a job of the submission has the memory, and may not be on the nodes to leave out."""
    return decision.memory_mib == own.memory_mib and set(decision.exclude) <= set(own.exclude)


def _drafts(job: Job, changed: Mapping[Change, list[str]]) -> tuple[Submission, ...]:
    _, element = job.run.workflow.stage_of(job.element)
    return tuple(
        again(
            job.stage,
            (job.element,),
            change,
            tasks=tuple(tasks) if element.slots > 1 else job.submission.tasks,
            by=job.id,
            redo=job.submission.again,
        )
        for change, tasks in changed.items()
    )


def again(
    stage: Stage,
    elements: tuple[str, ...],
    change: Change,
    *,
    tasks: tuple[str, ...] | None,
    by: str,
    redo: bool = False,
) -> Submission:
    """The draft of a submission that does some tasks again, changed as was decided.

    ``redo``: also those that have completed.
    """
    return Submission(
        number=0,
        stage=stage.name,
        job_name="",
        elements=elements,
        tasks=tasks,
        again=redo,
        condition=stage.condition,
        memory_mib=change.memory_mib,
        exclude=change.exclude,
        wait_s=change.wait_s,
        links=stage.links,
        by=by,
    )
