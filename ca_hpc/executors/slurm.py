"""SLURM's commands: squeue, sacct for what it has forgotten, scontrol, scancel.

Every call has a time limit and no shell, and does what its arguments say, whatever variables of
SLURM's the caller has. What is submitted is in ``sbatch.py``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.core.states import LIVE, Row, parse_rows
from ca_hpc.errors import CaHpcError, SchedulerUnreachable

CALL_TIMEOUT_S: Final = 60
SQUEUE: Final = ("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%N|%r")
SACCT: Final = ("sacct", "-n", "-X", "-P", "-D", "-o", "JobID,State,NodeList,Reason")
# Which cluster is meant; all else would narrow an answer or change a job behind our back.
KEPT: Final = ("SLURM_CONF", "SLURM_CLUSTERS")
DROPPED: Final = ("SLURM", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")


def check(programs: Sequence[str] = ("sbatch", "squeue")) -> None:
    """Raise SchedulerUnreachable when SLURM's commands are not on PATH."""
    for program in programs:
        if shutil.which(program) is None:
            raise SchedulerUnreachable(
                f"{program} is not on PATH: this machine is not a SLURM login node",
                hint="submit from a login node, or set `cluster: local` to run here",
            )


def run_tool(
    argv: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> processes.Finished:
    """Run one of SLURM's commands, in this process's environment without SLURM's variables.

    ``environment``: in place of this process's own, and without them too.

    With SQUEUE_PARTITION in it squeue would say that a job of another partition does not exist.
    Those of a job that we run in would be handed on by sbatch: a job that was submitted from an
    array would take itself for one of its elements. Raises CaHpcError, when it takes too long too.
    """
    given = os.environ if environment is None else environment
    kept = {
        name: value for name, value in given.items() if name in KEPT or not name.startswith(DROPPED)
    }
    return processes.run(argv, env=kept, timeout_s=CALL_TIMEOUT_S)


def log_folder(run_folder: Path, stage: str) -> Path:
    """submitit's folder of a stage: the logs of its jobs, and links to their pickles."""
    return run_folder / "submitit" / stage


def rows(jobs: Iterable[str]) -> dict[str, Row]:
    """What SLURM says about these jobs. One call, and sacct for what squeue has forgotten.

    squeue first: sacct keeps the first reason of a pending job, and needs slurmdbd. A row that
    neither has is left out. Raises SchedulerUnreachable when neither answers.
    """
    wanted = set(jobs)
    found: dict[str, Row] = {}
    trouble = []
    for command in (SQUEUE, SACCT):
        asked = arrays(job for job in wanted if job not in found)
        if not asked:
            break
        try:
            found = {**_ask((*command, "-j", ",".join(asked))), **found}
        except SchedulerUnreachable as error:
            trouble.append(error.message)
    if len(trouble) == 2:
        raise _silent(trouble)
    return {job: row for job, row in found.items() if job in wanted}


def find(job_name: str) -> tuple[str, ...]:
    """Ids of the jobs of this name, the oldest first; an array has one id.

    (): the scheduler knows none. Raises SchedulerUnreachable when it does not answer: sacct alone
    proves no absence, since it learns of jobs later. Of its rows only those of ended jobs count: a
    controller that was killed can forget a job that slurmdbd goes on calling PENDING.
    """
    unheard: SchedulerUnreachable | None = None
    found: set[str] = set()
    try:
        found = set(_ask((*SQUEUE, "--name", job_name)))
    except SchedulerUnreachable as error:
        unheard = error
    if not found:
        since = ("--starttime", "now-90days")  # without it, jobs of today
        with contextlib.suppress(SchedulerUnreachable):
            told = _ask((*SACCT, "--name", job_name, *since))
            found = {job for job, row in told.items() if row.state not in LIVE}
    if unheard is not None and not found:
        raise _silent([unheard.message])
    return arrays(found)


def arrays(jobs: Iterable[str]) -> tuple[str, ...]:
    """The ids of the arrays that the jobs belong to, in order; a job of its own is its own."""
    return tuple(sorted({job.split("_")[0] for job in jobs}, key=int))


def _ask(command: Sequence[str]) -> dict[str, Row]:
    try:
        done = run_tool(command)
    except CaHpcError as error:
        raise SchedulerUnreachable(error.message) from error
    if done.returncode == 0:
        return parse_rows(done.stdout)
    if "Invalid job id" in done.stderr:  # squeue's word for forgotten ones
        return {}
    raise SchedulerUnreachable(f"{command[0]}: {' '.join(done.stderr.split()[-12:])}")


def _silent(trouble: Sequence[str]) -> SchedulerUnreachable:
    return SchedulerUnreachable(
        "the scheduler does not answer: " + "; ".join(trouble),
        hint="try again in a minute; results that have arrived are shown all the same",
    )


# --- commands ----------------------------------------------------------------------------------


def cancel(jobs: Sequence[str]) -> None:
    """scancel of the arrays that the jobs belong to, in one call. Raises SchedulerUnreachable."""
    if found := arrays(jobs):
        _command("scancel", *found, hint="try again: ca-hpc cancel RUN")


def cancel_named(job_name: str) -> None:
    """scancel by name: finds also a job whose id never reached us. Raises SchedulerUnreachable."""
    _command("scancel", "--name", job_name, hint="try again: ca-hpc cancel RUN")


def cancel_waiting(jobs: Sequence[str]) -> None:
    """scancel of those of the jobs that have not begun. Raises SchedulerUnreachable."""
    if jobs:
        _command("scancel", "--state=PENDING", *jobs)


def requeue(job: str) -> None:
    """Put one job, or one element of an array, back into the queue under its own id.

    Raises SchedulerUnreachable, also where a site does not let users.
    """
    _command("scontrol", "requeue", job, hint="see `continuation:` in the cluster profile")


def extend_dependency(jobs: Sequence[str], *, condition: str, after: Sequence[str]) -> None:
    """Have pending jobs wait for ``after``, and for nothing else that they waited for before.

    ``after`` names everything: SLURM replaces a job's dependency, it does not add to it. Raises
    SchedulerUnreachable, also when a job does not wait any more.
    """
    dependency = f"Dependency={condition}:" + ":".join(after)
    for job in jobs:
        _command("scontrol", "update", f"JobId={job}", dependency)


def _command(*argv: str, hint: str | None = None) -> None:
    check(argv[:1])
    try:
        done = run_tool(argv)
    except CaHpcError as error:
        raise SchedulerUnreachable(error.message, hint=hint) from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise SchedulerUnreachable(f"{argv[0]} failed: {said}", hint=hint)
