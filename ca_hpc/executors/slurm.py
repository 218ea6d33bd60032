"""SLURM: one sbatch per stage through submitit; squeue, and sacct for what it has forgotten."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from ca_hpc import processes
from ca_hpc.core.model import Stage, Workflow
from ca_hpc.core.states import Row, parse_rows
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker import ElementCall

CALL_TIMEOUT_S = 60
# submitit's own bound on requeues after a time-out; a training of weeks in slices needs many
MOST_TIMEOUTS = 1000
MOST_SAID = 600  # characters of sbatch's complaint
ASKED: Final = (
    ("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%N|%r"),
    ("sacct", "-n", "-X", "-P", "-D", "-o", "JobID,State,NodeList,Reason"),
)
# SLURM expands % and reads \ in log paths, and a newline would end the #SBATCH line
_SAFE_PATH = re.compile(r"[A-Za-z0-9_./@+=,:~-]+")


def check(programs: Sequence[str] = ("sbatch", "srun")) -> None:
    """Raise SchedulerUnreachable when SLURM's commands are not on PATH."""
    for program in programs:
        if shutil.which(program) is None:
            raise SchedulerUnreachable(
                f"{program} is not on PATH: this machine is not a SLURM login node",
                hint="submit from a login node, or set `cluster: local` to run here",
            )


def parameters(stage: Stage, *, job_name: str, after: Sequence[str]) -> dict[str, Any]:
    """submitit's parameters for a stage: ours as they are, its own defaults switched off.

    ``use_srun=False`` and ``signal: B:…``: the time limit's signal reaches our worker alone, not
    the process that serves a rootless image (docs/adr/0005).
    """
    extra = dict(stage.sbatch)
    if after:
        # job ids of arrays: the whole array, so that a stage waits with one dependency
        arrays = dict.fromkeys(job.split("_")[0] for job in after)
        extra["dependency"] = f"{stage.condition}:" + ":".join(arrays)
    return {
        "job_name": job_name,
        "time": max(1, stage.resources.time_s // 60),
        "array_parallelism": stage.at_once,
        "use_srun": False,
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": extra,
    }


def script(stage: Stage, workflow: Workflow, *, job_name: str, after: Sequence[str]) -> str:
    """The sbatch script as submitit writes it. Needs no scheduler."""
    from submitit.slurm import slurm

    folder = str(log_folder(safe_path(Path(workflow.run_folder)), stage.name))
    count = len(stage.elements)
    text: str = slurm._make_sbatch_string(
        command=f"{_python(workflow)} -u -m submitit.core._submit {shlex.quote(folder)}",
        folder=folder,
        map_count=count if count > 1 else None,
        setup=list(workflow.setup) or None,
        **parameters(stage, job_name=job_name, after=after),
    )
    return text


def _python(workflow: Workflow) -> str:
    # exec: the batch process is Python itself, so that signals to the batch shell reach it;
    # -I: neither PYTHON* variables nor the user's site-packages nor the current folder count
    return f"exec {shlex.quote(workflow.node_python)} -I"


def log_folder(run_folder: Path, stage: str) -> Path:
    """submitit's folder of a stage. It must exist: SLURM runs no job whose log cannot be opened."""
    return run_folder / "submitit" / stage


def submit(
    stage: Stage, workflow: Workflow, *, job_name: str, after: Sequence[str]
) -> dict[str, str]:
    """Submit a stage as one array. Returns job ids by element id.

    Ids are taken as submitit gives them: an array of one is no array, its id is ``101``.
    Raises SchedulerUnreachable.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    run_folder = Path(workflow.run_folder)
    log_folder(run_folder, stage.name).mkdir(parents=True, exist_ok=True)
    executor = SlurmExecutor(
        folder=log_folder(_linked(run_folder), stage.name),
        python=_python(workflow),
        max_num_timeout=MOST_TIMEOUTS,
    )
    executor.update_parameters(
        setup=list(workflow.setup) or None,
        **parameters(stage, job_name=job_name, after=after),
    )
    calls = [ElementCall(workflow.run_folder, element.id) for element in stage.elements]
    try:
        with executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise SchedulerUnreachable(
            f"sbatch refused stage {stage.name}: {_reason(error)}",
            hint="correct the cluster profile or `resources:`, then submit again",
        ) from error
    return {e.id: str(job.job_id) for e, job in zip(stage.elements, jobs, strict=True)}


def safe_path(path: Path) -> Path:
    """``path``, or where a link to it belongs whose own path SLURM can read back.

    SLURM expands % in log paths, and a newline would end the ``#SBATCH`` line. The link's place is
    the nearest folder above whose path is harmless, so on the same shared file system.
    Raises CaHpcError when no such folder can be written to.
    """
    if _SAFE_PATH.fullmatch(str(path)):
        return path
    name = f".ca-hpc-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    for parent in path.parents:
        if _SAFE_PATH.fullmatch(str(parent)) and os.access(parent, os.W_OK):
            return parent / name
    raise CaHpcError(
        f"{str(path)!r} has characters that SLURM cannot take in a log path, and no folder "
        "above it can hold a link to it",
        hint="choose another folder: --output FOLDER",
    )


def _linked(path: Path) -> Path:
    """``safe_path``, with the link made."""
    link = safe_path(path)
    if link != path and not link.is_symlink():
        link.symlink_to(path)
    return link


def query(run: RunFolder, elements: Collection[str]) -> dict[str, Row]:
    """What SLURM says about these elements. One call, and sacct for what squeue has forgotten.

    squeue first: sacct keeps the first reason of a pending job, and needs slurmdbd. A row that
    neither has is left out. Raises SchedulerUnreachable when neither answers.
    """
    jobs = {
        job: element
        for submission in run.submissions().values()
        for element, job in submission.job_ids.items()
        if element in elements
    }
    rows: dict[str, Row] = {}
    trouble = []
    for command in ASKED:
        arrays = sorted({job.split("_")[0] for job in jobs if job not in rows}, key=int)
        if not arrays:
            break
        try:
            done = processes.run((*command, "-j", ",".join(arrays)), timeout_s=CALL_TIMEOUT_S)
        except CaHpcError as error:
            trouble.append(error.message)
            continue
        if done.returncode == 0:
            rows = {**parse_rows(done.stdout), **rows}
        elif "Invalid job id" not in done.stderr:  # squeue's word for forgotten ones
            trouble.append(f"{command[0]}: {' '.join(done.stderr.split()[-12:])}")
    if len(trouble) == len(ASKED):
        raise SchedulerUnreachable(
            "the scheduler does not answer: " + "; ".join(trouble),
            hint="try again in a minute; results that have arrived are shown all the same",
        )
    return {element: rows[job] for job, element in jobs.items() if job in rows}


def cancel(jobs: Sequence[str]) -> None:
    """scancel of the arrays that the jobs belong to, in one call. Raises SchedulerUnreachable."""
    check(("scancel",))
    arrays = sorted({job.split("_")[0] for job in jobs}, key=int)
    if not arrays:
        return
    done = processes.run(("scancel", *arrays), timeout_s=CALL_TIMEOUT_S)
    if done.returncode != 0:
        raise SchedulerUnreachable(
            f"scancel failed: {done.stderr.strip()}", hint="try again: ca-hpc cancel RUN"
        )


def cancel_named(job_name: str) -> None:
    """scancel by name: finds also a job whose id never reached us (sbatch may fail and submit)."""
    processes.run(("scancel", "--name", job_name), timeout_s=CALL_TIMEOUT_S)


def _reason(error: Exception) -> str:
    """sbatch's own words out of submitit's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line.removeprefix("sbatch: error: ") for line in lines if "sbatch: error" in line]
    unread = [line for line in lines if line.startswith("Could not make sense")]  # submitit's words
    said = "; ".join(told or unread or lines[-1:])
    return said[:MOST_SAID] or "it failed without a word"
