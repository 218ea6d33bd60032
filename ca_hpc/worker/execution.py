"""Run one element: its tasks in slots, each attempt started, stopped on request, and judged."""

from __future__ import annotations

import contextlib
import queue
import shlex
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.attempts.evidence import oom_kills
from ca_hpc.attempts.history import current_result, decision_on, gpu_hours, history
from ca_hpc.attempts.verdicts import STATES, interrupted, judge
from ca_hpc.core.environment import share
from ca_hpc.core.failures import Verdict
from ca_hpc.core.model import (
    INTERRUPTED_STATUS,
    SIGNAL_LEAD_S,
    SLICED,
    Element,
    Pin,
    Runtime,
    Stage,
    Task,
    TaskState,
    Workflow,
)
from ca_hpc.core.record import Attempt, Result, Submission, tasks_of
from ca_hpc.core.retry import Decision
from ca_hpc.core.rules import Failure
from ca_hpc.errors import CaHpcError, ExitCode
from ca_hpc.runtimes.apptainer import MOUNT_RECORD
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.command import Place, started_command
from ca_hpc.worker.node import Node
from ca_hpc.worker.staging import Staged, stage_in

STOP_SIGNAL: Final = signal.SIGTERM  # what a step is asked to stop with
LOOK_EVERY_S: Final = 60.0  # for a newer attempt of the same task
RECKON_EVERY_S: Final = 600.0  # the GPU hours of the run, which means reading all attempts
# SLURM's warning comes up to a minute before its lead; with more time left it was not for the limit
NEAR_S: Final = SIGNAL_LEAD_S + 80
# The job ends this much later than the step is told: it must still be written down how it ended.
SPARE_S: Final = 10


class Stop(str, Enum):
    """Why the tasks were asked to stop."""

    WARNED = "warned"  # the time limit is near, or others need the node: goes on in another job
    ENDING = "ending"  # SLURM is ending the job, and knows whether it is queued again
    BUDGET = "budget"  # the run has used its GPU hours


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task of the element stands. ``mine``: no other job has begun a newer attempt."""

    task: str
    result: Result
    mine: bool

    @property
    def completed(self) -> bool:
        return self.result.state is TaskState.COMPLETED


def lost(wanted: Sequence[str], outcomes: Sequence[Outcome]) -> str | None:
    """What is to be said of tasks that did not complete; None when all did.

    A task without a result counts too: it was not reached, or its slot broke.
    """
    done = {outcome.task for outcome in outcomes if outcome.completed}
    missing = [task for task in wanted if task not in done]
    if not missing:
        return None
    causes = [f"{o.task}: {o.result.cause}" for o in outcomes if not o.completed]
    counted = f"{len(missing)} of {len(wanted)} tasks did not complete: {', '.join(missing)}"
    return "\n".join((counted, *causes))


def _word(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except OSError:
        return None


class Execution:
    """One element on one node, now."""

    def __init__(self, run: RunFolder, node: Node, *, submission: Submission | None = None) -> None:
        self._run = run
        self._node = node
        self._workflow: Workflow = run.workflow
        self._submission = submission
        self._running: dict[str, tuple[processes.Child, Path]] = {}
        self._superseded: set[str] = set()  # newer attempts run elsewhere: this node was given up
        self._stopping = threading.Event()
        self._began_s = self._now_s()  # a second or two after the job did
        self._ends_at_s: int | None = None
        self.stop_reason: Stop | None = None

    def run(self, element_id: str) -> tuple[Outcome, ...]:
        """Run the tasks of the element that are not done. Those not reached are not in the answer.

        With one slot they run in order, and one that does not complete ends the element.
        """
        stage, element = self._workflow.stage_of(element_id)
        self._ends_at_s = self._end_of_job(stage)
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in self._of_submission(element):
            waiting.put(task)
        wanted = not waiting.empty()
        with stage_in(
            self._run, stage, node=self._node, wanted=wanted, stopping=self._stopping.is_set
        ) as staged:
            results = self._in_slots(waiting, stage, element=element, staged=staged)
        return tuple(Outcome(result.task, result, self._is_newest(result)) for result in results)

    def stop(self, reason: Stop) -> None:
        """Ask the running steps to save and end; returns at once.

        May be called from a signal handler: it neither waits nor prints, since the handler may have
        interrupted just that. A first reason stays, but for SLURM's own: nothing follows that.
        """
        if self.stop_reason is None or reason is Stop.ENDING:
            self.stop_reason = reason
        self._stopping.set()
        for child, _ in list(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(STOP_SIGNAL)

    def wanted(self, element_id: str) -> tuple[str, ...]:
        """Ids of the tasks that this job is for."""
        _, element = self._workflow.stage_of(element_id)
        return tuple(task.id for task in self._of_submission(element))

    @property
    def warned(self) -> bool:
        """The job was asked to save and to go on elsewhere; or its time is up."""
        return self.stop_reason is Stop.WARNED or (self._signalled and self._time_is_up)

    @property
    def ending(self) -> bool:
        """SLURM is ending the job: it was cancelled, or is queued again. Not its time limit."""
        return self._signalled and not self._time_is_up

    @property
    def _signalled(self) -> bool:
        return self.stop_reason is Stop.ENDING

    @property
    def _time_is_up(self) -> bool:
        return self._ends_at_s is not None and self._now_s() >= self._ends_at_s

    def _of_submission(self, element: Element) -> list[Task]:
        if self._submission is None:
            return list(element.tasks)
        ours = tasks_of(
            self._submission,
            element.id,
            [task.id for task in element.tasks],
            submissions=self._run.submissions(),
            job=self._node.job,
        )
        return [task for task in element.tasks if task.id in ours]

    def _in_slots(
        self, waiting: queue.SimpleQueue[Task], stage: Stage, *, element: Element, staged: Staged
    ) -> list[Result]:
        results: list[Result] = []

        def work(slot: int) -> None:
            while not self._stopping.is_set():
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    return
                result = self._standing(task, stage)
                if result is None:
                    result = self._attempt(task, stage, slot=slot, element=element, staged=staged)
                results.append(result)
                if element.slots == 1 and result.state is not TaskState.COMPLETED:
                    return

        threads = [
            threading.Thread(target=work, args=(slot,), name=f"slot{slot}")
            for slot in range(element.slots)
        ]
        for thread in threads:
            thread.start()
        looked = reckoned = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            # in steps, so that the main thread can answer signals
            for thread in threads:
                thread.join(timeout=0.2)
            # shared storage that is away for a moment is no reason to leave the tasks alone
            with contextlib.suppress(OSError, CaHpcError):
                if time.monotonic() - looked >= LOOK_EVERY_S:
                    looked = time.monotonic()
                    self._stop_superseded()
                if time.monotonic() - reckoned >= RECKON_EVERY_S:
                    reckoned = time.monotonic()
                    if stage.resources.gpus and self._over_budget() is not None:
                        self.stop(Stop.BUDGET)
        return results

    def _standing(self, task: Task, stage: Stage) -> Result | None:
        """The result that makes another attempt needless, or useless; None: the task is to run.

        Attempts that died without a result count too: else a job that is killed each time would be
        started for ever.
        """
        result = current_result(self._run, task.id)
        if result is not None and result.state is TaskState.COMPLETED:
            return result
        if not history(self._run, task.id):
            return None
        decision = decision_on(self._run, stage, task.id)
        if decision.again:
            return None
        newest = self._run.attempts(task.id)[-1].name
        return (
            result
            if result is not None and result.attempt == newest
            else self._give_up(task, stage, decision)
        )

    def _give_up(self, task: Task, stage: Stage, decision: Decision) -> Result:
        """An attempt that is not begun, to say why none is any more."""
        number, attempt = self._run.new_attempt(
            task.id, job=self._node.job, restart=self._node.restart
        )
        now = self._node.now().isoformat(timespec="seconds")
        record = Attempt(
            number, self._node.job, self._node.restart, self._node.name, 0, now, (), self._number
        )
        self._run.write_attempt(attempt, record)
        failure = decision.failure
        result = Result(
            task=task.id,
            attempt=attempt.name,
            state=STATES[failure],
            exit_code=int(ExitCode.TASK_FAILED),
            started=now,
            ended=now,
            seconds=0.0,
            host=self._node.name,
            cause=decision.why,
            hint=f"ca-hpc retry {shlex.quote(str(self._run.path))} {task.id}",
            failure=failure.value,
        )
        self._run.write_result(attempt, result)
        return result

    def _attempt(
        self, task: Task, stage: Stage, *, slot: int, element: Element, staged: Staged
    ) -> Result:
        node = self._node
        number, attempt = self._run.new_attempt(task.id, job=node.job, restart=node.restart)
        started = node.now()
        record = Attempt(
            number=number,
            job=node.job,
            restart=node.restart,
            host=node.name,
            pid=0,
            started=started.isoformat(timespec="seconds"),
            argv=(),
            submission=self._number,
            gpus=stage.resources.gpus / element.slots,
            memory_mib=self._memory_mib(stage),
        )
        mount = None
        try:
            self._run.write_attempt(attempt, record)
            status, verdict, mount = self._execute(
                task, stage, attempt, record=record, slot=slot, element=element, staged=staged
            )
        except CaHpcError as error:
            status = int(error.exit_code)
            verdict = judge(status, self._run, attempt, error=error)
        except OSError as error:  # a full disk, a node-local folder that is not ours, …
            status = int(ExitCode.TASK_FAILED)
            verdict = judge(status, self._run, attempt, error=error)
        ended = node.now()
        result = Result(
            task=task.id,
            attempt=attempt.name,
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
        self._run.write_result(attempt, result)
        return result

    def _execute(
        self,
        task: Task,
        stage: Stage,
        attempt: Path,
        *,
        record: Attempt,
        slot: int,
        element: Element,
        staged: Staged,
    ) -> tuple[int, Verdict | None, str | None]:
        """Start the task's command and wait for it.

        Returns its exit status, what it means, and how its image was mounted.
        """
        if stage.resources.gpus and (over := self._over_budget()) is not None:
            return int(ExitCode.TASK_FAILED), over, None
        self._check_image(staged.image)
        killed = oom_kills()
        ends_at_s = self._ends_at_s if stage.name in SLICED else None
        with tempfile.TemporaryDirectory(
            prefix="ca-hpc-", dir=self._node_local(), ignore_cleanup_errors=True
        ) as work_folder:
            (Path(work_folder) / "home").mkdir()
            command = started_command(
                task,
                stage,
                self._workflow,
                Place(
                    attempt=str(attempt),
                    work_folder=work_folder,
                    slots=element.slots,
                    visible_gpus=self._gpus(stage, slot=slot, slots=element.slots),
                    environment=self._node.environment,
                    ends_at_s=ends_at_s,
                    preprocessed=staged.preprocessed,
                    runtime=self._runtime(staged.image),
                ),
            )
            child = processes.start(
                command.argv,
                env=command.environment,
                log=attempt / "log.txt",
                own_session=True,
                end_with_us=STOP_SIGNAL,
            )
            self._running[task.id] = (child, attempt)
            if self._stopping.is_set():  # it came before there was a child to tell
                child.send_signal(STOP_SIGNAL)
            with contextlib.suppress(OSError):  # a full disk: the task is to say so, not we
                self._run.write_attempt(attempt, replace(record, pid=child.pid, argv=command.argv))
            status = child.wait()
            del self._running[task.id]
            mount = _word(Path(work_folder) / MOUNT_RECORD)
        if status == 0:
            return 0, None, mount
        stopped = self._stopping.is_set()
        if status == INTERRUPTED_STATUS:
            return status, self._why_interrupted(task.id, ends_at_s), mount
        verdict = judge(status, self._run, attempt, asked_to_stop=stopped, oom_kills_before=killed)
        return status, verdict, mount

    def _why_interrupted(self, task: str, ends_at_s: int | None) -> Verdict:
        if task in self._superseded:
            return interrupted(Failure.NODE)
        match self.stop_reason:
            case Stop.BUDGET:
                return self._over_budget() or interrupted(Failure.BUDGET)
            # None: by itself, or by a signal that came to it alone
            case Stop.WARNED | Stop.ENDING | None:
                near = ends_at_s is not None and ends_at_s - self._now_s() < NEAR_S
                return interrupted(Failure.TIME if near else Failure.PREEMPTED)

    def _stop_superseded(self) -> None:
        """End what has a newer attempt: SLURM gave this node up and started the task elsewhere."""
        for task, (child, attempt) in list(self._running.items()):
            if any(other.name > attempt.name for other in self._run.attempts(task)):
                self._superseded.add(task)
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(STOP_SIGNAL)

    def _over_budget(self) -> Verdict | None:
        most = self._run.workflow.max_gpu_hours  # as it is now: `retry` may have raised it
        if most is None:
            return None
        used = gpu_hours(self._run, now=self._node.now())
        return None if used < most else interrupted(Failure.BUDGET, used=used, most=most)

    def _is_newest(self, result: Result) -> bool:
        return all(other.name <= result.attempt for other in self._run.attempts(result.task))

    @property
    def _number(self) -> int:
        return 0 if self._submission is None else self._submission.number

    def _memory_mib(self, stage: Stage) -> int:
        changed = None if self._submission is None else self._submission.memory_mib
        return changed or stage.resources.memory_mib

    def _end_of_job(self, stage: Stage) -> int | None:
        """When steps must have ended: a little before the job does."""
        if self._workflow.executor == "local":
            return None
        told = self._node.ends_at_s
        return (told or int(self._began_s) + stage.resources.time_s) - SPARE_S

    def _node_local(self) -> Path | None:
        return self._node.folder(self._workflow.node_local)

    def _now_s(self) -> float:
        return self._node.now().timestamp()

    def _runtime(self, image: str | None) -> Runtime:
        runtime = self._workflow.runtime
        if image is None or runtime.image is None:
            return runtime
        return replace(runtime, image=Pin(image, runtime.image.sha256))

    def _check_image(self, staged: str | None) -> None:
        pin = self._workflow.runtime.image
        if pin is None or staged is not None:  # a copy was hashed as it was made
            return
        from ca_hpc.store.images import verify_image

        verify_image(Path(pin.path), pin.sha256, cache=self._run.file("image.digest.json"))

    def _gpus(self, stage: Stage, *, slot: int, slots: int) -> str | None:
        if not stage.resources.gpus:
            return ""
        return ",".join(share(self._node.gpus, slot=slot, slots=slots)) or None
