"""Retry: what failed runs again, as further attempts of the same run; nothing else does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ca_hpc.actions.submit import resume_submission
from ca_hpc.continuation.again import REDONE, place_again
from ca_hpc.continuation.follow import Change
from ca_hpc.continuation.further import LOCK
from ca_hpc.continuation.standing import Standing, ask, standings
from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Submission
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.executors import local
from ca_hpc.executors.placing import Say
from ca_hpc.store.lock import held
from ca_hpc.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Retried:
    """Tasks that run again, and the jobs that were submitted for them and for what is behind."""

    tasks: tuple[str, ...]
    jobs: tuple[str, ...]


def retry(
    run: RunFolder,
    *,
    only: Collection[str] = (),
    memory_mib: int | None = None,
    max_gpu_hours: float | None = None,
    say: Say,
) -> Retried:
    """Submit again what has ended without completing; what waits or runs is left alone.

    ``only``: of these tasks. ``memory_mib``: of the jobs, where the stage's own was too little.
    ``max_gpu_hours``: a new ceiling for the run. A submission that was cut off is completed first.
    Raises CaHpcError for tasks that the run does not have, SchedulerUnreachable where nobody can
    tell whether they still run.
    """
    unknown = sorted(set(only) - {task.id for task in run.workflow.tasks})
    if unknown:
        raise CaHpcError(
            f"no task {unknown[0]} in {run.path}",
            hint="tasks: " + ", ".join(task.id for task in run.workflow.tasks),
        )
    if max_gpu_hours is not None:
        run.write("workflow.json", replace(run.workflow, max_gpu_hours=max_gpu_hours))
    if run.workflow.executor == "local":
        return _here(run, only=only)
    resume_submission(run, say=say)
    with held(run.file(LOCK), waiting=lambda: say("another command submits; waiting for it")):
        asked = ask(run)
        if asked.trouble is not None:
            raise SchedulerUnreachable(
                f"{asked.trouble}; nothing was submitted",
                hint="try again when it answers: what still runs must not be started twice",
            )
        now = standings(run, asked)
        failed = _failed(now, only=only)
        change = Change(memory_mib=memory_mib)
        placed = place_again(run, dict.fromkeys(failed, change), now, by="retry", say=say)
    return Retried(failed, _ids(placed))


def _here(run: RunFolder, *, only: Collection[str]) -> Retried:
    """Without SLURM: a new scheduler process takes up what is not completed."""
    if local.alive(run):
        raise CaHpcError(
            f"{run.path} is still running",
            hint="retry it when it has ended: ca-hpc status --watch RUN; or ca-hpc cancel RUN",
        )
    failed = _failed(standings(run, ask(run)), only=only)
    if failed:
        elements = {run.workflow.element_of(task) for task in failed}
        begun = False
        for stage in run.workflow.stages:
            names = tuple(element.id for element in stage.elements)
            redone = begun and stage.name in REDONE
            theirs = names if redone else tuple(name for name in names if name in elements)
            if theirs:
                begun = True
                draft = Submission(0, stage.name, "", theirs, again=redone, by="retry")
                run.confirm(run.new_submission(draft), [(element, element) for element in theirs])
        local.launch(run)
    return Retried(failed, ())


def _failed(now: dict[str, Standing], *, only: Collection[str]) -> tuple[str, ...]:
    """Tasks that have ended and not completed, or were never submitted, in the workflow's order."""
    ended = [t for t, one in now.items() if not one.live and one.state is not TaskState.COMPLETED]
    never = [t for t, one in now.items() if one.state is TaskState.WAITING and not one.jobs]
    # a scheduler that answers and does not know a job has forgotten it: it runs no more. That is
    # taken for failed only where somebody says so
    forgotten = [t for t in only if now[t].state is TaskState.UNKNOWN]
    chosen = {*ended, *never, *forgotten}
    return tuple(t for t in now if t in chosen and (not only or t in only))


def _ids(placed: list[Submission]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(job.split("_")[0] for s in placed for _, job in s.jobs))
