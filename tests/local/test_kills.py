"""Killed without warning, on this machine: what is left of a run ends by itself."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from ca_hpc.imaging.synthetic import write_dataset
from tests.local_runs import JOB, processes_of, states, status, submit, until

# not tried again, so that what is left can be looked at
LONG = JOB.replace("iterations_per_epoch: 1,", "iterations_per_epoch: 5000,") + (
    "retry: {unknown: 0, crash: 0}\n"
)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose training is on its way."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a killed worker leaves its work folder there
    write_dataset(tmp_path / "data", people=3, seed=9, contrasts=("T2starw",))
    run = submit(tmp_path, LONG)
    attempts = run / "tasks/train-scratch-fold0/attempts"
    until(
        lambda: any(attempts.glob("*/progress.jsonl")),
        seconds=200,
        what="the training did not start",
    )
    return run


def test_a_killed_scheduler_takes_its_tasks_along_and_they_save(training: Path) -> None:
    os.kill(json.loads((training / "local/state.json").read_text())["pid"], signal.SIGKILL)
    until(lambda: processes_of(training) == [], seconds=60, what="processes were left")
    found = {task["task"]: task for task in status(training)["tasks"]}
    assert found["train-scratch-fold0"]["state"] == "PREEMPTED"
    assert "its state is saved" in found["train-scratch-fold0"]["cause"]
    assert list(training.glob("tasks/train-scratch-fold0/attempts/*/resume/*.pt"))


def test_a_killed_worker_takes_its_step_along(training: Path) -> None:
    (worker,) = (
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and b"ca_hpc.worker\0%s" % str(training).encode() in line(entry)
    )
    os.kill(worker, signal.SIGKILL)
    until(lambda: processes_of(training) == [], seconds=60, what="processes were left")
    assert states(training)["train-scratch-fold0"] == "FAILED"


def line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended by now
        return b""
