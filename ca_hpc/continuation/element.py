"""On the node: run an element, then see to what follows."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final

from ca_hpc.attempts.history import restart_mark
from ca_hpc.continuation.follow import follow
from ca_hpc.continuation.further import further
from ca_hpc.continuation.job import Job
from ca_hpc.continuation.steward import look_after
from ca_hpc.continuation.ways import drop_heirs, go_on, prepare_heir, was_cancelled
from ca_hpc.errors import CaHpcError, TaskFailed
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.execution import Execution, Stop, lost
from ca_hpc.worker.node import Node

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
    run, node, element_id = job.run, job.node, job.element
    execution = Execution(run, node, submission=job.submission)
    with _signals(execution):
        if was_cancelled(job):
            drop_heirs(job)
            raise TaskFailed("the job before this one was cancelled: so is this one")
        if (waits := look_after(job)) is not None:
            return waits
        prepare_heir(job)
        outcomes = execution.run(element_id)
        missing = lost(execution.wanted(element_id), outcomes)
        if missing is None:
            drop_heirs(job)
            return "all tasks are completed"
        print(missing, file=sys.stderr, flush=True)
        if execution.stop_reason is Stop.ENDING:
            # SLURM's doing: it queues the job again or it does not; there is no time for more
            raise TaskFailed(missing)
        # a warning may come before a task has begun
        reached = {outcome.task for outcome in outcomes}
        unbegun = [task for task in execution.wanted(element_id) if task not in reached]
        stopped = execution.stop_reason is Stop.WARNED
        plan = follow(job, outcomes, unbegun=unbegun if stopped else ())
        if not plan.as_it_is:
            drop_heirs(job)
        said = [further(run, draft) for draft in plan.changed]
        said += [f"{task}: {why}" for task, why in plan.lost.items()]
        if plan.as_it_is:  # last: a job that is queued again is ended by that
            said.append(go_on(job))
        if plan.as_it_is or plan.changed:
            return "; ".join(said)
        raise TaskFailed("; ".join(said) or missing)


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
