"""The whole pipeline on this machine, without SLURM and without an image, with real nnU-Net."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from ca_hpc.imaging.synthetic import write_dataset
from tests.checkpoints import write_checkpoint
from tests.local_runs import JOB, ca_hpc, processes_of, states, status, submit, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of four people."""
    here = tmp_path_factory.mktemp("local")
    write_dataset(here / "data", people=4, seed=9, contrasts=("T2starw",))
    return here


def test_the_demo_ends_with_a_table_and_a_report(tmp_path: Path) -> None:
    done = ca_hpc("demo", tmp_path / "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "demo/runs/demo-001"
    scores = json.loads((run / "evaluation/scores.json").read_text())
    assert {s["arm"] for s in scores} == {"finetune", "scratch"}
    assert {s["fold"] for s in scores} == {0, 1, 2, 3, 4}
    assert {s["session"] for s in scores} == {None, "01", "02"}
    mean = {
        arm: sum(s["dice"] for s in scores if s["arm"] == arm) / (len(scores) / 2)
        for arm in ("finetune", "scratch")
    }
    assert mean["finetune"] > mean["scratch"]
    table = done.stdout.split("Dice (mean over people)")[-1]
    rows = [line.split()[0] for line in table.splitlines() if line.strip()]
    assert rows[:7] == ["fold", "0", "1", "2", "3", "4", "all"]
    assert f"report: {run}/report.html" in done.stdout
    assert "<svg" in (run / "report.html").read_text()


def test_a_detached_run_goes_on_without_the_command(folder: Path) -> None:
    run = submit(folder, JOB)
    until(lambda: status(run)["ended"], seconds=300, what="the run did not end")
    assert set(states(run).values()) == {"COMPLETED"}
    # results are there a moment before the processes have ended
    until(lambda: processes_of(run) == [], seconds=60, what="processes were left")


def test_cancel_stops_everything_and_says_so(folder: Path) -> None:
    run = submit(folder, JOB.replace("iterations_per_epoch: 1,", "iterations_per_epoch: 5000,"))
    training = run / "tasks/train-scratch-fold0/attempts"
    started = lambda: any(training.glob("*/progress.jsonl"))  # noqa: E731
    until(started, seconds=200, what="the training did not start")
    assert ca_hpc("cancel", run, cwd=folder).returncode == 0
    until(lambda: processes_of(run) == [], seconds=60, what="processes were left")
    found = states(run)
    assert found["prepare-shard0"] == found["assemble"] == "COMPLETED"
    assert found["train-scratch-fold0"] == "CANCELLED"
    assert found["evaluate"] == found["report"] == "CANCELLED"
    # what was trained is kept for a continuation
    assert list(training.glob("*/resume/*.pt"))


def test_a_killed_scheduler_leaves_no_task_running_for_ever(folder: Path) -> None:
    run = submit(folder, JOB)
    state = run / "local/state.json"
    until(lambda: "RUNNING" in states(run).values(), seconds=60, what="it did not start")
    os.kill(json.loads(state.read_text())["pid"], 9)
    until(lambda: status(run)["ended"], seconds=60, what="status waits for a dead scheduler")
    assert states(run)["report"] == "CANCELLED"


def test_weights_that_do_not_fit_the_planners_network_stop_the_run_before_any_training(
    folder: Path,
) -> None:
    # which network that is, nobody knows before the planner has run
    write_checkpoint(folder / "own.pth", model="demo")
    text = JOB.replace("weights: null", "weights: own.pth")
    text = text.replace("{weights: random, plans: model}", "{weights: pretrained, plans: planner}")
    run = submit(folder, text)
    until(lambda: status(run)["ended"], seconds=200, what="the run did not end")
    tasks = {task["task"]: task for task in status(run)["tasks"]}
    assert tasks["preprocess"]["state"] == "FAILED"
    assert "encoder.stages.0.0.convs.0.conv.weight" in tasks["preprocess"]["cause"]
    assert "(8, 1, 3, 3, 3) in the file" in tasks["preprocess"]["cause"]
    assert tasks["train-scratch-fold0"]["state"] == "CANCELLED"


OWN_TRAINER = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class nnUNetTrainerSlow(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 0.00125
"""


def test_a_trainer_of_ones_own_is_used_as_it_was_at_submission(folder: Path) -> None:
    own = folder / "my-trainers"
    own.mkdir()
    (own / "slow.py").write_text(OWN_TRAINER)
    text = JOB + "trainers: my-trainers\n"
    text = text.replace("training: {", "training: {trainer: nnUNetTrainerSlow, ")
    run = submit(folder, text)
    (own / "slow.py").write_text("raise SystemExit(0)\n")
    until(lambda: status(run)["ended"], seconds=300, what="the run did not end")
    assert set(states(run).values()) == {"COMPLETED"}
    (progress,) = run.glob("tasks/train-*/attempts/*/progress.jsonl")
    epochs = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [e["lr"] for e in epochs if e["event"] == "epoch"] == [0.00125]
    done = ca_hpc("export", run, cwd=folder)
    assert done.returncode == 0, done.stderr
    (archive,) = (run / "exports").glob("*.zip")
    with zipfile.ZipFile(archive) as found:
        (source,) = (name for name in found.namelist() if name.endswith("trainer_class.py"))
        assert "0.00125" in found.read(source).decode()
