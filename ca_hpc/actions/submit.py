"""Submit: write the run folder, then one submission per stage; or show what would be submitted."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ca_hpc import __version__
from ca_hpc.actions import stages, unfinished
from ca_hpc.actions.job_data import Say, silent
from ca_hpc.actions.job_seals import seal_sources
from ca_hpc.actions.prepare import (
    Get,
    Host,
    Inputs,
    Job,
    find_inputs,
    next_run_folder,
    workflow,
)
from ca_hpc.actions.two_sides import described_image, host_software
from ca_hpc.actions.warnings import warnings
from ca_hpc.core.expand import sliced
from ca_hpc.core.model import Command, Stage, Task, Workflow
from ca_hpc.core.record import Pins, Submission, job_name
from ca_hpc.core.render import render
from ca_hpc.core.run_record import Image
from ca_hpc.core.sealed import Seals
from ca_hpc.errors import CaHpcError
from ca_hpc.executors import local, placing, sbatch, slurm
from ca_hpc.executors.placing import Sleep
from ca_hpc.report.run_files import write_run_files
from ca_hpc.report.run_record import RECORD
from ca_hpc.store import atomic
from ca_hpc.store.given import Given, write_given
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, seal, write_seals
from ca_hpc.worker.command import Place, started_command

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
        _image(job, inputs)
    except CaHpcError as error:
        trouble = error
    run_folder = next_run_folder(job)
    flow = workflow(job, inputs, host=host, run_folder=run_folder)
    told = warnings(job, inputs, flow) if inputs else ()
    numbers = itertools.count(1)
    first: dict[str, Submission] = {}  # of each stage; of several chains the others are alike
    for stage in flow.stages:
        for draft, number in zip(stages.drafts(stage), numbers, strict=False):
            name = job_name(run_folder.name, stage.name, token=DRY_TOKEN, number=number)
            after = () if stage.after is None else (f"JOB-OF-{stage.after}",)
            numbered = replace(draft, number=number, job_name=name, after=after)
            first.setdefault(stage.name, numbered)

    def script(stage: Stage) -> str:
        return sbatch.script(stage, flow, first[stage.name])

    def started(task: Task, stage: Stage, slots: int) -> Command:
        place = Place(
            attempt=str(run_folder / "tasks" / task.id / "attempts" / ATTEMPT),
            work_folder=WORK_FOLDER,
            slots=slots,
            visible_gpus="GPUS" if stage.resources.gpus else "",
        )
        return started_command(task, stage, flow, place)

    on_slurm = flow.executor == "slurm"
    text = render(
        flow,
        sliced=sliced(job.spec, job.cluster, flow),
        script=script if on_slurm else None,
        started=started,
    )
    return DryRun(text, told, trouble)


def submit(
    job: Job,
    *,
    host: Host,
    token: str,
    now: datetime,
    warn: Callable[[str], None],
    say: Say = silent,
    patience_s: float = placing.PATIENCE_S,
    sleep: Sleep = time.sleep,
    inputs: Callable[[], Inputs] | None = None,
    given: Given | None = None,
) -> RunFolder:
    """Check everything, write the run folder, submit all stages. Raises CaHpcError.

    Of a rerun ``inputs`` keeps what was found for it, and ``given`` is laid down in the run folder.

    ``warn`` is told, before anything is queued, what is allowed and yet seldom meant, and ``say``
    what is being fetched. Nothing is written before all checks have passed. A submission of the
    same job that was cut off is taken up where it stopped. When the scheduler refuses a stage,
    what was submitted before it is cancelled and the run folder stays, to be looked at; when it
    does not answer for ``patience_s`` seconds, all stays as it is, to be taken up.
    """
    with contextlib.ExitStack() as locks:
        run = unfinished.take_up(job, given, locks=locks)
        if run is None:
            run = _new_run(
                job,
                inputs() if inputs else find_inputs(job, host=host, get=Get.ALL_TO_KEEP, say=say),
                given,
                host=host,
                token=token,
                now=now,
                warn=warn,
                say=say,
                locks=locks,
            )
        else:
            say(f"the submission of {run.path} was cut off: it goes on there")
        if not run.file(RECORD).is_file():
            write_run_files(run)  # a report, which writes it last, may come soon
        if run.workflow.executor == "slurm":
            stages.submit_stages(run, say=say, patience_s=patience_s, sleep=sleep)
        elif not run.file(local.STATE).exists():
            local.launch(run)
        unfinished.over(run)
        return run


def resume_submission(
    run: RunFolder,
    *,
    say: Say = silent,
    patience_s: float = placing.PATIENCE_S,
    sleep: Sleep = time.sleep,
) -> None:
    """Complete what was cut off of a run's submissions, as ``submit`` does; see ``stages.resume``.

    Raises SchedulerUnreachable.
    """
    if run.workflow.executor == "slurm":
        stages.resume(run, say=say, patience_s=patience_s, sleep=sleep)


def _new_run(
    job: Job,
    inputs: Inputs,
    given: Given | None,
    *,
    host: Host,
    token: str,
    now: datetime,
    warn: Callable[[str], None],
    say: Say,
    locks: contextlib.ExitStack,
) -> RunFolder:
    """A run folder with all its records, and nothing submitted."""
    image = _image(job, inputs)
    if job.cluster.executor == "slurm":
        slurm.check()
    expected = next_run_folder(job)
    # its problems come before the folder
    told = warnings(job, inputs, workflow(job, inputs, host=host, run_folder=expected))
    for text in told:
        warn(text)
    data = seal_sources(inputs.cases, cache=host.cache / "digests.json", say=say)
    run = unfinished.new_folder(job, locks=locks)
    flow = workflow(job, inputs, host=host, run_folder=run.path)
    created = now.isoformat(timespec="seconds")
    pins = Pins(
        ca_hpc=__version__,
        token=token,
        created=created,
        weights=inputs.weights_pin,
        warnings=told,
        image=image,
        host=host_software(),
    )
    try:
        if given is not None:
            write_given(run, given)
        _write_records(run, job, inputs=inputs, data=data, pins=pins, flow=flow)
    except OSError:  # a full disk, a quota
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def _image(job: Job, inputs: Inputs) -> Image | None:
    pin = inputs.image
    return None if pin is None else described_image(pin, named=job.spec.image)


def _write_records(
    run: RunFolder, job: Job, *, inputs: Inputs, data: Seals, pins: Pins, flow: Workflow
) -> None:
    atomic.write_text(run.file("job.yaml"), job.text)
    run.write_spec("spec.json", job.spec)
    run.write_spec("cluster.json", job.cluster)
    run.write("cases.json", inputs.cases)
    write_seals(run.data_seals, data)
    if inputs.model is not None:
        run.write_spec("model.json", inputs.model)
    if job.spec.trainers is not None:
        _seal_trainers(Path(job.spec.trainers), run.trainers)
    if inputs.weights is not None:
        run.write_spec("weights.json", inputs.weights.manifest)
    run.write("pins.json", pins)
    run.write("workflow.json", flow)  # last: its presence makes the folder a run


def _seal_trainers(folder: Path, target: Path) -> None:
    """Copy trainers as they are now: a training that is queued again must find the same ones."""
    names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*.py"))]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    if names:
        write_seals(target / SEALS, seal(target, names))
