"""This machine: our own sequencing of the same workflow, with slots of cores and GPUs.

``python -m ca_hpc.executors.local RUN [SUBMISSION ...]`` is the whole scheduler: a process of its
own session that survives logout, starts one worker per element, and writes ``local/state.json``.
submitit's local executor has neither a queue nor dependencies nor a cap, hence this one.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.attempts.history import decision_on, history
from ca_hpc.core.environment import job_environment, visible_gpus
from ca_hpc.core.model import Element, Stage, TaskState
from ca_hpc.core.record import Submission
from ca_hpc.core.states import Row
from ca_hpc.errors import CaHpcError, ExitCode
from ca_hpc.store.run_folder import RunFolder

STATE = "local/state.json"
# What the profile need not name: where programs are, where temporary files go, which GPUs are ours.
OWN: Final = ("PATH", "TMPDIR", "CUDA_VISIBLE_DEVICES")
POLL_S = 0.2
ENDING_S = 30.0  # how long a cancellation waits for what runs to save and end
LEAVING_S = 10.0  # how long a scheduler may take to notice that its last worker has ended
# What becomes of elements whose scheduler is dead: nobody runs them.
LOST: Final[Mapping[TaskState, TaskState]] = {
    TaskState.RUNNING: TaskState.NODE_FAIL,
    TaskState.PENDING: TaskState.FAILED,  # it was to be tried again
    TaskState.WAITING: TaskState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class LocalState:
    """The scheduler process (pid and start time in clock ticks since boot) and its elements."""

    pid: int
    start_ticks: int
    elements: Mapping[str, TaskState] = field(default_factory=dict)


def launch(run: RunFolder, submissions: Sequence[Submission] = ()) -> int:
    """Start the scheduler of a run and return its process id.

    It does what these submissions name, and leaves all else as it is; without any, everything.
    The scheduler before must have ended.
    """
    run.file("local").mkdir(exist_ok=True)
    numbers = (str(submission.number) for submission in submissions)
    module = ("-m", "ca_hpc.executors.local")
    argv = (sys.executable, "-I", "-X", "utf8", *module, str(run.path), *numbers)
    states = _at_start(run, submissions)
    child = processes.start(
        argv,
        env=job_environment(os.environ, names=(*OWN, *run.workflow.environment)),
        log=run.file("local", "scheduler.log"),
        own_session=True,
    )
    # whoever asks before it has said so itself
    if not run.file(STATE).exists() or run.local_state(LocalState).pid != child.pid:
        run.write(STATE, LocalState(child.pid, _start_ticks(child.pid) or 0, states))
    return child.pid


def _at_start(run: RunFolder, submissions: Sequence[Submission]) -> dict[str, TaskState]:
    """Every element's state when a scheduler starts: what it is not for stays what it was."""
    elements = [e for s in run.workflow.stages for e in s.elements]
    named = {name for submission in submissions for name in submission.elements}
    before = query(run, [element.id for element in elements])
    states = {}
    for element in elements:
        if not submissions or element.id in named:
            states[element.id] = TaskState.WAITING
        elif _completed(run, element):  # perhaps while its scheduler died
            states[element.id] = TaskState.COMPLETED
        else:
            row = before.get(element.id)
            states[element.id] = TaskState.CANCELLED if row is None else row.state
    return states


def _completed(run: RunFolder, element: Element) -> bool:
    return all(_done(run, task.id) for task in element.tasks)


def _done(run: RunFolder, task: str) -> bool:
    result = run.result(task)
    return result is not None and result.state is TaskState.COMPLETED


def query(run: RunFolder, elements: Collection[str]) -> dict[str, Row]:
    """State of these elements; of a scheduler that died, what that means for them (``LOST``)."""
    if not run.file(STATE).is_file():
        return {}
    state = run.local_state(LocalState)
    alive = _start_ticks(state.pid) == state.start_ticks
    return {
        element: Row(known if alive else LOST.get(known, known))
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
    """Ask the scheduler to end, and wait a while until it has.

    It stops its workers, which let their tasks save.
    """
    state = run.local_state(LocalState)
    if _start_ticks(state.pid) != state.start_ticks:
        return
    os.kill(state.pid, signal.SIGTERM)
    left(run, within_s=ENDING_S)


def left(run: RunFolder, *, within_s: float = LEAVING_S) -> bool:
    """Whether the run's scheduler process has ended, waiting for that a while."""
    until = time.monotonic() + within_s
    while alive(run) and time.monotonic() < until:
        time.sleep(POLL_S)
    return not alive(run)


def _start_ticks(pid: int) -> int | None:
    """When the process started (proc(5), stat field 22): tells it from one that reuses its id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


class Scheduler:
    """Runs elements of a run, stage after stage, as many at once as the machine holds.

    Those that the submissions name; without any, all.
    """

    def __init__(self, run: RunFolder, submissions: Sequence[Submission] = ()) -> None:
        self._run = run
        self._submissions = submissions
        self._workflow = run.workflow
        node = run.cluster.node
        self._cpus = node.cpus or os.cpu_count() or 1
        self._gpus = visible_gpus(os.environ, count=node.gpus)
        self._states = _at_start(run, submissions)
        named = {name for submission in submissions for name in submission.elements}
        self._mine = named if submissions else set(self._states)
        self._cancelled = False

    def run(self) -> ExitCode:
        """Run to the end; 0, 1 when an element failed, 130 when cancelled."""
        signal.signal(signal.SIGTERM, self._cancel)
        signal.signal(signal.SIGINT, self._cancel)
        self._save()
        stages = {stage.name: stage for stage in self._workflow.stages}
        for stage in stages.values():
            awaited = () if stage.after is None else stages[stage.after].elements
            if stage.condition == "afterany" or self._succeeded(awaited):
                self._run_stage(stage)
            else:
                self._skip(stage)
        if self._cancelled:
            return ExitCode.INTERRUPTED
        mine = [element for stage in stages.values() for element in self._of(stage)]
        return ExitCode.OK if self._succeeded(mine) else ExitCode.TASK_FAILED

    def _of(self, stage: Stage) -> list[Element]:
        return [element for element in stage.elements if element.id in self._mine]

    def _succeeded(self, elements: Sequence[Element]) -> bool:
        return all(self._states[element.id] is TaskState.COMPLETED for element in elements)

    def _run_stage(self, stage: Stage) -> None:
        waiting = self._of(stage)
        later: dict[str, float] = {}  # elements that are tried again, and when
        told: set[str] = set()
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
                for name in running.keys() - told:  # once: it passes on each signal to its tasks
                    running[name][0].send_signal(signal.SIGTERM)
                    told.add(name)
        for name in [*later, *(element.id for element in waiting)]:
            self._set(name, TaskState.CANCELLED)

    def _again(self, stage: Stage, element_id: str) -> int | None:
        """Seconds until the element is run again, by the rules for its tasks; None: it is not."""
        _, element = self._workflow.stage_of(element_id)
        order = self._order(element_id)
        tasks = [t.id for t in element.tasks if order is None or order.names(element_id, t.id)]
        failed = [t for t in tasks if not _done(self._run, t) and history(self._run, t)]
        decisions = [decision_on(self._run, stage, task) for task in failed]
        waits = [decision.wait_s for decision in decisions if decision.again]
        return max(waits) if waits else None

    def _order(self, element_id: str) -> Submission | None:
        """The submission by which the element is run; None for a run's first."""
        named = [s for s in self._submissions if element_id in s.elements]
        return named[-1] if named else None

    def _skip(self, stage: Stage) -> None:
        for element in self._of(stage):
            self._states[element.id] = TaskState.CANCELLED
        self._save()

    def _start(self, element: Element, gpus: tuple[str, ...]) -> processes.Child:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        python = self._workflow.node_python
        module = ("-m", "ca_hpc.worker")
        argv = [python, "-I", "-X", "utf8", *module, str(self._run.path), element.id]
        order = self._order(element.id)
        argv += [] if order is None else [str(order.number)]
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
    """``python -m ca_hpc.executors.local RUN [SUBMISSION ...]``."""
    try:
        run = RunFolder.open(Path(sys.argv[1]))
        submissions = [run.submission(int(number)) for number in sys.argv[2:]]
        sys.exit(int(Scheduler(run, submissions).run()))
    except CaHpcError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    main()
