"""Submit: write the run folder, then one submission per stage; or show what would be submitted."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ca_hpc import __version__
from ca_hpc.actions.job_data import Say, silent
from ca_hpc.actions.prepare import (
    Host,
    Inputs,
    Job,
    find_inputs,
    next_run_folder,
    workflow,
)
from ca_hpc.actions.warnings import warnings
from ca_hpc.core.model import Command, Stage, Task, Workflow
from ca_hpc.core.record import Pins, Submission
from ca_hpc.core.render import render
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.executors import local, slurm
from ca_hpc.store import atomic
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker import started_command

# Stand-ins of the dry run for what only a node or a real submission knows.
DRY_TOKEN = "00000000"
ATTEMPT = "ATTEMPT"
WORK_FOLDER = "WORK"


@dataclass(frozen=True, slots=True)
class DryRun:
    """What would be submitted, what to think about, and the first problem with the job's files."""

    text: str
    warnings: tuple[str, ...]
    trouble: CaHpcError | None


def dry_run(job: Job, *, host: Host) -> DryRun:
    """Needs no scheduler and writes nothing. The same job gives the same text, byte for byte."""
    trouble: CaHpcError | None = None
    inputs: Inputs | None = None
    try:
        inputs = find_inputs(job, host=host)
    except CaHpcError as error:
        trouble = error
    run_folder = next_run_folder(job)
    flow = workflow(job, inputs, host=host, run_folder=run_folder)
    told = warnings(job, inputs, flow) if inputs else ()

    def script(stage: Stage) -> str:
        after = () if stage.after is None else (f"JOB-OF-{stage.after}",)
        return slurm.script(
            stage,
            flow,
            job_name=job_name(run_folder, stage.name, token=DRY_TOKEN),
            after=after,
        )

    def started(task: Task, stage: Stage, slots: int) -> Command:
        return started_command(
            task,
            stage,
            flow,
            attempt=str(run_folder / "tasks" / task.id / "attempts" / ATTEMPT),
            work_folder=WORK_FOLDER,
            slots=slots,
            visible_gpus="GPUS" if stage.resources.gpus else "",
            host_environment={},
        )

    on_slurm = flow.executor == "slurm"
    text = render(flow, script=script if on_slurm else None, started=started)
    return DryRun(text, told, trouble)


def job_name(run_folder: Path, stage: str, *, token: str) -> str:
    """The tag of a submission: --comment is not kept by default accounting, the name is."""
    return f"{run_folder.name}.{stage}.{token}"


def submit(
    job: Job,
    *,
    host: Host,
    token: str,
    now: datetime,
    warn: Callable[[str], None],
    say: Say = silent,
) -> RunFolder:
    """Check everything, write the run folder, submit all stages. Raises CaHpcError.

    ``warn`` is told, before anything is queued, what is allowed and yet seldom meant, and ``say``
    what is being fetched. Nothing is written before all checks have passed. When the scheduler
    refuses a stage, what was submitted before it is cancelled and the run folder stays, to be
    looked at.
    """
    inputs = find_inputs(job, host=host, fetch=True, say=say)
    if job.cluster.executor == "slurm":
        slurm.check()
    expected = next_run_folder(job)
    # its problems come before the folder
    told = warnings(job, inputs, workflow(job, inputs, host=host, run_folder=expected))
    for text in told:
        warn(text)
    run = RunFolder.create(job.runs, job.spec.name)
    flow = workflow(job, inputs, host=host, run_folder=run.path)
    created = now.isoformat(timespec="seconds")
    pins = Pins(__version__, token, created, weights=inputs.weights_pin, warnings=told)
    try:
        _write_records(run, job, inputs=inputs, pins=pins, flow=flow)
    except OSError:  # a full disk, a quota
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    if flow.executor == "local":
        local.launch(run)
    else:
        _submit_stages(run, flow, token=token)
    return run


def _write_records(run: RunFolder, job: Job, *, inputs: Inputs, pins: Pins, flow: Workflow) -> None:
    atomic.write_text(run.file("job.yaml"), job.text)
    run.write_spec("spec.json", job.spec)
    run.write_spec("cluster.json", job.cluster)
    run.write("cases.json", inputs.cases)
    if inputs.model is not None:
        run.write_spec("model.json", inputs.model)
    if job.spec.trainers is not None:
        _copy_trainers(Path(job.spec.trainers), run.trainers)
    if inputs.weights is not None:
        run.write_spec("weights.json", inputs.weights.manifest)
    run.write("pins.json", pins)
    run.write("workflow.json", flow)  # last: its presence makes the folder a run


def _copy_trainers(folder: Path, target: Path) -> None:
    """The trainers as they are now: a training that is queued again must find the same ones."""
    for file in sorted(folder.rglob("*.py")):
        copy = target / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _submit_stages(run: RunFolder, flow: Workflow, *, token: str) -> None:
    ids: dict[str, Mapping[str, str]] = {}
    for stage in flow.stages:
        name = job_name(run.path, stage.name, token=token)
        intent = Submission(stage.name, name)
        run.write(f"submissions/{stage.name}.json", intent)
        try:
            ids[stage.name] = slurm.submit(
                stage,
                flow,
                job_name=name,
                after=() if stage.after is None else tuple(ids[stage.after].values()),
            )
        except SchedulerUnreachable as error:
            queued = [job for found in ids.values() for job in found.values()]
            try:
                slurm.cancel(queued)
                slurm.cancel_named(name)  # sbatch can fail and submit all the same
            except CaHpcError as trouble:
                error.message += f"\nand what was queued before may still run: {trouble.message}"
                error.hint = f"ca-hpc cancel {shlex.quote(str(run.path))}"
                raise error from trouble
            run.write(f"submissions/{stage.name}.json", replace(intent, refused=error.message))
            error.hint = f"{error.hint} (nothing is queued; the record stays in {run.path})"
            raise
        run.write(f"submissions/{stage.name}.json", replace(intent, job_ids=ids[stage.name]))


def private_umask() -> None:
    """Files of a run are for the user and the group at most, whatever the shell's umask says."""
    os.umask(os.umask(0o077) | 0o027)
