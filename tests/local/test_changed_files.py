"""One byte of what a run is made of flipped between submission and training."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca_hpc.imaging.synthetic import write_dataset
from tests.changed_bytes import flipped, planned
from tests.local_runs import JOB, ca_hpc, states, status, submit, until

TASK = "train-finetune-fold0"


@pytest.fixture
def run(tmp_path: Path, demo_checkpoint: Path) -> Path:
    """A run that was cancelled in its first training."""
    write_dataset(tmp_path / "data", people=3, seed=9, contrasts=("T2starw",))
    (tmp_path / "own.pth").write_bytes(demo_checkpoint.read_bytes())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/own.py").write_text("class Own: ...\n")
    text = JOB.replace("weights: null", "weights: own.pth") + "trainers: mine\n"
    text = text.replace("scratch: {weights: random", "finetune: {weights: pretrained")
    run = submit(tmp_path, text.replace("iterations_per_epoch: 1,", "iterations_per_epoch: 50,"))
    attempts = run / "tasks" / TASK / "attempts"
    until(lambda: any(attempts.glob("*/progress.jsonl")), seconds=300, what="no training began")
    assert ca_hpc("cancel", run, cwd=tmp_path).returncode == 0
    until(lambda: bool(status(run)["ended"]), seconds=60, what="it was not cancelled")
    return run


def test_each_is_refused_before_any_training_and_put_back_it_goes_on(
    run: Path, tmp_path: Path
) -> None:
    image = min((tmp_path / "data").glob("sub-*/anat/*.nii.gz"))
    trainer = run / "trainers/own.py"
    for file in (tmp_path / "own.pth", run / "splits.json", trainer, *planned(run), image):
        attempts = list((run / "tasks" / TASK / "attempts").iterdir())
        with flipped(file) as told:
            assert ca_hpc("retry", run, TASK, cwd=tmp_path).returncode == 0
            until(lambda: bool(status(run)["ended"]), seconds=100, what="it did not end")
            shown = ca_hpc("status", run, cwd=tmp_path)
            assert shown.returncode == 3, shown.stdout
            (task,) = (t for t in status(run)["tasks"] if t["task"] == TASK)
            assert task["failure"] == "changed"
            assert told in task["cause"]
            (new,) = set((run / "tasks" / TASK / "attempts").iterdir()) - set(attempts)
            assert not (new / "progress.jsonl").exists()
    assert ca_hpc("retry", run, TASK, cwd=tmp_path).returncode == 0
    until(lambda: bool(status(run)["ended"]), seconds=400, what="it did not end")
    assert set(states(run).values()) == {"COMPLETED"}
