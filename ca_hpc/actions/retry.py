"""Retry: what failed runs again, as further attempts of the same run; nothing else does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from ca_hpc.actions.submit import resume_submission
from ca_hpc.continuation.again import REDONE, place_again
from ca_hpc.continuation.follow import Change
from ca_hpc.continuation.further import LOCK
from ca_hpc.continuation.standing import Standing, ask, standings
from ca_hpc.core.model import Stage, TaskState
from ca_hpc.core.record import Submission
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.executors import local
from ca_hpc.executors.placing import Say
from ca_hpc.report.run_files import refresh
from ca_hpc.store.lock import held
from ca_hpc.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Retried:
    """``tasks`` that run again, and those behind them that are made ``anew``, by these ``jobs``.

    ``left``: tasks that were asked for and are left alone, with their states. ``failed``: others
    that have ended without completing, and stay so: they were not asked for.
    """

    tasks: tuple[str, ...]
    anew: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    left: Mapping[str, TaskState] = field(default_factory=dict)
    failed: tuple[str, ...] = ()


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
    here = run.workflow.executor == "local"
    if not here:
        resume_submission(run, say=say)
    with held(run.file(LOCK), waiting=lambda: say("another command submits; waiting for it")):
        if here and _goes_on(run):
            raise CaHpcError(
                f"{run.path} is still running",
                hint="retry it when it has ended: ca-hpc status --watch RUN; or ca-hpc cancel RUN",
            )
        asked = ask(run)
        if asked.trouble is not None:
            raise SchedulerUnreachable(
                f"{asked.trouble}; nothing was submitted",
                hint="try again when it answers: what still runs must not be started twice",
            )
        now = standings(run, asked)
        failed = _failed(now, only=only)
        if here:
            placed = _place_here(run, failed)
        else:
            change = Change(memory_mib=memory_mib)
            placed = place_again(run, dict.fromkeys(failed, change), now, by="retry", say=say)
        # what has come to an end so far. Queued first: to read checkpoints takes its time
        refresh(run)
    anew = tuple(task for task in _redone(run, placed) if task not in failed)
    return Retried(
        tasks=failed,
        anew=anew,
        jobs=() if here else _ids(placed),
        left={task: now[task].state for task in now if task in only and task not in failed},
        failed=tuple(task for task in _failed(now, only=()) if task not in {*failed, *anew}),
    )


def _goes_on(run: RunFolder) -> bool:
    """Without SLURM. Results are there a moment before the scheduler process has noticed."""
    if not local.alive(run):
        return False
    return any(task.live for task in standings(run, ask(run)).values()) or not local.left(run)


def _place_here(run: RunFolder, failed: Collection[str]) -> list[Submission]:
    """Without SLURM: a new scheduler process does these tasks, and anew what depends on them."""
    placed: list[Submission] = []
    for stage in run.workflow.stages:
        draft = _redo(stage) if placed and stage.name in REDONE else _do(stage, failed)
        if draft.elements:
            intended = run.new_submission(draft)
            placed.append(run.confirm(intended, [(name, name) for name in draft.elements]))
    if placed:
        local.launch(run, placed)
    return placed


def _redo(stage: Stage) -> Submission:
    names = tuple(element.id for element in stage.elements)
    return Submission(0, stage.name, "", names, again=True, by="retry")


def _do(stage: Stage, failed: Collection[str]) -> Submission:
    """Of packed tasks only those that failed; others of an element run in their order."""
    theirs = [e for e in stage.elements if any(task.id in failed for task in e.tasks)]
    names = tuple(element.id for element in theirs)
    packed = any(element.slots > 1 for element in theirs)
    tasks = tuple(t.id for e in theirs for t in e.tasks if t.id in failed) if packed else None
    return Submission(0, stage.name, "", names, tasks=tasks, by="retry")


def _redone(run: RunFolder, placed: Collection[Submission]) -> tuple[str, ...]:
    elements = {element for s in placed if s.again for element in s.elements}
    return tuple(
        task.id
        for stage in run.workflow.stages
        for element in stage.elements
        if element.id in elements
        for task in element.tasks
    )


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
