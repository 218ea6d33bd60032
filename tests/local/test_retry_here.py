"""Without SLURM: what failed is tried again by its class, by itself or when asked to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ca_hpc.imaging.synthetic import write_dataset
from tests.local_runs import JOB, ca_hpc, states, status, submit, until

TASK = "train-scratch-fold0"
# Misbehaves in fold 0 while the file that MARK names is not there.
TRAINER = """
import os, pathlib
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class nnUNetTrainerOnce(nnUNetTrainer):
    def on_epoch_start(self):
        mark = pathlib.Path({mark!r})
        if self.fold == 0 and not mark.exists():
            {misbehave}
        super().on_epoch_start()
"""


@pytest.fixture
def job(tmp_path: Path) -> str:
    write_dataset(tmp_path / "data", people=3, seed=9, contrasts=("T2starw",))
    text = JOB.replace("folds: [0]", "folds: [0, 1]").replace(
        "training: {epochs: 1,", "training: {trainer: nnUNetTrainerOnce, epochs: 1,"
    )
    return text + "trainers: trainers\nretry: {crash: {tries: 1, wait: 1s}}\n"


def lay_trainer(folder: Path, misbehave: str) -> Path:
    mark = folder / "mark"
    (folder / "trainers").mkdir()
    text = TRAINER.format(mark=str(mark), misbehave=misbehave)
    (folder / "trainers" / "once.py").write_text(text)
    return mark


def ended(run: Path) -> bool:
    return bool(status(run)["ended"])


def test_a_crash_is_tried_again_by_itself(tmp_path: Path, job: str) -> None:
    lay_trainer(tmp_path, "mark.touch(); os._exit(7)")
    run = submit(tmp_path, job)
    until(lambda: ended(run), seconds=400, what="it did not end")
    assert set(states(run).values()) == {"COMPLETED"}
    first, second = sorted((run / "tasks" / TASK / "attempts").iterdir())
    assert json.loads((first / "result.json").read_text())["failure"] == "crash"
    assert json.loads((second / "result.json").read_text())["state"] == "COMPLETED"
    assert len(list((run / "tasks/train-scratch-fold1/attempts").iterdir())) == 1


def test_an_error_of_the_code_waits_for_somebody_and_then_only_that_fold_runs_again(
    tmp_path: Path, job: str
) -> None:
    mark = lay_trainer(tmp_path, 'raise ValueError("a loss that is not there")')
    run = submit(tmp_path, job)
    until(lambda: ended(run), seconds=400, what="it did not end")
    found = {task["task"]: task for task in status(run)["tasks"]}
    assert (found[TASK]["state"], found[TASK]["failure"]) == ("FAILED", "code")
    assert "a loss that is not there" in found[TASK]["cause"]
    assert any("a loss that is not there" in line for line in found[TASK]["lines"])
    assert "a loss that is not there" in (run / "report.html").read_text()
    published = {file: file.stat().st_mtime_ns for file in run.glob("results/**/fold_1/**/*")}
    assert published
    mark.touch()
    done = ca_hpc("retry", "--json", run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"] == [TASK]
    until(lambda: ended(run), seconds=400, what="it did not end")
    assert set(states(run).values()) == {"COMPLETED"}
    assert {file: file.stat().st_mtime_ns for file in published} == published
    attempts = {task: len(list((run / "tasks" / task / "attempts").iterdir())) for task in found}
    redone = {task for task, count in attempts.items() if count == 2}
    assert redone == {TASK, "evaluate", "report"}
    report = (run / "report.html").read_text()
    assert "a loss that is not there" not in report


def test_there_is_nothing_to_retry_in_a_run_that_is_complete_or_goes_on(
    tmp_path: Path, job: str
) -> None:
    mark = lay_trainer(tmp_path, "pass")
    mark.touch()
    run = submit(tmp_path, job)
    refused = ca_hpc("retry", run, cwd=tmp_path)
    assert refused.returncode == 2
    assert "is still running" in refused.stderr
    until(lambda: ended(run), seconds=400, what="it did not end")
    done = ca_hpc("retry", run, cwd=tmp_path)
    assert done.returncode == 0
    assert "nothing to do again" in done.stdout
    unknown = ca_hpc("retry", run, "train-nobody", cwd=tmp_path)
    assert unknown.returncode == 2
    assert TASK in unknown.stderr


def test_after_a_cancellation_all_is_saved_and_only_the_named_fold_goes_on(
    tmp_path: Path, job: str
) -> None:
    lay_trainer(tmp_path, "pass").touch()
    run = submit(tmp_path, job.replace("iterations_per_epoch: 1,", "iterations_per_epoch: 5000,"))
    other = "train-scratch-fold1"

    def attempts(task: str) -> list[Path]:
        return sorted((run / "tasks" / task / "attempts").glob("*"))

    def trains(task: str, *, attempt: int) -> bool:
        found = attempts(task)
        return len(found) == attempt and (found[-1] / "progress.jsonl").exists()

    until(lambda: trains(TASK, attempt=1), seconds=400, what="the training did not start")
    assert "go on later: ca-hpc retry" in ca_hpc("cancel", run, cwd=tmp_path).stdout
    first = {task["task"]: task for task in status(run)["tasks"]}[TASK]
    assert (first["state"], first["cause"]) == (
        "CANCELLED",
        "stopped by a signal; its state is saved",
    )
    begun = len(attempts(other))
    done = ca_hpc("retry", run, other, cwd=tmp_path)  # at once
    assert f"again: {other}; then anew: evaluate, report" in done.stdout, done.stderr
    until(lambda: trains(other, attempt=begun + 1), seconds=400, what="it did not go on")
    assert states(run)[TASK] == "CANCELLED"
    assert len(attempts(TASK)) == 1
    ca_hpc("cancel", run, cwd=tmp_path)
