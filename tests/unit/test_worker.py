"""The worker: real processes in a real run folder. The tasks' Python is a script of the test.

The script drops ``-I -u -X faulthandler -m MODULE`` and runs the task's first argument as a line
of shell; what the worker adds behind it (``--attempt FOLDER …``) are that line's ``$1 $2 …``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ca_hpc.attempts.history import gpu_hours
from ca_hpc.core.model import (
    INTERRUPTED_STATUS,
    Element,
    Pin,
    Resources,
    Runtime,
    Stage,
    Task,
    TaskState,
    Workflow,
)
from ca_hpc.core.record import Attempt, Result
from ca_hpc.errors import TaskFailed
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.execution import Execution, lost
from ca_hpc.worker.node import Node
from ca_hpc.worker.running import Stop

SCRIPT = """#!/bin/sh
shift 6
line=$1
shift
eval "$line"
"""
WAIT_S = 20.0
# A step that saves when asked to and says that there is more to do.
SAVES = 'trap \'touch "$2/saved"; exit 85\' TERM; touch "$2/ready"; while :; do sleep 0.02; done'


@dataclass(frozen=True)
class Place:
    """A run folder whose only stage has one element with these tasks, and the node it runs on."""

    run: RunFolder
    node: Node

    def execution(self) -> Execution:
        return Execution(self.run, self.node)

    def result(self, task: str) -> Result:
        found = self.run.result(task)
        assert found is not None
        return found

    def newest(self, task: str, name: str) -> Path:
        """A file of the task's newest attempt, once it is there."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            attempts = self.run.attempts(task)
            if attempts and (attempts[-1] / name).exists():
                return attempts[-1] / name
            time.sleep(0.02)
        raise AssertionError(f"{task} did not write {name}")

    def output(self, task: str) -> str:
        return (self.run.attempts(task)[-1] / "log.txt").read_text()


Elements = Callable[..., Place]


def ran(execution: Execution) -> dict[str, str]:
    """States by task. Raises TaskFailed where one did not complete."""
    outcomes = execution.run("only.0")
    if missing := lost(execution.wanted("only.0"), outcomes):
        raise TaskFailed(missing)
    return {outcome.task: outcome.result.state.value for outcome in outcomes}


@pytest.fixture
def element(tmp_path: Path) -> Elements:
    """``element(a="exit 0", b="exit 1", slots=2)``: tasks by name, as lines of shell."""
    python = tmp_path / "python"
    python.write_text(SCRIPT)
    python.chmod(0o755)

    def make(
        *,
        slots: int = 1,
        gpus: int = 0,
        environment: dict[str, str] | None = None,
        runtime: Runtime | None = None,
        node_local: str | None = None,
        max_gpu_hours: float | None = None,
        **lines: str,
    ) -> Place:
        run = RunFolder.create(tmp_path / "runs", "neck")
        tasks = tuple(Task(name, "module", (line,)) for name, line in lines.items())
        stage = Stage(
            "only",
            (Element("only.0", tasks, slots=slots),),
            Resources(60, cpus=4, memory_mib=1024, gpus=gpus),
            {},
            at_once=1,
        )
        run.write(
            "workflow.json",
            Workflow(
                run_folder=str(run.path),
                executor="local",
                node_python=sys.executable,
                node_local=node_local,
                setup=(),
                runtime=runtime or Runtime("none", str(python)),
                mounts=(),
                threads=None,
                stages=(stage,),
                max_gpu_hours=max_gpu_hours,
            ),
        )
        given = {"PATH": os.environ["PATH"]} | (environment or {})
        return Place(run, Node(given, "host1", lambda: datetime.now(timezone.utc)))

    return make


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    """Run something in a thread; the test fails if it is still there at the end."""
    threads = []

    def start(work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        threads.append(thread)
        return thread

    yield start
    for thread in threads:
        thread.join(timeout=WAIT_S)
        assert not thread.is_alive()


# --- how a task ends -----------------------------------------------------------------------------


def test_a_task_that_succeeds_leaves_its_log_attempt_and_result(element: Elements) -> None:
    place = element(a='echo "hello from $2"')
    clock = iter(
        datetime(2025, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=90 * i) for i in (0, 0, 1)
    )
    execution = Execution(place.run, replace(place.node, now=lambda: next(clock)))
    assert ran(execution) == {"a": "COMPLETED"}
    (attempt,) = place.run.attempts("a")
    assert (attempt / "log.txt").read_text() == f"hello from {attempt}\n"
    assert place.result("a") == Result(
        task="a",
        attempt="0001-local-r0",
        state=TaskState.COMPLETED,
        exit_code=0,
        started="2025-01-01T00:00:00+00:00",
        ended="2025-01-01T00:01:30+00:00",
        seconds=90.0,
        host="host1",
    )
    assert json.loads((attempt / "result.json").read_text())["state"] == "COMPLETED"
    record = place.run.attempt_record(attempt)
    assert record.argv[1:7] == ("-I", "-u", "-X", "faulthandler", "-m", "module")
    assert (record.number, record.job, record.host) == (1, "local", "host1")


def test_what_a_step_says_about_its_failure_is_the_cause(element: Elements) -> None:
    told = '{"message": "the label is empty", "hint": "repair it", "ours": true}'
    place = element(a=f"echo '{told}' > \"$2/error.json\"; exit 2")
    with pytest.raises(TaskFailed, match=r"1 of 1 tasks did not complete: a"):
        ran(place.execution())
    result = place.result("a")
    assert (result.state, result.exit_code) == (TaskState.FAILED, 2)
    assert (result.cause, result.hint) == ("the label is empty", "repair it")


@pytest.mark.parametrize(
    ("line", "status", "cause"),
    [
        ("echo first; echo last words; echo; exit 3", 3, "it ended with status 3 and no error"),
        ("exit 3", 3, "it ended with status 3 and no error"),
        ("kill -9 $$", -9, "it was killed without a word (SIGKILL)"),
        ("kill -SEGV $$", -11, "it crashed (SIGSEGV, segmentation fault)"),
        (
            "exit 137",
            137,
            "it was killed without a word (SIGKILL)",
        ),  # as a container's runtime passes it on
        ('echo "{" > "$2/error.json"; exit 1', 1, "it ended with status 1 and no error"),
        ("exit 255", 255, "it ended with status 255 and no error"),
    ],
)
def test_a_step_that_says_nothing_is_judged_by_its_status_and_last_line(
    element: Elements, line: str, status: int, cause: str
) -> None:
    place = element(a=line)
    with pytest.raises(TaskFailed):
        ran(place.execution())
    result = place.result("a")
    assert (result.state, result.exit_code) == (TaskState.FAILED, status)
    assert str(result.cause).startswith(cause)


def test_an_interrupted_task_is_preempted_and_goes_on_as_a_further_attempt(
    element: Elements,
) -> None:
    place = element(a=f'[ -e "$2/../0001-7-r0/seen" ] || {{ touch "$2/seen"; exit '
                      f'{INTERRUPTED_STATUS}; }}', environment={"SLURM_JOB_ID": "7"})  # fmt: skip
    with pytest.raises(TaskFailed):
        ran(place.execution())
    assert place.result("a").state is TaskState.PREEMPTED
    requeued = replace(
        place.node, environment={**place.node.environment, "SLURM_RESTART_COUNT": "1"}
    )
    assert ran(Execution(place.run, requeued)) == {"a": "COMPLETED"}
    assert [path.name for path in place.run.attempts("a")] == ["0001-7-r0", "0002-7-r1"]
    assert place.result("a").attempt == "0002-7-r1"


def test_a_completed_task_is_not_run_again(element: Elements) -> None:
    place = element(a="exit 0", b='[ -e "$2/../0001-local-r0/x" ] || { touch "$2/x"; exit 1; }')
    with pytest.raises(TaskFailed):
        ran(place.execution())
    assert ran(place.execution()) == {"a": "COMPLETED", "b": "COMPLETED"}
    assert [len(place.run.attempts(task)) for task in ("a", "b")] == [1, 2]


def test_a_python_that_does_not_exist_is_the_cause(element: Elements) -> None:
    place = element(a="exit 0", runtime=Runtime("none", "/nonexistent/python"))
    with pytest.raises(TaskFailed):
        ran(place.execution())
    assert str(place.result("a").cause).startswith("/nonexistent/python: No such file")


def test_a_work_folder_that_cannot_be_made_fails_the_task_and_not_silently(
    element: Elements,
) -> None:
    place = element(a="exit 0", node_local="/proc")
    with pytest.raises(TaskFailed, match="1 of 1 tasks"):
        ran(place.execution())
    assert str(place.result("a").cause).startswith("a file or folder is missing (/proc/ca-hpc-")


def test_an_image_that_is_not_the_recorded_one_is_not_started(
    element: Elements, tmp_path: Path
) -> None:
    image = tmp_path / "neck.sif"
    image.write_bytes(b"another image")
    started = tmp_path / "started"
    apptainer = tmp_path / "apptainer"
    apptainer.write_text(f"#!/bin/sh\ntouch {started}\n")
    apptainer.chmod(0o755)
    pin = Pin(str(image), "0" * 64)
    place = element(a="exit 0", runtime=Runtime("apptainer", "python3", pin, str(apptainer)))
    with pytest.raises(TaskFailed):
        ran(place.execution())
    assert place.result("a").exit_code == 3
    assert "0" * 64 in str(place.result("a").cause)
    assert not started.exists()


# --- slots ---------------------------------------------------------------------------------------


def meets(own: str, other: str, *, where: Path) -> str:
    """A line that ends only when the task ``other`` has started too."""
    wait = f"while [ ! -e {where}/{other} ]; do sleep 0.02; n=$((n+1)); [ $n -lt 900 ]"
    return f"touch {where}/{own}; n=0; {wait} || exit 1; done"


def test_tasks_in_slots_run_at_the_same_time(element: Elements, tmp_path: Path) -> None:
    place = element(slots=2, a=meets("a", "b", where=tmp_path), b=meets("b", "a", where=tmp_path))
    assert ran(place.execution()) == {"a": "COMPLETED", "b": "COMPLETED"}


def test_more_tasks_than_slots_take_turns_and_a_failure_does_not_stop_the_others(
    element: Elements,
) -> None:
    place = element(slots=2, a="exit 1", b="exit 0", c="exit 0", d="exit 0")
    with pytest.raises(TaskFailed, match="1 of 4 tasks"):
        ran(place.execution())
    assert [place.result(task).exit_code for task in "abcd"] == [1, 0, 0, 0]


def test_with_one_slot_tasks_run_in_order_and_stop_at_the_first_failure(
    element: Elements, tmp_path: Path
) -> None:
    write = f"echo {{}} >> {tmp_path}/order"
    lines = {name: write.format(name) for name in "abcd"}
    place = element(**lines | {"c": lines["c"] + "; exit 1"})
    with pytest.raises(TaskFailed, match=r"2 of 4 tasks did not complete: c, d"):
        ran(place.execution())
    assert (tmp_path / "order").read_text().split() == ["a", "b", "c"]
    assert place.run.result("d") is None


def test_the_gpus_of_an_element_are_shared_out_over_its_slots(
    element: Elements, tmp_path: Path
) -> None:
    show = 'echo "$CUDA_VISIBLE_DEVICES"; '
    place = element(
        slots=2,
        gpus=4,
        environment={"CUDA_VISIBLE_DEVICES": "4,5,6,7"},
        a=show + meets("a", "b", where=tmp_path),
        b=show + meets("b", "a", where=tmp_path),
    )
    ran(place.execution())
    assert {place.output("a").strip(), place.output("b").strip()} == {"4,6", "5,7"}


def test_a_stage_without_gpus_sees_none_of_the_nodes(element: Elements) -> None:
    place = element(a='echo "[$CUDA_VISIBLE_DEVICES]"', environment={"CUDA_VISIBLE_DEVICES": "0"})
    ran(place.execution())
    assert place.output("a") == "[]\n"


def test_cpus_of_the_element_are_divided_by_its_slots(element: Elements) -> None:
    place = element(slots=2, a='echo "$@"; echo $OMP_NUM_THREADS', b="exit 0")
    ran(place.execution())
    assert "--cpus 2 --threads 2" in place.output("a")
    assert place.output("a").splitlines()[-1] == "2"


# --- what a task finds on the node ---------------------------------------------------------------


def test_a_task_works_in_the_sites_node_local_folder_which_is_empty_afterwards(
    element: Elements, tmp_path: Path
) -> None:
    local = tmp_path / "job 7"
    local.mkdir()
    place = element(
        a='echo "$TMPDIR"; touch "$TMPDIR/left behind"',
        node_local="$SLURM_TMPDIR",
        environment={"SLURM_TMPDIR": str(local)},
    )
    ran(place.execution())
    assert Path(place.output("a").strip()).parent == local
    assert list(local.iterdir()) == []


@pytest.mark.parametrize("node_local", ["$NOT_SET", "/nonexistent/$USER"])
def test_a_node_local_folder_that_is_not_there_is_done_without(
    element: Elements, node_local: str
) -> None:
    place = element(a="exit 0", node_local=node_local, environment={"USER": "me"})
    assert ran(place.execution()) == {"a": "COMPLETED"}


def test_nothing_of_the_callers_python_reaches_a_task(element: Elements) -> None:
    hostile = {"PYTHONPATH": "/evil", "LD_PRELOAD": "", "nnUNet_results": "/evil", "SECRET": "x"}
    place = element(a="env", environment=hostile)
    ran(place.execution())
    names = {line.partition("=")[0] for line in place.output("a").splitlines()}
    assert not names & hostile.keys()


@pytest.mark.parametrize(
    ("environment", "job", "restart"),
    [
        ({}, "local", 0),
        ({"SLURM_JOB_ID": "101"}, "101", 0),
        (
            {
                "SLURM_JOB_ID": "105",
                "SLURM_ARRAY_JOB_ID": "101",
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_RESTART_COUNT": "2",
            },
            "101_3",
            2,
        ),
    ],
)
def test_an_attempt_is_named_after_its_job(
    environment: dict[str, str], job: str, restart: int
) -> None:
    node = Node(environment, "host1", lambda: datetime.now(timezone.utc))
    assert (node.job, node.restart) == (job, restart)


# --- being stopped -------------------------------------------------------------------------------


def failing(execution: Execution) -> Callable[[], None]:
    def call() -> None:
        with pytest.raises(TaskFailed):
            ran(execution)

    return call


def test_a_stop_reaches_the_running_steps_and_waits_until_they_have_saved(
    element: Elements, background: Callable[[Callable[[], object]], threading.Thread]
) -> None:
    place = element(slots=2, a=SAVES, b=SAVES, c="exit 0")
    execution = place.execution()
    running = background(failing(execution))
    for task in ("a", "b"):
        place.newest(task, "ready")
    execution.stop(Stop.WARNED)
    running.join(timeout=WAIT_S)
    for task in ("a", "b"):
        assert (place.run.attempts(task)[-1] / "saved").exists()
        assert place.result(task).state is TaskState.PREEMPTED
    assert place.run.attempts("c") == []  # nothing new is started


def test_a_step_that_dies_of_the_stop_before_it_can_listen_has_not_failed(
    element: Elements, background: Callable[[Callable[[], object]], threading.Thread]
) -> None:
    place = element(a='touch "$2/ready"; exec sleep 60')
    execution = place.execution()
    running = background(failing(execution))
    place.newest("a", "ready")
    execution.stop(Stop.WARNED)
    running.join(timeout=WAIT_S)
    assert place.result("a").state is TaskState.PREEMPTED


def test_a_stop_while_the_image_is_still_read_reaches_the_step_that_starts_after_it(
    element: Elements,
    tmp_path: Path,
    background: Callable[[Callable[[], object]], threading.Thread],
) -> None:
    image = tmp_path / "neck.sif"
    os.mkfifo(image)  # reading it takes until the test has written it
    apptainer = tmp_path / "apptainer"
    apptainer.write_text("#!/bin/sh\nexec sleep 60\n")
    apptainer.chmod(0o755)
    pin = Pin(str(image), hashlib.sha256(b"image").hexdigest())
    place = element(a="", runtime=Runtime("apptainer", "python3", pin, str(apptainer)))
    execution = place.execution()
    running = background(failing(execution))
    place.newest("a", ".")
    execution.stop(Stop.WARNED)
    time.sleep(0.1)
    image.write_bytes(b"image")
    running.join(timeout=WAIT_S)
    assert place.result("a").state is TaskState.PREEMPTED


def test_after_a_stop_no_task_is_started_and_the_element_has_not_completed(
    element: Elements,
) -> None:
    place = element(a="exit 0")
    execution = place.execution()
    execution.stop(Stop.WARNED)
    with pytest.raises(TaskFailed, match="1 of 1 tasks"):
        ran(execution)
    assert place.run.attempts("a") == []


def test_a_worker_process_passes_its_signal_on_and_ends_when_the_step_has_saved(
    element: Elements,
) -> None:
    place = element(a=SAVES)
    argv = (sys.executable, "-I", "-m", "ca_hpc.worker", str(place.run.path), "only.0")
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as worker:
        ready = place.newest("a", "ready")
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGTERM)  # schedulers do repeat themselves
        _, told = worker.communicate(timeout=WAIT_S)
    assert worker.returncode == 1
    assert b"1 of 1 tasks did not complete: a" in told
    assert (ready.parent / "saved").exists()
    assert place.result("a").state is TaskState.PREEMPTED


# --- what the run may use, and copies of a task --------------------------------------------------


def spend(place: Place, task: str, *, hours: float, gpus: float) -> None:
    """An attempt of a task that took its time and was interrupted."""
    number, attempt = place.run.new_attempt(task, job="1", restart=0)
    place.run.write_attempt(
        attempt,
        Attempt(number, "1", 0, "n", 7, "2025-01-01T00:00:00+00:00", (), gpus=gpus),
    )
    state, spent = TaskState.PREEMPTED, hours * 3600
    told = Result(task, attempt.name, state, 85, "", "", spent, "n", "", None, "preempted")
    place.run.write_result(attempt, told)


def test_a_task_does_not_begin_when_the_run_has_used_its_gpu_hours(element: Elements) -> None:
    place = element(a="exit 0", gpus=2, max_gpu_hours=10)
    spend(place, "a", hours=5, gpus=2)
    with pytest.raises(TaskFailed):
        ran(place.execution())
    result = place.result("a")
    assert (result.failure, result.state) == ("budget", TaskState.FAILED)
    assert "10.0 of 10" in str(result.cause)


def test_the_hours_of_a_killed_attempt_count_to_its_last_sign(element: Elements) -> None:
    place = element(a="exit 0", gpus=1, max_gpu_hours=1)
    number, attempt = place.run.new_attempt("a", job="1", restart=0)
    began = datetime.now(timezone.utc) - timedelta(hours=2)
    place.run.write_attempt(attempt, Attempt(number, "1", 0, "n", 7, began.isoformat(), (), gpus=1))
    (attempt / "log.txt").touch()
    two_thirds = (began + timedelta(minutes=40)).timestamp()
    for file in attempt.iterdir():
        os.utime(file, (two_thirds, two_thirds))
    assert ran(place.execution()) == {"a": "COMPLETED"}
    now = datetime.now(timezone.utc)
    assert gpu_hours(place.run, now=now) == pytest.approx(2 / 3, abs=0.01)


def test_a_copy_on_a_node_that_was_given_up_notices_and_ends(
    element: Elements,
    background: Callable[[Callable[[], object]], threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ca_hpc.worker.execution.LOOK_EVERY_S", 0.1)
    place = element(a=SAVES)
    execution = place.execution()
    running = background(failing(execution))
    place.newest("a", "ready")
    place.run.new_attempt("a", job="1", restart=1)
    running.join(timeout=WAIT_S)
    assert place.result("a").failure == "node"


def test_an_old_copy_that_ends_late_takes_nothing_back(element: Elements) -> None:
    place = element(a="exit 0")
    spend(place, "a", hours=1, gpus=0)
    old = place.run.attempts("a")[0]
    assert ran(place.execution()) == {"a": "COMPLETED"}
    late = replace(place.result("a"), attempt=old.name, state=TaskState.FAILED, failure="crash")
    place.run.write_result(old, late)
    assert place.result("a").state is TaskState.COMPLETED


def test_what_failed_for_good_is_not_run_again_when_the_job_is_queued_again(
    element: Elements,
) -> None:
    told = '{"message": "no", "kind": "ValueError"}'
    place = element(slots=2, a=f"echo '{told}' > \"$2/error.json\"; exit 1", b="exit 0")
    with pytest.raises(TaskFailed):
        ran(place.execution())
    assert place.result("a").failure == "code"
    with pytest.raises(TaskFailed):
        ran(place.execution())
    assert len(place.run.attempts("a")) == 1


def test_attempts_that_die_without_a_word_are_not_begun_for_ever(element: Elements) -> None:
    place = element(a="exit 0")
    for restart in range(3):
        number, attempt = place.run.new_attempt("a", job="1", restart=restart)
        record = Attempt(number, str(restart), 0, "n", 7, "2025-01-01T00:00:00+00:00", ())
        place.run.write_attempt(attempt, record)
    with pytest.raises(TaskFailed):
        ran(place.execution())
    result = place.result("a")
    assert result.failure == "unknown"
    assert "in vain" in str(result.cause)
    assert result.seconds == 0
