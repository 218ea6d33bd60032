"""What follows an element that ended with tasks undone: decided by class, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ca_hpc.attempts.history import decision_on
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
    lost: Mapping[str, str]


def follow(job: Job, outcomes: Sequence[Outcome], *, unbegun: Sequence[str] = ()) -> Follow:
    """See ``Follow``. What a newer attempt of another job has taken over is nobody's business here.

    ``unbegun``: tasks that a warning has kept from beginning. With one slot tasks run in order:
    those not reached otherwise come with the one that ended the element.
    """
    run, stage = job.run, job.stage
    as_it_is: list[str] = list(unbegun)
    changed: dict[Change, list[str]] = {}
    lost: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.completed or not outcome.mine:
            continue
        decision = decision_on(run, stage, outcome.task)
        if not decision.again:
            lost[outcome.task] = decision.why
        elif plain(decision, job.submission):
            as_it_is.append(outcome.task)
        else:
            changed.setdefault(Change.of(decision), []).append(outcome.task)
    drafts = [
        again(stage, (job.element,), change, tasks=_tasks(job, tasks), by=job.id)
        for change, tasks in changed.items()
    ]
    return Follow(tuple(as_it_is), tuple(drafts), lost)


def plain(decision: Decision, own: Submission) -> bool:
    """Whether the job can go on as it was submitted: no wait, no other node, no more memory."""
    return (
        not decision.wait_s
        and decision.memory_mib == own.memory_mib
        and set(decision.exclude) <= set(own.exclude)
    )


def again(
    stage: Stage,
    elements: tuple[str, ...],
    change: Change,
    *,
    tasks: tuple[str, ...] | None,
    by: str,
) -> Submission:
    """The draft of a submission that does some tasks again, changed as was decided."""
    return Submission(
        number=0,
        stage=stage.name,
        job_name="",
        elements=elements,
        tasks=tasks,
        condition=stage.condition,
        memory_mib=change.memory_mib,
        exclude=change.exclude,
        wait_s=change.wait_s,
        links=stage.links,
        by=by,
    )


def _tasks(job: Job, tasks: list[str]) -> tuple[str, ...] | None:
    _, element = job.run.workflow.stage_of(job.element)
    return tuple(tasks) if element.slots > 1 else job.submission.tasks
