"""On the node: run one element, that is its tasks in slots, each with an attempt of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ca_hpc import processes
from ca_hpc.core.environment import share, task_environment
from ca_hpc.core.model import (
    INTERRUPTED_STATUS,
    Command,
    Element,
    Stage,
    Task,
    TaskState,
    Workflow,
)
from ca_hpc.core.record import Attempt, Result
from ca_hpc.errors import CaHpcError, ExitCode, TaskFailed
from ca_hpc.runtimes import wrap
from ca_hpc.store.run_folder import RunFolder

STOP_SIGNAL = signal.SIGTERM  # what a step is asked to stop with


@dataclass(frozen=True, slots=True)
class Node:
    """What the worker finds on the node. Enters as a value, so that tests can give another."""

    environment: Mapping[str, str]
    host: str
    now: Callable[[], datetime]

    @classmethod
    def here(cls) -> Node:
        """The node that this process runs on."""
        return cls(dict(os.environ), socket.gethostname(), lambda: datetime.now(timezone.utc))

    @property
    def job(self) -> str:
        """``101_0``, ``101``, or ``local`` outside SLURM."""
        array = self.environment.get("SLURM_ARRAY_JOB_ID")
        if array:
            return f"{array}_{self.environment['SLURM_ARRAY_TASK_ID']}"
        return self.environment.get("SLURM_JOB_ID", "local")

    @property
    def restart(self) -> int:
        """How often SLURM has queued this job again."""
        return int(self.environment.get("SLURM_RESTART_COUNT", "0"))

    @property
    def name(self) -> str:
        """SLURM's name of the node, else the host's."""
        return self.environment.get("SLURMD_NODENAME", self.host)

    @property
    def gpus(self) -> tuple[str, ...]:
        """The allocation's GPUs as CUDA numbers or ids them."""
        return tuple(filter(None, self.environment.get("CUDA_VISIBLE_DEVICES", "").split(",")))


class ElementCall:
    """What submitit pickles: two strings. Called on the node; ``checkpoint`` on its signal."""

    def __init__(self, run_folder: str, element_id: str) -> None:
        self.run_folder = run_folder
        self.element_id = element_id
        self._execution: Execution | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"run_folder": self.run_folder, "element_id": self.element_id, "_execution": None}

    def __call__(self) -> dict[str, str]:
        """Run the element. Raises TaskFailed when a task did not complete."""
        self._execution = Execution(RunFolder(Path(self.run_folder)), Node.here())
        return self._execution.run(self.element_id)

    def checkpoint(self) -> Any:
        """Let the tasks save their state; the same call then goes on after a requeue."""
        from submitit.core.utils import DelayedSubmission

        if self._execution is not None:
            self._execution.stop()
        return DelayedSubmission(ElementCall(self.run_folder, self.element_id))


class Execution:
    """One element on one node, now."""

    def __init__(self, run: RunFolder, node: Node) -> None:
        self._run = run
        self._node = node
        self._workflow: Workflow = run.workflow
        self._children: dict[int, processes.Child] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def run(self, element_id: str) -> dict[str, str]:
        """Run all tasks of the element. Returns their states; raises TaskFailed if one failed."""
        stage, element = self._workflow.stage_of(element_id)
        results = self._run_tasks(stage, element)
        states = {r.task: r.state for r in results}
        for result in results:
            if result.state is not TaskState.COMPLETED:
                print(f"{result.task}: {result.state.value}: {result.cause}", file=sys.stderr)
        # a task without a result counts too: it was not reached, or its slot broke
        lost = [t.id for t in element.tasks if states.get(t.id) is not TaskState.COMPLETED]
        if lost:
            raise TaskFailed(
                f"{len(lost)} of {len(element.tasks)} tasks of {element_id} did not complete: "
                + ", ".join(lost)
            )
        return {task: state.value for task, state in states.items()}

    def stop(self) -> None:
        """Ask the running steps to save and end, and wait until they have.

        May be called from a signal handler: it never waits on a child itself, since the handler
        may have interrupted just that wait and its lock; the slots' threads do the waiting.
        """
        self._stopping.set()
        for child in list(self._children.values()):
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(STOP_SIGNAL)
        for thread in self._threads:
            thread.join()

    def _run_tasks(self, stage: Stage, element: Element) -> list[Result]:
        """Tasks in slots. With one slot they run in order and a failure ends the element."""
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in element.tasks:
            waiting.put(task)
        results: list[Result] = []

        def work(slot: int) -> None:
            while not self._stopping.is_set():
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    return
                result = self._run_task(task, stage, slot=slot, slots=element.slots)
                results.append(result)
                if element.slots == 1 and result.state is not TaskState.COMPLETED:
                    return

        self._threads = [
            threading.Thread(target=work, args=(slot,), name=f"slot{slot}")
            for slot in range(element.slots)
        ]
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            while thread.is_alive():  # in steps, so that the main thread can answer signals
                thread.join(timeout=0.2)
        return results

    def _run_task(self, task: Task, stage: Stage, *, slot: int, slots: int) -> Result:
        before = self._run.result(task.id)
        if before is not None and before.state is TaskState.COMPLETED:
            return before
        number, attempt = self._run.new_attempt(
            task.id, job=self._node.job, restart=self._node.restart
        )
        started = self._node.now()
        record = Attempt(
            number=number,
            job=self._node.job,
            restart=self._node.restart,
            host=self._node.name,
            pid=0,
            started=started.isoformat(timespec="seconds"),
            argv=(),
        )
        try:
            status = self._execute(task, stage, attempt, record=record, slot=slot, slots=slots)
            state, cause, hint = _verdict(status, attempt)
        except CaHpcError as error:
            status, state = int(error.exit_code), TaskState.FAILED
            cause, hint = error.message, error.hint
        except OSError as error:  # a full disk, a node-local folder that is not ours, …
            status, state = int(ExitCode.TASK_FAILED), TaskState.FAILED
            cause, hint = f"could not be started: {error}", None
        ended = self._node.now()
        result = Result(
            task=task.id,
            attempt=attempt.name,
            state=state,
            exit_code=status,
            started=record.started,
            ended=ended.isoformat(timespec="seconds"),
            seconds=round((ended - started).total_seconds(), 1),
            host=self._node.name,
            cause=cause,
            hint=hint,
        )
        self._run.write(f"tasks/{task.id}/attempts/{attempt.name}/result.json", result)
        self._run.write(f"tasks/{task.id}/result.json", result)
        return result

    def _execute(
        self, task: Task, stage: Stage, attempt: Path, *, record: Attempt, slot: int, slots: int
    ) -> int:
        """Start the task's command and wait for it. Returns its exit status."""
        with tempfile.TemporaryDirectory(
            prefix="ca-hpc-", dir=self._node_local(), ignore_cleanup_errors=True
        ) as work_folder:
            (Path(work_folder) / "home").mkdir()
            self._check_image()
            command = self._command(
                task, stage, attempt=attempt, work_folder=work_folder, slot=slot, slots=slots
            )
            child = processes.start(
                command.argv, env=command.environment, log=attempt / "log.txt", own_session=True
            )
            self._children[child.pid] = child
            if self._stopping.is_set():  # it came before there was a child to tell
                child.send_signal(STOP_SIGNAL)
            self._run.write(
                f"tasks/{task.id}/attempts/{attempt.name}/attempt.json",
                replace(record, pid=child.pid, argv=command.argv),
            )
            status = child.wait()
            del self._children[child.pid]
        return status

    def _node_local(self) -> str | None:
        """The profile's node-local folder with the job's variables filled in, if it exists."""
        pattern = self._workflow.node_local
        if pattern is None:
            return None
        words = pattern.split("/")
        filled = "/".join(
            self._node.environment.get(w[1:], "") if w.startswith("$") else w for w in words
        )
        return filled if filled and Path(filled).is_dir() else None

    def _check_image(self) -> None:
        pin = self._workflow.runtime.image
        if pin is None:
            return
        from ca_hpc.store.images import verify_image

        verify_image(Path(pin.path), pin.sha256, cache=self._run.file("image.digest.json"))

    def _command(
        self, task: Task, stage: Stage, *, attempt: Path, work_folder: str, slot: int, slots: int
    ) -> Command:
        gpus = ",".join(share(self._node.gpus, slot=slot, slots=slots)) or None
        return started_command(
            task,
            stage,
            self._workflow,
            attempt=str(attempt),
            work_folder=work_folder,
            slots=slots,
            visible_gpus=gpus if stage.resources.gpus else "",
            host_environment=self._node.environment,
        )


def started_command(
    task: Task,
    stage: Stage,
    workflow: Workflow,
    *,
    attempt: str,
    work_folder: str,
    slots: int,
    visible_gpus: str | None,
    host_environment: Mapping[str, str],
) -> Command:
    """The command that runs a task, wrapped for the runtime. Pure: the dry run prints it too."""
    cpus = max(1, stage.resources.cpus // slots)
    threads = workflow.threads or cpus
    gpu = stage.resources.gpus > 0 and stage.resources.device == "cuda"
    inner = Command(
        (
            workflow.runtime.python, "-I", "-u", "-m", task.module, *task.arguments,
            "--attempt", attempt, "--cpus", str(cpus), "--threads", str(threads),
            "--device", "cuda" if gpu else "cpu",
        ),
        task_environment(
            threads=threads, cpus=cpus, work_folder=_inside(work_folder, workflow),
            visible_gpus=visible_gpus,
        ),
    )  # fmt: skip
    return wrap(
        inner,
        workflow.runtime,
        mounts=workflow.mounts,
        work_folder=work_folder,
        gpu=gpu,
        host_environment=host_environment,
    )


def _inside(work_folder: str, workflow: Workflow) -> str:
    """Where the task sees its work folder: an image has it at /tmp (``--workdir``)."""
    return "/tmp" if workflow.runtime.kind == "apptainer" else work_folder


def _verdict(status: int, attempt: Path) -> tuple[TaskState, str | None, str | None]:
    """State, cause and hint from a step's exit status and what it left behind."""
    if status == 0:
        return TaskState.COMPLETED, None, None
    if status == INTERRUPTED_STATUS:
        return TaskState.PREEMPTED, "stopped by a signal; its state is saved", None
    if status in (-STOP_SIGNAL, 128 + STOP_SIGNAL):  # ours or the scheduler's
        return TaskState.PREEMPTED, "stopped by a signal; nothing new was saved", None
    if status < 0 or status > 128:
        # before error.json: what a step under such a signal has left to say is not the cause
        number = -status if status < 0 else status - 128
        with contextlib.suppress(ValueError):  # 255 is Apptainer's own
            return TaskState.FAILED, f"killed by {signal.Signals(number).name}", None
    try:
        told = json.loads((attempt / "error.json").read_text())
        return TaskState.FAILED, told["message"], told["hint"]
    except (OSError, ValueError, KeyError):
        pass
    return TaskState.FAILED, f"exit status {status}: {_last_line(attempt / 'log.txt')}", None


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return lines[-1][:300] if lines else "empty log"


def main() -> None:
    """``python -m ca_hpc.worker RUN ELEMENT``: one element without SLURM."""
    execution = Execution(RunFolder.open(Path(sys.argv[1])), Node.here())
    # stop() waits for the tasks; a second signal while it does must not wait within the wait
    stopping = threading.Lock()

    def stop(number: int, frame: object) -> None:
        if stopping.acquire(blocking=False):
            execution.stop()

    signal.signal(signal.SIGTERM, stop)
    processes.end_with_parent()  # a scheduler that was killed can stop nobody any more
    try:
        execution.run(sys.argv[2])
    except CaHpcError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    sys.exit(int(ExitCode.OK))


if __name__ == "__main__":
    main()
