"""Run one element: its tasks in slots, until they are done or asked to stop."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ca_hpc.attempts.history import current_result, decision_on, history
from ca_hpc.core.model import Element, Stage, Task, TaskState, Workflow
from ca_hpc.core.record import Result, Submission, tasks_of
from ca_hpc.errors import CaHpcError
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.attempt import Setting, attempt, give_up, over_budget
from ca_hpc.worker.machine import look
from ca_hpc.worker.node import Node
from ca_hpc.worker.running import Running, Stop
from ca_hpc.worker.staging import stage_in

LOOK_EVERY_S: Final = 60.0  # for a newer attempt of the same task
RECKON_EVERY_S: Final = 600.0  # the GPU hours of the run, which means reading all attempts
# The job ends this much later than the step is told: it must still be written down how it ended.
SPARE_S: Final = 10


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


class Execution:
    """One element on one node, now."""

    def __init__(self, run: RunFolder, node: Node, *, submission: Submission | None = None) -> None:
        self._run = run
        self._node = node
        self._workflow: Workflow = run.workflow
        self._submission = submission
        self._running = Running()
        self._began_s = self._now_s()  # a second or two after the job did
        self._ends_at_s: int | None = None

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
        hardware = look(self._node, stage.resources) if wanted else None
        with stage_in(
            self._run,
            stage,
            node=self._node,
            wanted=wanted,
            stopping=lambda: self._running.stopping,
        ) as staged:
            setting = Setting(
                run=self._run,
                node=self._node,
                stage=stage,
                element=element,
                running=self._running,
                staged=staged,
                submission=self._submission,
                ends_at_s=self._ends_at_s,
                hardware=hardware,
            )
            results = self._in_slots(waiting, setting)
        return tuple(Outcome(result.task, result, self._is_newest(result)) for result in results)

    def stop(self, reason: Stop) -> None:
        """Ask the running steps to save and end, and begin no other; returns at once.

        May be called from a signal handler.
        """
        self._running.stop(reason)

    def wanted(self, element_id: str) -> tuple[str, ...]:
        """Ids of the tasks that this job is for."""
        _, element = self._workflow.stage_of(element_id)
        return tuple(task.id for task in self._of_submission(element))

    @property
    def warned(self) -> bool:
        """The job was asked to save and to go on elsewhere; or its time is up."""
        return self._running.reason is Stop.WARNED or (self._signalled and self._time_is_up)

    @property
    def ending(self) -> bool:
        """SLURM is ending the job: it was cancelled, or is queued again. Not its time limit."""
        return self._signalled and not self._time_is_up

    @property
    def _signalled(self) -> bool:
        return self._running.reason is Stop.ENDING

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

    def _in_slots(self, waiting: queue.SimpleQueue[Task], setting: Setting) -> list[Result]:
        results: list[Result] = []
        slots = setting.element.slots

        def work(slot: int) -> None:
            while not self._running.stopping:
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    return
                result = _standing(task, setting) or attempt(task, setting, slot=slot)
                results.append(result)
                if slots == 1 and result.state is not TaskState.COMPLETED:
                    return

        threads = [
            threading.Thread(target=work, args=(slot,), name=f"slot{slot}") for slot in range(slots)
        ]
        for thread in threads:
            thread.start()
        self._watch(threads, setting.stage)
        return results

    def _watch(self, threads: Sequence[threading.Thread], stage: Stage) -> None:
        """Wait for the slots; end what is superseded, and all when the GPU hours are used up."""
        looked = reckoned = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            # in steps, so that the main thread can answer signals
            for thread in threads:
                thread.join(timeout=0.2)
            # shared storage that is away for a moment is no reason to leave the tasks alone
            with contextlib.suppress(OSError, CaHpcError):
                if time.monotonic() - looked >= LOOK_EVERY_S:
                    looked = time.monotonic()
                    self._running.stop_superseded(self._run)
                if time.monotonic() - reckoned >= RECKON_EVERY_S:
                    reckoned = time.monotonic()
                    if stage.resources.gpus and over_budget(self._run, self._node) is not None:
                        self._running.stop(Stop.BUDGET)

    def _is_newest(self, result: Result) -> bool:
        return all(other.name <= result.attempt for other in self._run.attempts(result.task))

    def _end_of_job(self, stage: Stage) -> int | None:
        """When steps must have ended: a little before the job does."""
        if self._workflow.executor == "local":
            return None
        told = self._node.ends_at_s
        return (told or int(self._began_s) + stage.resources.time_s) - SPARE_S

    def _now_s(self) -> float:
        return self._node.now().timestamp()


def _standing(task: Task, setting: Setting) -> Result | None:
    """The result that makes another attempt needless, or useless; None: the task is to run.

    Attempts that died without a result count too: else a job that is killed each time would be
    started for ever.
    """
    run = setting.run
    result = current_result(run, task.id)
    if result is not None and result.state is TaskState.COMPLETED:
        return result
    if not history(run, task.id):
        return None
    decision = decision_on(run, setting.stage, task.id)
    if decision.again:
        return None
    if result is not None and result.attempt == run.attempts(task.id)[-1].name:
        return result
    return give_up(task, setting, decision)
