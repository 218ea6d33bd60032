"""The first submission of every stage: all of them, each once, whatever the scheduler answers."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from ca_hpc.continuation.call import calls
from ca_hpc.continuation.further import LOCK, settle
from ca_hpc.core.model import Stage
from ca_hpc.core.record import Submission, whole_arrays
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.executors import placing, slurm
from ca_hpc.executors.placing import Say, Sleep
from ca_hpc.executors.sbatch import SubmissionRefused, SubmissionUnsure
from ca_hpc.store.lock import held
from ca_hpc.store.run_folder import RunFolder

BY: Final = "submit"
#: how often all stages are gone through, while the scheduler leaves us without an answer
ROUNDS: Final = 4


def drafts(stage: Stage) -> Iterator[Submission]:
    """The submissions of a stage: one array, or a chain of links for each element."""
    names = tuple(element.id for element in stage.elements)
    for elements in [(name,) for name in names] if stage.links > 1 else [names]:
        yield Submission(
            number=0,
            stage=stage.name,
            job_name="",
            elements=elements,
            condition=stage.condition,
            links=stage.links,
            by=BY,
        )


def missing(run: RunFolder) -> bool:
    """Whether a stage has not been submitted, or not so that its jobs are known."""
    known = run.submissions()
    return any(
        (found := _known(draft, known)) is None or found.open
        for stage in run.workflow.stages
        for draft in drafts(stage)
    )


def refused(run: RunFolder) -> bool:
    """Whether the scheduler would not take a stage: then the others are cancelled."""
    return any(s.refused for s in run.submissions() if s.by == BY)


def submit_stages(run: RunFolder, *, say: Say, patience_s: float, sleep: Sleep) -> None:
    """Submit what is missing; ask for the other stages too if a submission was cut off before.

    When a stage is refused, those before it are cancelled. Raises SubmissionRefused, and
    SchedulerUnreachable when the scheduler does not answer: then it goes on here at the next call.
    """
    with held(run.file(LOCK), waiting=lambda: say("another command submits; waiting for it")):
        doubtful = bool(run.submissions())
        for rounds_left in reversed(range(ROUNDS)):
            try:
                _go_through(run, doubtful=doubtful, say=say, patience_s=patience_s, sleep=sleep)
                return
            except SubmissionRefused as error:
                if refused(run):
                    error.hint = f"{error.hint} (nothing is queued; the record stays in {run.path})"
                raise
            except SubmissionUnsure as error:
                # a controller that was killed has forgotten its last seconds, and gives the ids
                # of confirmed jobs to others: from now on all are asked for by their names
                doubtful = True
                if not rounds_left:
                    raise _cut_off(run, error) from error
            except SchedulerUnreachable as error:
                raise _cut_off(run, error) from error


def resume(run: RunFolder, *, say: Say, patience_s: float, sleep: Sleep) -> None:
    """Complete whatever submissions of a run were cut off; nobody is asked where none was."""
    if any(s.open and s.by != BY for s in run.submissions()):
        with held(run.file(LOCK), waiting=lambda: say("another command submits; waiting for it")):
            settle(run, patience_s=patience_s, sleep=sleep, say=say)
    if missing(run) and not refused(run):
        submit_stages(run, say=say, patience_s=patience_s, sleep=sleep)


def _go_through(
    run: RunFolder, *, doubtful: bool, say: Say, patience_s: float, sleep: Sleep
) -> None:
    """Place what is not known to be there, one stage after the other; in doubt, all of it."""
    for stage in run.workflow.stages:
        after = _awaited(run, stage)
        for draft in drafts(stage):
            known = _known(draft, run.submissions())
            if known is not None and known.confirmed and not doubtful:
                continue
            placed = placing.place(
                run,
                replace(known or draft, after=after),
                call=calls(run),
                tries=1,  # before the next, the stages that it depends on are looked at again
                patience_s=patience_s,
                sleep=sleep,
                say=say,
                undo=lambda: _take_back(run),
            )
            if not doubtful:
                _must_follow(run, placed)


def _awaited(run: RunFolder, stage: Stage) -> tuple[str, ...]:
    """Ids of the jobs that the stage waits for."""
    before = [s for s in run.workflow.stages if s.name == stage.after]
    return whole_arrays(run.submissions(), [e.id for s in before for e in s.elements])


def _known(draft: Submission, submissions: Iterable[Submission]) -> Submission | None:
    """The submission that a draft has become."""
    mark = (BY, draft.stage, draft.elements)
    return next((s for s in submissions if (s.by, s.stage, s.elements) == mark), None)


def _must_follow(run: RunFolder, placed: Submission) -> None:
    """Raise SubmissionUnsure where SLURM's numbers have gone back: it has lost jobs since."""
    ids = {s.number: int(s.jobs[0][1].split("_")[0]) for s in run.submissions() if s.confirmed}
    if ids[placed.number] < max(ids.values()) or len(set(ids.values())) < len(ids):
        raise SubmissionUnsure(f"stage {placed.stage}: job numbers go back: SLURM has lost jobs")


def _take_back(run: RunFolder) -> None:
    """Cancel what the run has in the queue. Raises CaHpcError when that may not have worked."""
    submissions = run.submissions()
    try:
        slurm.cancel([job for s in submissions for _, job in s.jobs])
        for unsure in (s for s in submissions if s.open):  # sbatch can fail and submit
            slurm.cancel_named(unsure.job_name)
    except SchedulerUnreachable as error:
        raise CaHpcError(
            f"and what was queued before may still run: {error.message}",
            hint=f"ca-hpc cancel {shlex.quote(str(run.path))}",
        ) from error


def _cut_off(run: RunFolder, error: SchedulerUnreachable) -> SchedulerUnreachable:
    """``error`` with what is queued and what is not, and the way on."""
    queued = {s.stage: s.jobs[0][1].split("_")[0] for s in run.submissions() if s.confirmed}
    names = [stage.name for stage in run.workflow.stages]
    there = ", ".join(f"{name} (job {queued[name]})" for name in names if name in queued)
    rest = ", ".join(name for name in names if name not in queued)
    told = f"queued: {there or 'nothing'}; not queued, or unknown: {rest or 'nothing'}"
    return SchedulerUnreachable(
        f"{error.message}\n{told}",
        hint="run the same command again when it answers: it goes on where it stopped",
    )
