"""Exactly one job for each submission, whatever becomes of sbatch, the controller or this process.

sbatch may fail although the job exists: against a controller that hangs it gives up after its
message time-out, and the request is carried out later. So the intent is written down first, under
a job name of its own. Who does not know what became of it asks the scheduler for that name until
it answers, and submits only what it says it does not have.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Final, TypeVar

from ca_hpc.core.record import Submission
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.executors import sbatch, slurm
from ca_hpc.executors.sbatch import Call, SubmissionRefused, SubmissionUnsure
from ca_hpc.store.run_folder import RunFolder

TRIES: Final = 4  # calls of sbatch for one submission
PATIENCE_S: Final = 600.0  # of waiting in all for a scheduler that does not answer
LONGEST_PAUSE_S: Final = 15.0
# Between two questions, before a name counts as unknown. A request that lay in the socket of a
# hanging controller is carried out after a question that came later has been answered with "none",
# 7 times of 8: 5 to 110 ms after it goes on (SLURM 22.05.8, idle and loaded machine).
SETTLING_S: Final = 5.0

Answer = TypeVar("Answer")
Jobs = tuple[tuple[str, str], ...]
Sleep = Callable[[float], None]
Say = Callable[[str], None]


def silent(text: str) -> None:
    """Say nothing."""


def nothing() -> None:
    """Do nothing."""


def place(
    run: RunFolder,
    submission: Submission,
    *,
    call: Call,
    tries: int = TRIES,
    patience_s: float = PATIENCE_S,
    sleep: Sleep = time.sleep,
    say: Say = silent,
    undo: Callable[[], None] = nothing,
) -> Submission:
    """Submit ``submission``. Returns it with its number, job name and jobs.

    A draft gets a new number. For one that has a number the scheduler is asked first: its jobs may
    exist although they are not recorded, and be gone although they are, since a controller that is
    killed forgets the jobs of its last seconds and gives their ids to others.

    ``undo`` is called when the scheduler refuses, before that is written down. Raises
    SubmissionRefused; SubmissionUnsure when ``tries`` calls of sbatch came to nothing; and
    SchedulerUnreachable after ``patience_s`` seconds of waiting for an answer. But for a refusal
    the intent stays, to be placed again.
    """
    waiting = _Waiting(patience_s, sleep, say)
    if submission.number:
        if jobs := _found(submission, waiting):
            return _adopt(run, submission, jobs)
        intent = run.reopen(submission)
    else:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        intent = run.new_submission(replace(submission, created=now))
    unsure: SubmissionUnsure | None = None
    for _ in range(tries):
        try:
            return run.confirm(intent, sbatch.submit(run, intent, call=call))
        except SubmissionRefused as error:
            _take_back(error, undo)
            run.refuse(intent, error.message)
            raise
        except SubmissionUnsure as error:
            unsure = error
            say(f"{error.message}; asking whether it is queued all the same")
        if jobs := _found(intent, waiting):
            return run.confirm(intent, jobs)
    assert unsure is not None
    raise unsure


class _Waiting:
    """Patience, which all questions of one submission share."""

    def __init__(self, patience_s: float, sleep: Sleep, say: Say) -> None:
        self._left = patience_s
        self.sleep = sleep
        self.say = say

    def pauses(self) -> Iterator[None]:
        """Wait, longer each time, and yield after each pause; end when no patience is left."""
        pause = 1.0
        while self._left > 0:
            self.sleep(min(pause, self._left))
            self._left -= pause
            yield
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _adopt(run: RunFolder, submission: Submission, jobs: Jobs) -> Submission:
    """Write down the jobs that were found, and have them wait for what ``submission`` says."""
    recorded = run.submission(submission.number)
    if submission.after != recorded.after:
        ids = [job for _, job in jobs]
        with contextlib.suppress(SchedulerUnreachable):  # they have begun: too late to wait
            slurm.extend_dependency(ids, condition=submission.condition, after=submission.after)
    if (submission.after, jobs) == (recorded.after, recorded.jobs):
        return recorded
    return run.confirm(submission, jobs)


def _take_back(refusal: SubmissionRefused, undo: Callable[[], None]) -> None:
    """``undo``; where that fails, the refusal says so and is raised, and is not written down."""
    try:
        undo()
    except CaHpcError as trouble:
        refusal.message += f"\n{trouble.message}"
        refusal.hint = trouble.hint
        raise refusal from trouble


def _found(submission: Submission, waiting: _Waiting) -> Jobs | None:
    """The jobs that carry the submission's name, once the scheduler answers; None: there are none.

    A second array of the name is a copy: the first one stays.
    """
    for pause in (0.0, SETTLING_S):
        if pause:
            waiting.sleep(pause)
        if ids := _patiently(lambda: slurm.find(submission.job_name), waiting):
            slurm.cancel(ids[1:])
            return sbatch.jobs_of(submission, ids[0])
    return None


def _patiently(ask: Callable[[], Answer], waiting: _Waiting) -> Answer:
    """The scheduler's answer, asked for again while it gives none and there is patience."""
    try:
        return ask()
    except SchedulerUnreachable as error:
        trouble = error
        waiting.say(f"{error.message}; waiting for it")
    for _ in waiting.pauses():
        try:
            return ask()
        except SchedulerUnreachable as error:
            trouble = error
    raise trouble
