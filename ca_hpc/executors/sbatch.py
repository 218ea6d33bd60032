"""What sbatch is given: the script as submitit writes it, and a pickle for each array index.

The dry run and the submission take the script from the same function. The pickles lie ready before
sbatch is called, under names that need no job id; the job itself finds its own (``on_node.py``).
So a submission that was cut off right after sbatch lacks nothing, and one that is found by its
name needs nothing but its id.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ca_hpc import processes
from ca_hpc.core.environment import job_environment
from ca_hpc.core.model import Stage, Workflow
from ca_hpc.core.record import Submission
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.executors.slurm import KEPT, check, log_folder, run_tool
from ca_hpc.store import atomic
from ca_hpc.store.run_folder import RunFolder

#: makes what the node calls, of an element id and the number of the submission
Call = Callable[[str, int], Callable[[], object]]

SCRIPT = "job.sh"
# Python is told of USR2 by us; until then, while modules are loaded and imported, it would end it
DEAF = "trap '' USR2"
# What a site's prolog, or an sbatch by hand, puts into the job behind our back: code of others in
# the worker's Python, and further binds of a container that a line of `setup` starts. Before
# `setup`, so that `module load` may set LD_LIBRARY_PATH.
CLEAN = "unset -v BASH_ENV ENV ${!LD_@} ${!PYTHON@} ${!APPTAINER@} ${!SINGULARITY@}"
# What sbatch itself needs: where it is, which cluster, and the ticket that some sites ask for.
NEEDED: Final = ("PATH", "KRB5CCNAME", *KEPT)
# submitit's own bound on requeues after a time-out; a training of weeks in slices needs many
MOST_TIMEOUTS = 1000
MOST_SAID = 600  # characters of sbatch's complaint
_ID = re.compile(r"job (\d+)")
# SLURM expands % and reads \ in log paths, and a newline would end the #SBATCH line
_SAFE_PATH = re.compile(r"[A-Za-z0-9_./@+=,:~-]+")
# What sbatch says when it does not know what became of its request, or when there was nobody to
# ask (slurm_errno.c, "communication" and EAGAIN). All other words are a refusal.
_UNSURE: Final = re.compile(
    "|".join(
        (
            "Unable to contact slurm controller",
            "Socket timed out",
            "Zero Bytes were transmitted",
            "Transport endpoint is not connected",
            "Connection (refused|reset|timed out)",
            "[Cc]ommunication connection failure",
            "Message (send|receive) failure",
            "Unexpected message received",
            "temporarily un",  # … unable to accept job; Resource … unavailable
            "in standby mode",
            "configuration source",  # configless, and no controller to get it from
            "authentication",  # munge is away, or a request lay longer than its credential lasts
            "Broken pipe",
            "No route to host",
            "Network is unreachable",
            "Unable to resolve",
        )
    )
)


class SubmissionRefused(SchedulerUnreachable):
    """The scheduler has read the request and will not take it: it is not queued."""


class SubmissionUnsure(SchedulerUnreachable):
    """Nobody knows whether the request has arrived: ask by the job's name."""


def parameters(stage: Stage, submission: Submission, *, chdir: Path) -> dict[str, Any]:
    """submitit's parameters for a submission: ours as they are, its own defaults switched off.

    ``chdir``: where the job begins, unless the stage's options say otherwise; where its user stood
    when it was submitted need not exist on the node.

    ``use_srun=False`` and ``signal: B:…``: the time limit's signal reaches our worker alone, not
    the process that serves a rootless image (docs/adr/0005).
    """
    return {
        "job_name": submission.job_name,
        "time": max(1, stage.resources.time_s // 60),
        "array_parallelism": 1 if submission.links > 1 else stage.at_once,
        "use_srun": False,
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": {"chdir": str(chdir), **_options(stage, submission)},
    }


def _options(stage: Stage, submission: Submission) -> dict[str, str | int | bool]:
    """The stage's options of sbatch with the submission's changes."""
    options = dict(stage.sbatch)
    if submission.memory_mib is not None:
        for other in ("mem-per-cpu", "mem-per-gpu"):  # sbatch takes one way of asking only
            options.pop(other, None)
        options["mem"] = f"{submission.memory_mib}M"
    if submission.exclude:
        own = str(options.get("exclude", ""))
        options["exclude"] = ",".join(filter(None, (own, *submission.exclude)))
    if submission.wait_s:
        options["begin"] = f"now+{submission.wait_s}"
    if submission.after:
        options["dependency"] = ":".join((submission.condition, *submission.after))
    return options


def script(stage: Stage, workflow: Workflow, submission: Submission) -> str:
    """The sbatch script as submitit writes it. Needs no scheduler."""
    from submitit.slurm import slurm as submitit

    run_folder = safe_path(Path(workflow.run_folder))
    given = run_folder / "submissions" / f"{submission.number:04d}"
    logs = log_folder(run_folder, stage.name)
    # exec: the batch process is Python itself, so that signals to the batch shell reach it;
    # -I: neither PYTHON* variables nor the user's site-packages nor the current folder count
    module = ("-m", "ca_hpc.executors.on_node")
    argv = (workflow.node_python, "-I", "-u", "-X", "utf8", *module, given, logs)
    count = len(submission.by_index)
    text: str = submitit._make_sbatch_string(
        command="exec " + shlex.join(map(str, argv)),
        folder=str(logs),
        map_count=count if count > 1 else None,
        setup=[DEAF, CLEAN, *workflow.setup],
        **parameters(stage, submission, chdir=run_folder),
    )
    return text


def submit(run: RunFolder, submission: Submission, *, call: Call) -> tuple[tuple[str, str], ...]:
    """Call sbatch, once. Returns (element id, job id) by array index.

    Raises SubmissionRefused and SubmissionUnsure, and SchedulerUnreachable without an sbatch.
    """
    check(("sbatch",))
    flow = run.workflow
    stage = next(stage for stage in flow.stages if stage.name == submission.stage)
    file = _write(run, submission, text=script(stage, flow, submission), stage=stage, call=call)
    try:
        done = run_tool(
            ("sbatch", str(file)),
            environment=job_environment(os.environ, names=(*NEEDED, *flow.environment)),
        )
    except processes.ProgramTimedOut as error:
        raise SubmissionUnsure(f"sbatch of stage {stage.name}: {error.message}") from error
    found = _ID.search(done.stdout)
    if done.returncode == 0 and found is not None:
        return jobs_of(submission, found[1])
    said = _said(done)
    # killed, or successful without an id; or it is to wait for a job of ours that SLURM has lost
    # and whose number it would get now: for itself
    odd = done.returncode <= 0 or (submission.after and "dependency problem" in done.stderr)
    if odd or _UNSURE.search(done.stderr):
        raise SubmissionUnsure(f"sbatch of stage {stage.name}: {said}")
    raise SubmissionRefused(
        f"sbatch refused stage {stage.name}: {said}",
        hint="correct the cluster profile or `resources:`, then submit again",
    )


def jobs_of(submission: Submission, job: str) -> tuple[tuple[str, str], ...]:
    """(element id, job id) by array index, of the id that sbatch gave. An array of one is none."""
    elements = submission.by_index
    if len(elements) == 1:
        return ((elements[0], job),)
    return tuple((element, f"{job}_{index}") for index, element in enumerate(elements))


def _write(run: RunFolder, submission: Submission, *, text: str, stage: Stage, call: Call) -> Path:
    """Write script and pickles, and make the folder of the logs. Returns the script's path.

    SLURM runs no job whose log cannot be opened, and does not say so.
    """
    from submitit.core.utils import DelayedSubmission

    link_safely(run.path)
    log_folder(run.path, stage.name).mkdir(parents=True, exist_ok=True)
    folder = run.submission_folder(submission.number)
    for index, element in enumerate(submission.by_index):
        delayed = DelayedSubmission(call(element, submission.number))
        delayed.set_timeout(max(1, stage.resources.time_s // 60), MOST_TIMEOUTS)
        part = folder / f".{index}.pkl"
        delayed.dump(part)
        part.replace(folder / f"{index}.pkl")
    atomic.write_text(folder / SCRIPT, text)
    return folder / SCRIPT


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


def link_safely(path: Path) -> None:
    """Make the link of ``safe_path``, where one is needed."""
    link = safe_path(path)
    if link != path and not link.is_symlink():
        link.symlink_to(path)


def _said(done: processes.Finished) -> str:
    """sbatch's own words, without its prefixes."""
    lines: Sequence[str] = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    told = [line.removeprefix("sbatch: error: ") for line in lines if "sbatch: error" in line]
    said = "; ".join(told or lines[-1:])
    if not said and done.stdout.strip():
        said = f"it said {done.stdout.strip()!r}, which is no job id"
    return said[:MOST_SAID] or "it failed without a word"
