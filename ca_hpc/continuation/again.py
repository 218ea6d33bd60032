"""Tasks of a run once more: what failed as further jobs, and behind them what depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from ca_hpc.continuation.follow import Change, again
from ca_hpc.continuation.further import awaited, extend, submit_further
from ca_hpc.continuation.standing import Standing, ask, standings
from ca_hpc.core.model import Element, Stage, TaskState
from ca_hpc.core.record import Submission
from ca_hpc.core.rules import Failure
from ca_hpc.errors import SchedulerUnreachable
from ca_hpc.executors.placing import Say
from ca_hpc.store.run_folder import RunFolder

# Stages whose work is out of date once a stage before them has done more.
REDONE: Final = frozenset({"predict", "evaluate", "report"})


def place_again(
    run: RunFolder,
    wanted: Mapping[str, Change],
    now: Mapping[str, Standing],
    *,
    by: str,
    say: Say,
) -> list[Submission]:
    """Submit the ``wanted`` tasks anew, changed as was decided for each, stage by stage.

    Stages behind them that wait are made to wait for them too; what could not start without them,
    and what is over or under way and builds on them, is submitted once more. The caller holds the
    lock. Raises SchedulerUnreachable; what was placed before that stays, and counts at the next
    call.
    """
    placed: list[Submission] = []
    trouble: list[str] = []
    for stage in run.workflow.stages:
        theirs = {task: wanted[task] for task in wanted if now[task].stage == stage.name}
        if placed:
            theirs |= {task.id: Change() for task in stage.tasks if _was_kept_back(now[task.id])}
        drafts = list(_drafts(stage, theirs, by=by))
        if placed and stage.name in REDONE:
            stale = [e for e in stage.elements if not _waits(e, now) and not _in(e, theirs)]
            if stale:
                names = tuple(element.id for element in stale)
                drafts.append(again(stage, names, Change(), tasks=None, by=by, redo=True))
        for draft in drafts:
            after = (
                () if stage.after is None else awaited(run, stage.after, standings(run, ask(run)))
            )
            placed.append(submit_further(run, replace(draft, after=after), say=say))
        before = any(s.stage == stage.after for s in placed)
        if before and any(_waits(e, now) for e in stage.elements):
            try:
                extend(run, stage)
            except SchedulerUnreachable as error:
                trouble.append(f"stage {stage.name} does not wait for it: {error.message}")
    if trouble:
        raise SchedulerUnreachable("; ".join(trouble), hint="then: ca-hpc retry RUN")
    return placed


def _drafts(stage: Stage, wanted: Mapping[str, Change], *, by: str) -> Iterator[Submission]:
    """One submission for all elements that change in the same way; a chain has one element."""
    groups: dict[Change, list[Element]] = {}
    for element in stage.elements:
        changes = [wanted[task.id] for task in element.tasks if task.id in wanted]
        if changes:  # of packed tasks the largest memory, which serves all
            most = max(changes, key=lambda change: change.memory_mib or 0)
            groups.setdefault(most, []).append(element)
    for change, elements in groups.items():
        for some in [[e] for e in elements] if stage.links > 1 else [elements]:
            names = tuple(element.id for element in some)
            packed = any(element.slots > 1 for element in some)
            only = tuple(t.id for e in some for t in e.tasks if t.id in wanted) if packed else None
            yield again(stage, names, change, tasks=only, by=by)


def _waits(element: Element, now: Mapping[str, Standing]) -> bool:
    """Whether the element has yet to begin, as far as the scheduler knows it."""
    return all(
        one.state is TaskState.PENDING or (one.state is TaskState.UNKNOWN and one.row is not None)
        for one in (now[task.id] for task in element.tasks)
    )


def _was_kept_back(one: Standing) -> bool:
    """Whether a task was cancelled since a stage before it had failed."""
    return one.verdict is not None and one.verdict.failure is Failure.DEPENDENCY


def _in(element: Element, wanted: Mapping[str, object]) -> bool:
    return any(task.id in wanted for task in element.tasks)
