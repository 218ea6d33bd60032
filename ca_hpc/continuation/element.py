"""On the node: run an element, then see to what follows."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ca_hpc.attempts.history import restart_mark
from ca_hpc.attempts.verdicts import STATES
from ca_hpc.continuation.follow import Follow, changed_already, follow
from ca_hpc.continuation.further import further
from ca_hpc.continuation.job import Job
from ca_hpc.continuation.steward import look_after
from ca_hpc.continuation.ways import drop_heirs, go_on, prepare_heir, was_cancelled
from ca_hpc.core.record import Submission
from ca_hpc.core.retry import Decision
from ca_hpc.errors import CaHpcError, TaskFailed
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.execution import Execution, Outcome, lost
from ca_hpc.worker.node import Node
from ca_hpc.worker.running import Stop

REASONS: Final = {signal.SIGUSR2: Stop.WARNED, signal.SIGTERM: Stop.ENDING}


def run_element(run: RunFolder, element_id: str, number: int, *, node: Node) -> str:
    """Run the element's tasks that are to do, and leave its job with what is to follow arranged.

    What is said goes to the job's log. Raises TaskFailed where nothing follows and a task is
    not done: then, and only then, the job has failed for SLURM and those that wait for it.
    """
    print(restart_mark(node.restart), flush=True)
    said = _run_element(Job(run, node, run.submission(number), element_id))
    print(f"ca-hpc: {said}", flush=True)
    return said


def _run_element(job: Job) -> str:
    execution = Execution(job.run, job.node, submission=job.submission)
    with _signals(execution):
        if was_cancelled(job):
            drop_heirs(job)
            raise TaskFailed("the job before this one was cancelled: so is this one")
        if (waits := look_after(job)) is not None:
            return waits
        handed = _submit(job, changed_already(job), execution=execution)
        if not execution.wanted(job.element):
            drop_heirs(job)
            return "; ".join(handed) or "its tasks are in other hands"
        prepare_heir(job)
        outcomes = execution.run(job.element)
        missing = lost(execution.wanted(job.element), outcomes)
        if missing is None:
            drop_heirs(job)
            return "; ".join([*handed, "all tasks are completed"])
        print(missing, file=sys.stderr, flush=True)
        if execution.ending:
            # SLURM's doing: it queues the job again or it does not; there is no time for more
            raise TaskFailed(missing)
        # a warning may come before a task has begun
        reached = {outcome.task for outcome in outcomes}
        unbegun = [task for task in execution.wanted(job.element) if task not in reached]
        plan = follow(job, outcomes, unbegun=unbegun if execution.warned else ())
        return _arrange(job, plan, outcomes, execution=execution, missing=missing)


def _arrange(
    job: Job, plan: Follow, outcomes: Sequence[Outcome], *, execution: Execution, missing: str
) -> str:
    """Do what was decided. Raises TaskFailed where nothing follows."""
    _write_down(job.run, plan.lost, outcomes)
    placed = _submit(job, plan.changed, execution=execution)
    said = [*placed, *(f"{task}: {decision.why}" for task, decision in plan.lost.items())]
    if plan.as_it_is and not execution.ending:  # last: a job that is queued again is ended by that
        return "; ".join([*said, go_on(job)])
    if len(placed) == len(plan.changed):  # else those that would take over try it themselves
        drop_heirs(job)
    if placed:
        return "; ".join(said)
    raise TaskFailed("; ".join(said) or missing)


def _submit(job: Job, drafts: Sequence[Submission], *, execution: Execution) -> list[str]:
    """Submit further jobs; what was done. What fails is told, and keeps nothing else from going on.

    Nothing is submitted for a job that is being cancelled.
    """
    done = []
    for draft in drafts:
        if execution.ending:
            break
        try:
            done.append(further(job.run, draft))
        except (CaHpcError, OSError) as error:
            what = ", ".join(draft.tasks or draft.elements)
            print(f"ca-hpc: {what}: not submitted again: {error}", file=sys.stderr, flush=True)
    return done


def _write_down(
    run: RunFolder, given_up: Mapping[str, Decision], outcomes: Sequence[Outcome]
) -> None:
    """Where a task is not tried again for another reason than how it ended, its result says so."""
    for outcome in outcomes:
        decision, result = given_up.get(outcome.task), outcome.result
        if decision is not None and decision.failure.value != result.failure:
            attempt = run.attempt(outcome.task, result.attempt)
            told = f"{decision.why}; the last time: {result.cause}"
            state = STATES[decision.failure]
            changed = replace(result, state=state, failure=decision.failure.value, cause=told)
            with contextlib.suppress(OSError):
                run.write_result(attempt, changed)


@contextlib.contextmanager
def _signals(execution: Execution) -> Iterator[None]:
    """Ours in the place of submitit's, which would stop at nothing but USR2 and requeue itself."""

    def stop(number: int, frame: object) -> None:
        execution.stop(REASONS[signal.Signals(number)])

    former: dict[int, Any] = {number: signal.signal(number, stop) for number in REASONS}
    try:
        yield
    except CaHpcError as error:
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
