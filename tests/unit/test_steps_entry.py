"""The frame around a step: arguments in; an exit status, a log and ``error.json`` out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.report.gather import read_events
from ca_hpc.steps.entry import StepCall, main

Step = Callable[[StepCall], int | None]


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks" / "t" / "attempts" / "0001-local-r0"
    folder.mkdir(parents=True)
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


def test_a_problem_of_the_user_is_left_with_its_hint_and_code(
    tmp_path: Path, attempt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(call: StepCall) -> None:
        raise DigestMismatch("the weights have changed", hint="fetch them again")

    assert status(step, tmp_path, attempt) == 3
    told = json.loads((attempt / "error.json").read_text())
    assert told == {"message": "the weights have changed", "hint": "fetch them again"}
    assert capsys.readouterr().err == "error: the weights have changed\nhint: fetch them again\n"


def test_a_bug_leaves_its_sentence_for_status_and_its_trace_in_the_log(
    tmp_path: Path, attempt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(call: StepCall) -> None:
        raise KeyError("axes")

    assert status(step, tmp_path, attempt) == 1
    told = json.loads((attempt / "error.json").read_text())
    assert told == {"message": "KeyError: 'axes'", "hint": "see the task's log"}
    assert "Traceback" in capsys.readouterr().err


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
