"""The frame around a step: arguments in; an exit status, a log and ``error.json`` out."""

from __future__ import annotations

import errno
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ca_hpc import __version__, processes
from ca_hpc.attempts.evidence import told
from ca_hpc.core.codec import decode
from ca_hpc.core.failures import UNSAID_STATUS, Evidence, Told, diagnose
from ca_hpc.core.record import Pins
from ca_hpc.core.rules import Failure
from ca_hpc.core.run_record import Software
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.store.progress import read_events
from ca_hpc.store.run_folder import RunFolder

Step = Callable[[StepCall], int | None]


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks" / "t" / "attempts" / "0001-local-r0"
    folder.mkdir(parents=True)
    RunFolder(tmp_path).write("pins.json", Pins(__version__, "token", "", weights=None))
    return folder


def status(step: Step, run: Path, attempt: Path, *more: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(step, ["--run", str(run), "--attempt", str(attempt), *more])
    return ended.value.code


def test_a_step_gets_its_arguments_by_name(tmp_path: Path, attempt: Path) -> None:
    seen: list[StepCall] = []
    names = ("--cpus", "4", "--threads", "2", "--device", "cuda", "--arm", "finetune")
    assert status(seen.append, tmp_path, attempt, *names, "--fold", "3") == 0
    (call,) = seen
    assert (call.run.path, call.attempt) == (tmp_path, attempt)
    assert (call.cpus, call.threads, call.device) == (4, 2, "cuda")
    assert (call.arm, call.fold) == ("finetune", 3)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (85, 85)])
def test_what_a_step_returns_is_its_exit_status(
    tmp_path: Path, attempt: Path, returned: int | None, code: int
) -> None:
    assert status(lambda call: returned, tmp_path, attempt) == code
    assert not (attempt / "error.json").exists()


def test_an_attempt_tells_what_it_computes_with(tmp_path: Path, attempt: Path) -> None:
    assert status(lambda call: None, tmp_path, attempt) == 0
    told = decode(Software, (attempt / "software.json").read_text())
    assert told.versions["ca-hpc"] == __version__
    assert told.versions["python"] == platform.python_version()
    assert told.versions["numpy"] == np.__version__


def test_a_run_of_another_version_is_refused_before_the_step(tmp_path: Path, attempt: Path) -> None:
    RunFolder(tmp_path).write("pins.json", Pins("0.0.9", "token", "", weights=None))
    seen: list[StepCall] = []
    assert status(seen.append, tmp_path, attempt) == 2
    assert not seen
    said = told(attempt)
    assert said is not None and "submitted with ca-hpc 0.0.9" in said.message
    assert diagnose(Evidence(exit_status=2, told=said)).failure is Failure.IMAGE


def test_an_export_of_an_older_run_is_none_of_its_tasks(tmp_path: Path, attempt: Path) -> None:
    RunFolder(tmp_path).write("pins.json", Pins("0.0.9", "token", "", weights=None))
    export = tmp_path / "exports" / ".making-1"
    export.mkdir(parents=True)
    assert status(lambda call: None, tmp_path, export) == 0


def test_a_problem_of_the_user_is_left_with_its_hint_and_code(
    tmp_path: Path, attempt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(call: StepCall) -> None:
        raise DigestMismatch("the weights have changed", hint="fetch them again")

    assert status(step, tmp_path, attempt) == 3
    said = json.loads((attempt / "error.json").read_text())
    assert said == {
        "message": "the weights have changed",
        "hint": "fetch them again",
        "kind": "DigestMismatch",
        "errno": None,
        "exit_code": 3,
        "ours": True,
    }
    assert capsys.readouterr().err == "error: the weights have changed\nhint: fetch them again\n"


def test_a_bug_leaves_its_sentence_for_status_and_its_trace_in_the_log(
    tmp_path: Path, attempt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(call: StepCall) -> None:
        raise KeyError("axes")

    assert status(step, tmp_path, attempt) == 1
    assert told(attempt) == Told("KeyError: 'axes'", kind="KeyError")
    assert "Traceback" in capsys.readouterr().err


def test_the_errno_behind_an_error_is_told(tmp_path: Path, attempt: Path) -> None:
    def step(call: StepCall) -> None:
        try:
            Path("/dev/full").write_text("x")
        except OSError as error:
            raise CaHpcError("the checkpoint was not written") from error

    assert status(step, tmp_path, attempt) == 2
    said = told(attempt)
    assert said is not None and (said.errno, said.ours) == (errno.ENOSPC, True)


def test_a_file_that_was_looked_for_in_vain_is_not_what_an_error_is_about() -> None:
    def raised() -> Exception:
        try:
            try:
                Path("/nowhere/at/all").read_text()
            except FileNotFoundError:
                raise ValueError("no shape") from None
        except ValueError as error:
            return error
        raise AssertionError

    assert Told.of(raised()).errno is None
    assert Told.of(FileNotFoundError(errno.ENOENT, "gone")).errno == errno.ENOENT


def test_where_error_json_cannot_be_written_the_log_has_it(tmp_path: Path, attempt: Path) -> None:
    """As on a full disk: of the folder nothing can be made anew, the log is open already."""
    run = f"""
import shutil
from ca_hpc.steps.entry import main
def step(call):
    shutil.rmtree(call.attempt)
    raise OSError(28, "No space left on device", "/data/x")
main(step, ["--run", {str(tmp_path)!r}, "--attempt", {str(attempt / "gone")!r}])
"""
    (attempt / "gone").mkdir()
    done = processes.run([sys.executable, "-c", run], log=attempt / "log.txt")
    assert done.returncode == 1
    assert told(attempt) == Told(
        "OSError: [Errno 28] No space left on device: '/data/x'", kind="OSError", errno=28
    )


def test_where_nothing_can_be_written_the_exit_status_says_so(
    tmp_path: Path, attempt: Path
) -> None:
    run = f"""
import shutil
from ca_hpc.steps.entry import main
def step(call):
    shutil.rmtree(call.attempt)
    raise ValueError("nobody hears it")
main(step, ["--run", {str(tmp_path)!r}, "--attempt", {str(attempt)!r}])
"""
    done = processes.run([sys.executable, "-u", "-c", run], log=Path("/dev/full"))
    assert done.returncode == UNSAID_STATUS


def test_an_error_without_a_hint_has_none(tmp_path: Path, attempt: Path) -> None:
    def step(call: StepCall) -> None:
        raise CaHpcError("no")

    status(step, tmp_path, attempt)
    assert json.loads((attempt / "error.json").read_text())["hint"] is None


def test_events_are_whole_lines_that_come_back(tmp_path: Path, attempt: Path) -> None:
    def step(call: StepCall) -> None:
        call.emit({"event": "epoch", "epoch": 0, "loss": np.float32(0.5)})
        call.emit({"event": "case", "done": 1})

    status(step, tmp_path, attempt)
    events = [{"event": "epoch", "epoch": 0, "loss": 0.5}, {"event": "case", "done": 1}]
    assert read_events(attempt) == events
    with (attempt / "progress.jsonl").open("a") as stream:
        stream.write('{"event": "ep')  # a line that is being written
    assert read_events(attempt) == events
    with (attempt / "progress.jsonl").open("a") as stream:
        stream.write('\n{"event": "last"}\n')  # one that a kill cut off, and the next attempt's
    assert read_events(attempt) == [*events, {"event": "last"}]


def test_an_attempt_without_events_has_none(attempt: Path) -> None:
    assert read_events(attempt) == []
