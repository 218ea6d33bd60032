"""This machine: our own sequencing of the same workflow, with slots of cores and GPUs.

``python -m ca_hpc.executors.local RUN`` is the whole scheduler: a process of its own session that
survives logout, starts one worker per element, and writes ``local/state.json``. submitit's local
executor has neither a queue nor dependencies nor a cap, hence this one.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ca_hpc import processes
from ca_hpc.attempts.history import decision_on, history
from ca_hpc.core.model import Element, Stage, TaskState
from ca_hpc.core.states import Row
from ca_hpc.errors import CaHpcError, ExitCode
from ca_hpc.store.run_folder import RunFolder

STATE = "local/state.json"
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class LocalState:
    """The scheduler process (pid and start time in clock ticks since boot) and its elements."""

    pid: int
    start_ticks: int
    elements: Mapping[str, TaskState] = field(default_factory=dict)


def launch(run: RunFolder) -> int:
    """Start the scheduler of a run and return its process id."""
    run.file("local").mkdir(exist_ok=True)
    run.file(STATE).unlink(missing_ok=True)  # of a scheduler that is no more
    argv = (sys.executable, "-I", "-m", "ca_hpc.executors.local", str(run.path))
    child = processes.start(argv, log=run.file("local", "scheduler.log"), own_session=True)
    elements = {e.id: TaskState.WAITING for s in run.workflow.stages for e in s.elements}
    state = LocalState(child.pid, _start_ticks(child.pid) or 0, elements)
    if not run.file(STATE).exists():
        run.write(STATE, state)
    return child.pid


def query(run: RunFolder, elements: Collection[str]) -> dict[str, Row]:
    """State of these elements. What ran when the scheduler died is FAILED: nobody runs it."""
    if not run.file(STATE).is_file():
        return {}
    state = run.local_state(LocalState)
    alive = _start_ticks(state.pid) == state.start_ticks
    lost = {TaskState.RUNNING: TaskState.NODE_FAIL, TaskState.WAITING: TaskState.CANCELLED}
    return {
        element: Row(known if alive else lost.get(known, known), node="local")
        for element, known in state.elements.items()
        if element in elements
    }


def alive(run: RunFolder) -> bool:
    """Whether the run's scheduler process still exists."""
    if not run.file(STATE).is_file():
        return False
    state = run.local_state(LocalState)
    return _start_ticks(state.pid) == state.start_ticks


def cancel(run: RunFolder) -> None:
    """Ask the scheduler to end; it stops its workers, which let their tasks save."""
    state = run.local_state(LocalState)
    if _start_ticks(state.pid) == state.start_ticks:
        os.kill(state.pid, signal.SIGTERM)


def _start_ticks(pid: int) -> int | None:
    """When the process started (proc(5), stat field 22): tells it from one that reuses its id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


class Scheduler:
    """Runs all elements of a run, stage after stage, as many at once as the machine holds."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._workflow = run.workflow
        node = run.cluster.node
        self._cpus = node.cpus or os.cpu_count() or 1
        self._gpus = list(map(str, range(node.gpus)))
        self._states: dict[str, TaskState] = {
            e.id: TaskState.WAITING for s in self._workflow.stages for e in s.elements
        }
        self._cancelled = False

    def run(self) -> ExitCode:
        """Run to the end; 0, 1 when an element failed, 130 when cancelled."""
        signal.signal(signal.SIGTERM, self._cancel)
        signal.signal(signal.SIGINT, self._cancel)
        self._save()
        ended: dict[str, bool] = {}
        for stage in self._workflow.stages:
            ready = stage.after is None or stage.condition == "afterany" or ended[stage.after]
            ended[stage.name] = self._run_stage(stage) if ready else self._skip(stage)
        if self._cancelled:
            return ExitCode.INTERRUPTED
        return ExitCode.OK if all(ended.values()) else ExitCode.TASK_FAILED

    def _run_stage(self, stage: Stage) -> bool:
        waiting = list(stage.elements)
        later: dict[str, float] = {}  # elements that are tried again, and when
        running: dict[str, tuple[processes.Child, tuple[str, ...]]] = {}
        free_gpus = list(self._gpus)
        most = max(1, self._cpus // stage.resources.cpus)
        most = min(most, stage.at_once)
        if stage.resources.gpus and self._gpus:
            most = min(most, max(1, len(self._gpus) // stage.resources.gpus))
        while running or ((waiting or later) and not self._cancelled):
            for name in [name for name, due in later.items() if time.monotonic() >= due]:
                del later[name]
                waiting.append(next(e for e in stage.elements if e.id == name))
            while waiting and len(running) < most and not self._cancelled:
                element = waiting.pop(0)
                gpus = tuple(free_gpus.pop(0) for _ in range(stage.resources.gpus) if free_gpus)
                running[element.id] = (self._start(element, gpus), gpus)
                self._set(element.id, TaskState.RUNNING)
            time.sleep(POLL_S)
            for name, (child, gpus) in list(running.items()):
                status = child.poll()
                if status is None:
                    continue
                free_gpus += gpus
                del running[name]
                if status != 0 and not self._cancelled:
                    wait_s = self._again(stage, name)
                    if wait_s is not None:
                        later[name] = time.monotonic() + wait_s
                        self._set(name, TaskState.PENDING)
                        continue
                failed = TaskState.CANCELLED if self._cancelled else TaskState.FAILED
                self._set(name, TaskState.COMPLETED if status == 0 else failed)
            if self._cancelled:
                for child, _ in running.values():
                    child.send_signal(signal.SIGTERM)
        for name in [*later, *(element.id for element in waiting)]:
            self._set(name, TaskState.CANCELLED)
        return all(self._states[e.id] is TaskState.COMPLETED for e in stage.elements)

    def _again(self, stage: Stage, element_id: str) -> int | None:
        """Seconds until the element is run again, by the rules for its tasks; None: it is not."""
        _, element = self._workflow.stage_of(element_id)
        failed = [t.id for t in element.tasks if history(self._run, t.id)]
        decisions = [decision_on(self._run, stage, task) for task in failed]
        waits = [decision.wait_s for decision in decisions if decision.again]
        return max(waits) if waits else None

    def _skip(self, stage: Stage) -> bool:
        for element in stage.elements:
            self._states[element.id] = TaskState.CANCELLED
        self._save()
        return False

    def _start(self, element: Element, gpus: tuple[str, ...]) -> processes.Child:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        python = self._workflow.node_python
        argv = [python, "-I", "-m", "ca_hpc.worker", str(self._run.path), element.id]
        named = [s for s in self._run.submissions() if element.id in s.elements]
        argv += [str(s.number) for s in named[-1:]]
        log = self._run.file("local", f"{element.id}.log")
        return processes.start(argv, env=environment, log=log)

    def _set(self, element: str, state: TaskState) -> None:
        self._states[element] = state
        self._save()

    def _save(self) -> None:
        me = os.getpid()
        self._run.write(STATE, LocalState(me, _start_ticks(me) or 0, dict(self._states)))

    def _cancel(self, number: int, frame: object) -> None:
        self._cancelled = True


def main() -> None:
    """``python -m ca_hpc.executors.local RUN``."""
    try:
        sys.exit(int(Scheduler(RunFolder.open(Path(sys.argv[1]))).run()))
    except CaHpcError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    main()
