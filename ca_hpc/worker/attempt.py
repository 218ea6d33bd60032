"""One attempt of one task: its command started, waited for, judged, and written down."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.attempts.evidence import oom_kills
from ca_hpc.attempts.history import gpu_hours
from ca_hpc.attempts.verdicts import STATES, interrupted, judge
from ca_hpc.core.environment import share
from ca_hpc.core.failures import Verdict
from ca_hpc.core.gpu_fit import require_fit
from ca_hpc.core.model import (
    INTERRUPTED_STATUS,
    SIGNAL_LEAD_S,
    SLICED,
    Command,
    Element,
    Runtime,
    Stage,
    Task,
    TaskState,
)
from ca_hpc.core.record import Attempt, Result, Submission
from ca_hpc.core.retry import Decision
from ca_hpc.core.rules import Failure
from ca_hpc.errors import CaHpcError, ExitCode
from ca_hpc.runtimes.apptainer import MOUNT_RECORD
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.command import Place, started_command
from ca_hpc.worker.machine import Hardware, uses_cuda
from ca_hpc.worker.node import Node
from ca_hpc.worker.running import STOP_SIGNAL, Running, Stop
from ca_hpc.worker.staging import Staged
from ca_hpc.worker.unchanged import refuse_changes

# SLURM's warning comes up to a minute before its lead; with more time left it was not for the limit
NEAR_S: Final = SIGNAL_LEAD_S + 80


@dataclass(frozen=True, slots=True)
class Setting:
    """What all attempts of an element on this node have in common.

    ``submission``: None for a run's first. ``ends_at_s``: when steps must have ended, as a Unix
    time; None: nobody ends them. ``hardware``: what the node is made of, None where nothing is to
    run on it.
    """

    run: RunFolder
    node: Node
    stage: Stage
    element: Element
    running: Running
    staged: Staged
    submission: Submission | None
    ends_at_s: int | None
    hardware: Hardware | None = None

    @property
    def number(self) -> int:
        return 0 if self.submission is None else self.submission.number

    @property
    def memory_mib(self) -> int:
        changed = None if self.submission is None else self.submission.memory_mib
        return changed or self.stage.resources.memory_mib

    @property
    def slice_ends_at_s(self) -> int | None:
        return self.ends_at_s if self.stage.name in SLICED else None

    @property
    def runtime(self) -> Runtime:
        """The run's, with the image where it lies on this node."""
        runtime = self.run.workflow.runtime
        if self.staged.image is None or runtime.image is None:
            return runtime
        return replace(runtime, image=replace(runtime.image, path=self.staged.image))


def attempt(task: Task, setting: Setting, *, slot: int) -> Result:
    """Run ``task`` once more. Whatever becomes of it is a result in the attempt's folder."""
    run, node = setting.run, setting.node
    number, folder = run.new_attempt(task.id, job=node.job, restart=node.restart)
    started = node.now()
    record = Attempt(
        number=number,
        job=node.job,
        restart=node.restart,
        host=node.name,
        pid=0,
        started=started.isoformat(timespec="seconds"),
        argv=(),
        submission=setting.number,
        gpus=setting.stage.resources.gpus / setting.element.slots,
        memory_mib=setting.memory_mib,
        machine=setting.hardware.machine if setting.hardware else None,
    )
    mount = None
    try:
        run.write_attempt(folder, record)
        status, verdict, mount = _execute(task, setting, folder, record=record, slot=slot)
    except CaHpcError as error:
        status = int(error.exit_code)
        verdict = judge(status, run, folder, error=error)
    except OSError as error:  # a full disk, a node-local folder that is not ours, …
        status = int(ExitCode.TASK_FAILED)
        verdict = judge(status, run, folder, error=error)
    ended = node.now()
    result = Result(
        task=task.id,
        attempt=folder.name,
        state=TaskState.COMPLETED if verdict is None else STATES[verdict.failure],
        exit_code=status,
        started=record.started,
        ended=ended.isoformat(timespec="seconds"),
        seconds=round((ended - started).total_seconds(), 1),
        host=node.name,
        cause=None if verdict is None else verdict.cause,
        hint=None if verdict is None else verdict.hint,
        failure=None if verdict is None else verdict.failure.value,
        lines=() if verdict is None else verdict.lines,
        image_mount=mount,
    )
    run.write_result(folder, result)
    return result


def give_up(task: Task, setting: Setting, decision: Decision) -> Result:
    """An attempt that is not begun, to say why none is any more."""
    run, node = setting.run, setting.node
    number, folder = run.new_attempt(task.id, job=node.job, restart=node.restart)
    now = node.now().isoformat(timespec="seconds")
    record = Attempt(number, node.job, node.restart, node.name, 0, now, (), setting.number)
    run.write_attempt(folder, record)
    result = Result(
        task=task.id,
        attempt=folder.name,
        state=STATES[decision.failure],
        exit_code=int(ExitCode.TASK_FAILED),
        started=now,
        ended=now,
        seconds=0.0,
        host=node.name,
        cause=decision.why,
        hint=f"ca-hpc retry {shlex.quote(str(run.path))} {task.id}",
        failure=decision.failure.value,
    )
    run.write_result(folder, result)
    return result


def over_budget(run: RunFolder, node: Node) -> Verdict | None:
    """That the run has used its GPU hours; None: there are some left, or no end to them."""
    most = run.workflow.max_gpu_hours  # as it is now: `retry` may have raised it
    if most is None:
        return None
    used = gpu_hours(run, now=node.now())
    return None if used < most else interrupted(Failure.BUDGET, used=used, most=most)


def _execute(
    task: Task, setting: Setting, folder: Path, *, record: Attempt, slot: int
) -> tuple[int, Verdict | None, str | None]:
    """Start the task's command and wait for it.

    Returns its exit status, what it means, and how its image was mounted.
    """
    run, running = setting.run, setting.running
    if setting.stage.resources.gpus and (over := over_budget(run, setting.node)) is not None:
        return int(ExitCode.TASK_FAILED), over, None
    refuse_changes(run, setting.stage.name, setting.staged)
    _check_gpus(setting)
    killed = oom_kills()
    with tempfile.TemporaryDirectory(
        prefix="ca-hpc-",
        dir=setting.node.folder(run.workflow.node_local),
        ignore_cleanup_errors=True,
    ) as work_folder:
        (Path(work_folder) / "home").mkdir()
        command = _command(task, setting, folder, work_folder=work_folder, slot=slot)
        child = processes.start(
            command.argv,
            env=command.environment,
            cwd=Path(work_folder),  # where the worker stands is the site's to say, or its user's
            log=folder / "log.txt",
            own_session=True,
            end_with_us=STOP_SIGNAL,
        )
        running.began(task.id, child, folder)
        with contextlib.suppress(OSError):  # a full disk: the task is to say so, not we
            run.write_attempt(folder, replace(record, pid=child.pid, argv=command.argv))
        status = child.wait()
        running.ended(task.id)
        mount = _word(Path(work_folder) / MOUNT_RECORD)
    if status == 0:
        return 0, None, mount
    if status == INTERRUPTED_STATUS:
        return status, _why_interrupted(task.id, setting), mount
    verdict = judge(status, run, folder, asked_to_stop=running.stopping, oom_kills_before=killed)
    return status, verdict, mount


def _command(task: Task, setting: Setting, folder: Path, *, work_folder: str, slot: int) -> Command:
    place = Place(
        attempt=str(folder),
        work_folder=work_folder,
        slots=setting.element.slots,
        visible_gpus=_gpus(setting, slot=slot),
        environment=setting.node.environment,
        ends_at_s=setting.slice_ends_at_s,
        preprocessed=setting.staged.preprocessed,
        runtime=setting.runtime,
    )
    return started_command(task, setting.stage, setting.run.workflow, place)


def _why_interrupted(task: str, setting: Setting) -> Verdict:
    if setting.running.superseded(task):
        return interrupted(Failure.NODE)
    match setting.running.reason:
        case Stop.BUDGET:
            return over_budget(setting.run, setting.node) or interrupted(Failure.BUDGET)
        # None: by itself, or by a signal that came to it alone
        case Stop.WARNED | Stop.ENDING | None:
            ends_at_s = setting.slice_ends_at_s
            left_s = None if ends_at_s is None else ends_at_s - setting.node.now().timestamp()
            near = left_s is not None and left_s < NEAR_S
            return interrupted(Failure.TIME if near else Failure.PREEMPTED)


def _check_gpus(setting: Setting) -> None:
    """Refuse a GPU or driver that the image's CUDA cannot use: torch says so late, or not at all.

    Without an image nobody has written down beforehand what there is.
    """
    if setting.hardware is None or not uses_cuda(setting.stage.resources):
        return
    image = setting.run.pins.image
    if image is not None:
        for device in setting.hardware.devices:
            require_fit(device.gpu, capability=device.capability, versions=image.versions)


def _gpus(setting: Setting, *, slot: int) -> str | None:
    if not setting.stage.resources.gpus:
        return ""
    return ",".join(share(setting.node.gpus, slot=slot, slots=setting.element.slots)) or None


def _word(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except OSError:
        return None
