"""Runs whose submission was cut off: the same job, submitted again, goes on there.

Each submission holds a lock of its run's folder while it lasts, and writes into the lock's file
when it is over. A folder that nobody holds and whose lock is empty was left by a command that died.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from ca_hpc.actions import stages
from ca_hpc.actions.prepare import Job
from ca_hpc.core.model import TaskState
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.executors import slurm
from ca_hpc.store.given import Given, read_given
from ca_hpc.store.lock import held
from ca_hpc.store.run_folder import RunFolder

LOCK: Final = "submit.lock"


class _Busy(Exception):
    """Another process holds the lock."""


def take_up(job: Job, given: Given | None, *, locks: contextlib.ExitStack) -> RunFolder | None:
    """The newest run of this very job whose submission was cut off, locked; None: there is none.

    A rerun is ``given`` what a first run is not, and goes on only with its like.
    One whose jobs have been cancelled since is over.
    """
    for run in _runs(job):
        if run.file("workflow.json").is_file() and run.file(LOCK).is_file():
            # a run of another version, a damaged record: not to be gone on with
            with contextlib.suppress(CaHpcError):
                same = _cut_off(run) and _same(run, job, given) and _locked(run, locks)
                if same and _cut_off(run) and not _given_up(run):  # as it is now, under the lock
                    return run
    return None


def over(run: RunFolder) -> None:
    """Write down that the submission has come to its end: the next one of this job is another.

    The last act: POSIX locks end when a process closes any descriptor of the file.
    """
    run.file(LOCK).write_text("the submission is over\n")


def new_folder(job: Job, *, locks: contextlib.ExitStack) -> RunFolder:
    """A run folder without records, locked: one that a dead command left so, else a new one."""
    for run in _runs(job):
        if _bare(run) and _locked(run, locks) and _bare(run):
            _clear(run)
            return run
    while True:
        run = RunFolder.create(job.runs, job.spec.name)
        if _locked(run, locks):  # else another command took it for one that was left
            return run


def _runs(job: Job) -> Iterator[RunFolder]:
    """Folders that runs of this name have or would have, newest first."""
    numbered = re.compile(re.escape(job.spec.name) + r"-\d{3,}")
    if job.runs.is_dir():
        for folder in sorted(job.runs.iterdir(), reverse=True):
            ours = os.access(folder, os.R_OK | os.W_OK | os.X_OK)  # others may run here too
            if ours and numbered.fullmatch(folder.name) and folder.is_dir():
                yield RunFolder(folder)


def _same(run: RunFolder, job: Job, given: Given | None) -> bool:
    return (
        run.file("job.yaml").read_text() == job.text
        and run.spec == job.spec
        and run.cluster == job.cluster
        and _given_same(read_given(run), given)
    )


def _given_same(one: Given | None, other: Given | None) -> bool:
    """Whether both are first runs, or reruns of one run with the same things allowed.

    Their tables of drift name folders and machines, which differ.
    """
    if one is None or other is None:
        return one is other
    return one == replace(other, rerun=replace(other.rerun, drift=one.rerun.drift))


def _cut_off(run: RunFolder) -> bool:
    # not opened and read: closing it would end our own lock
    return run.file(LOCK).stat().st_size == 0 and not stages.refused(run)


def _given_up(run: RunFolder) -> bool:
    jobs = [job for submission in run.submissions() for _, job in submission.jobs]
    try:
        rows = slurm.rows(jobs)
    except SchedulerUnreachable:
        return False
    return any(row.state is TaskState.CANCELLED for row in rows.values())


def _bare(run: RunFolder) -> bool:
    """Whether no run is in it yet, and nothing that is not ours."""
    if run.file("workflow.json").exists():
        return False
    return run.file(LOCK).exists() or not any(run.path.iterdir())


def _clear(run: RunFolder) -> None:
    for path in run.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _locked(run: RunFolder, locks: contextlib.ExitStack) -> bool:
    """Hold the run's lock until the end, unless another process does, or it is another user's."""

    def busy() -> None:
        raise _Busy

    try:
        locks.enter_context(held(run.file(LOCK), waiting=busy))
    except (_Busy, PermissionError):
        return False
    return True
