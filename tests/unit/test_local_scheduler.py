"""The scheduler of this machine, with real workers. The tasks' Python is a script of the test.

The script drops ``-I -u -X faulthandler -m MODULE`` and runs the task's first argument as a line
of shell; of what the worker adds behind it, ``$2`` is the folder of the attempt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ca_hpc.actions.retry import Retried, retry
from ca_hpc.actions.status import TaskStatus, cancel, status
from ca_hpc.core.model import Element, Resources, Runtime, Stage, Task, TaskState, Workflow
from ca_hpc.core.profile import Cluster, Node
from ca_hpc.core.record import Pins
from ca_hpc.core.rules import DEFAULTS, Failure, Rule
from ca_hpc.errors import CaHpcError
from ca_hpc.executors import local
from ca_hpc.executors.placing import silent
from ca_hpc.store.run_folder import RunFolder
from tests.command_line import called
from tests.local_runs import until

SCRIPT = """#!/bin/sh
shift 6
line=$1
shift
eval "$line"
"""
# Takes a second to save, and counts how often it was asked to. ``done`` beside the run: no wait.
TRAINS = """
test -e {done} && exit 0
trap 'echo asked >> "$2/asked"' TERM
touch "$2/ready"
while ! test -e "$2/asked"; do test -e {done} && exit 0; sleep 0.05; done
sleep 1
exit 85
"""
FOLDS = ("fold0", "fold1")
Make = Callable[..., RunFolder]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """``make(fold0="exit 0", fold1="exit 1")``: a run that prepares, trains, evaluates."""
    python = tmp_path / "python"
    python.write_text(SCRIPT)
    python.chmod(0o755)
    runs = []

    def run(*, slots: int = 1, crash: Rule = DEFAULTS[Failure.CRASH], **folds: str) -> RunFolder:
        run = RunFolder.create(tmp_path / "runs", "neck")
        runs.append(run)
        tasks = [Task(name, "m", (line,)) for name, line in folds.items()]
        packs = [tasks] if slots > 1 else [[task] for task in tasks]
        trainings = [Element(f"train.{i}", tuple(p), slots) for i, p in enumerate(packs)]
        ok, least = "exit 0", Resources(60, cpus=1, memory_mib=64)
        stages = (
            Stage("prepare", (Element("prepare.0", (Task("prepare", "m", (ok,)),)),), least, {}, 1),
            Stage("train", tuple(trainings), least, {}, at_once=9, after="prepare"),
            Stage(
                "evaluate",
                (Element("evaluate.0", (Task("evaluate", "m", (ok,)),)),),
                least,
                {},
                at_once=1,
                after="train",
                condition="afterany",
            ),
        )
        flow = Workflow(
            run_folder=str(run.path),
            executor="local",
            node_python=sys.executable,
            node_local=None,
            setup=(),
            runtime=Runtime("none", str(python)),
            mounts=(),
            threads=None,
            stages=stages,
            retry={**DEFAULTS, Failure.CRASH: crash},
        )
        run.write("workflow.json", flow)
        profile = Cluster(name="here", executor="local", node=Node(cpus=max(2, slots)))
        run.write_spec("cluster.json", profile)
        run.write("pins.json", Pins("1", "0badcafe", "2025-01-01T00:00:00+00:00", weights=None))
        return run

    yield run
    for one in runs:
        if local.alive(one):
            local.cancel(one)


def tasks(run: RunFolder) -> dict[str, TaskStatus]:
    return {task.task: task for task in status(run, now=datetime.now(timezone.utc)).tasks}


def states(run: RunFolder) -> dict[str, str]:
    return {name: task.state.value for name, task in tasks(run).items()}


def attempts(run: RunFolder) -> dict[str, int]:
    return {task.id: len(run.attempts(task.id)) for task in run.workflow.tasks}


def begun(run: RunFolder, *names: str) -> Callable[[], bool]:
    return lambda: all(any((a / "ready").exists() for a in run.attempts(name)) for name in names)


def again(run: RunFolder, *only: str) -> Retried:
    return retry(run, only=only, say=silent)


def to_the_end(run: RunFolder) -> None:
    until(lambda: not local.alive(run), seconds=60, what="the scheduler did not end")


@pytest.fixture
def cancelled(make: Make, tmp_path: Path) -> RunFolder:
    """A run that was cancelled while both folds were trained."""
    line = TRAINS.format(done=tmp_path / "done")
    run = make(**dict.fromkeys(FOLDS, line))
    local.launch(run)
    until(begun(run, *FOLDS), seconds=60, what="the training did not begin")
    assert cancel(run)
    return run


def test_who_is_cancelled_is_asked_once_and_waited_for(cancelled: RunFolder) -> None:
    assert not local.alive(cancelled)
    for fold in FOLDS:
        (attempt,) = cancelled.attempts(fold)
        assert (attempt / "asked").read_text() == "asked\n"
        one = tasks(cancelled)[fold]
        assert (one.state, one.failure) == (TaskState.CANCELLED, "preempted")
        assert one.cause == "stopped by a signal; its state is saved"
    assert states(cancelled)["evaluate"] == "CANCELLED"


def test_only_the_task_that_is_named_runs_again_and_what_depends_on_it(
    cancelled: RunFolder, tmp_path: Path
) -> None:
    done = again(cancelled, "fold1")
    assert (done.tasks, done.anew, done.failed) == (("fold1",), ("evaluate",), ("fold0",))
    until(lambda: attempts(cancelled)["fold1"] == 2, seconds=60, what="fold1 did not begin")
    found = states(cancelled)
    assert (found["fold0"], found["fold1"], found["evaluate"]) == (
        "CANCELLED", "RUNNING", "WAITING"
    )  # fmt: skip
    with pytest.raises(CaHpcError, match="is still running"):
        again(cancelled, "fold0")
    (tmp_path / "done").touch()
    to_the_end(cancelled)
    assert attempts(cancelled) == {"prepare": 1, "fold0": 1, "fold1": 2, "evaluate": 1}


def test_all_that_was_cancelled_runs_again_and_the_rest_stays(
    cancelled: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "done").touch()
    done = again(cancelled)
    assert (done.tasks, done.anew) == ((*FOLDS, "evaluate"), ())
    to_the_end(cancelled)
    assert set(states(cancelled).values()) == {"COMPLETED"}
    assert attempts(cancelled) == {"prepare": 1, "fold0": 2, "fold1": 2, "evaluate": 1}
    done = again(cancelled, "fold0")
    assert (done.tasks, done.left) == ((), {"fold0": TaskState.COMPLETED})


def test_of_packed_tasks_only_the_named_one_runs_again(make: Make) -> None:
    run = make(slots=3, fold0="exit 0", fold1="exit 3", fold2="exit 3", crash=Rule())
    local.launch(run)
    to_the_end(run)
    again(run, "fold2")
    to_the_end(run)
    assert attempts(run) == {"prepare": 1, "fold0": 1, "fold1": 1, "fold2": 2, "evaluate": 2}
    assert states(run)["fold1"] == "FAILED"


def test_a_run_whose_processes_are_all_killed_goes_on_by_a_retry(
    make: Make, tmp_path: Path
) -> None:
    line = TRAINS.format(done=tmp_path / "done")
    run = make(**dict.fromkeys(FOLDS, line))
    local.launch(run)
    until(begun(run, *FOLDS), seconds=60, what="the training did not begin")
    for pid in processes_of(run):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: status(run).ended, seconds=30, what="status waits for the dead")
    assert (states(run)["fold0"], states(run)["evaluate"]) == ("NODE_FAIL", "CANCELLED")
    (tmp_path / "done").touch()
    assert again(run).tasks == (*FOLDS, "evaluate")
    to_the_end(run)
    assert set(states(run).values()) == {"COMPLETED"}
    assert attempts(run)["prepare"] == 1


def processes_of(run: RunFolder) -> list[int]:
    """The scheduler first, which would start others."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(run.path).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    scheduler = run.local_state(local.LocalState).pid
    return sorted(found, key=lambda pid: pid != scheduler)


def test_while_a_task_waits_to_be_tried_again_its_last_failure_is_the_cause(make: Make) -> None:
    run = make(fold0="kill -SEGV $$", crash=Rule(tries=1, wait_s=600))
    local.launch(run)
    until(lambda: states(run)["fold0"] == "PENDING", seconds=60, what="it does not wait")
    one = tasks(run)["fold0"]
    assert one.cause == "again after crash: it crashed (SIGSEGV, segmentation fault)"
    assert one.seconds is None
    os.kill(run.local_state(local.LocalState).pid, signal.SIGKILL)
    until(lambda: status(run).ended, seconds=30, what="status waits for the dead")
    assert states(run)["fold0"] == "FAILED"


def test_a_running_task_tells_its_own_time_and_its_node(make: Make, tmp_path: Path) -> None:
    run = make(fold0=TRAINS.format(done=tmp_path / "done"))
    local.launch(run)
    until(begun(run, "fold0"), seconds=60, what="the training did not begin")
    record = run.attempt_record(run.attempts("fold0")[-1])
    assert record is not None
    now = datetime.fromisoformat(record.started) + timedelta(seconds=90)
    running = {task.task: task for task in status(run, now=now).tasks}
    assert running["fold0"].seconds == 90
    assert running["evaluate"].seconds is None
    assert running["fold0"].node == running["prepare"].node == socket.gethostname()


def test_the_command_says_what_runs_again_and_how_to_go_on(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(*arguments: str) -> str:
        return called(*arguments, monkeypatch=monkeypatch, capsys=capsys).out

    run = make(fold0="exit 0", fold1=TRAINS.format(done=tmp_path / "done"))
    path = str(run.path)
    local.launch(run)
    until(begun(run, "fold1"), seconds=60, what="the training did not begin")
    assert call("cancel", path) == f"cancelled; go on later: ca-hpc retry {path}\n"
    assert call("status", path).splitlines()[-1] == f"go on: ca-hpc retry {path}"
    told = "fold0 has completed: nothing to do again (failed: fold1, evaluate)\n"
    assert call("retry", path, "fold0") == told
    (tmp_path / "done").touch()
    said = call("retry", path, "fold1").splitlines()
    assert said[0] == "again: fold1; then anew: evaluate"
    to_the_end(run)
    assert "go on" not in call("status", path)
    assert call("retry", path) == "nothing to do again: no task of this run has failed\n"
