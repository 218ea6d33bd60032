"""One byte of plans, splits, weights or an image flipped between submission and training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.store.digests import sha256_file
from tests.local_runs import JOB, ca_hpc, states, status, submit, until

TASK = "train-finetune-fold0"


def flip(file: Path) -> None:
    """Change one byte, and nothing else that a user can set."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def planned(tmp_path: Path, demo_checkpoint: Path) -> Path:
    """A run that was cancelled in its first training."""
    write_dataset(tmp_path / "data", people=3, seed=9, contrasts=("T2starw",))
    (tmp_path / "own.pth").write_bytes(demo_checkpoint.read_bytes())
    text = JOB.replace("weights: null", "weights: own.pth")
    text = text.replace("scratch: {weights: random", "finetune: {weights: pretrained")
    run = submit(tmp_path, text.replace("iterations_per_epoch: 1,", "iterations_per_epoch: 50,"))
    attempts = run / "tasks" / TASK / "attempts"
    until(lambda: any(attempts.glob("*/progress.jsonl")), seconds=300, what="no training began")
    assert ca_hpc("cancel", run, cwd=tmp_path).returncode == 0
    until(lambda: bool(status(run)["ended"]), seconds=60, what="it was not cancelled")
    return run


def test_each_is_refused_before_any_training_and_put_back_it_goes_on(
    planned: Path, tmp_path: Path
) -> None:
    run = planned
    (dataset,) = (run / "nnunet/preprocessed").iterdir()
    (image, *_) = sorted((tmp_path / "data").rglob("anat/*.nii.gz"))
    files = [tmp_path / "own.pth", run / "splits.json", dataset / "splits_final.json", image]
    files += [file for file in dataset.glob("nnUNetPlans*.json") if "demo" in file.name]
    assert len(files) == 5
    for file in files:
        before, attempts = sha256_file(file), list((run / "tasks" / TASK / "attempts").iterdir())
        flip(file)
        assert ca_hpc("retry", run, TASK, cwd=tmp_path).returncode == 0
        until(lambda: bool(status(run)["ended"]), seconds=100, what="it did not end")
        shown = ca_hpc("status", run, cwd=tmp_path)
        assert shown.returncode == 3, shown.stdout
        (task,) = (t for t in status(run)["tasks"] if t["task"] == TASK)
        assert task["failure"] == "changed"
        assert f"{file} is sha256:{sha256_file(file)}, recorded is sha256:{before}" in task["cause"]
        (new,) = set((run / "tasks" / TASK / "attempts").iterdir()) - set(attempts)
        assert not (new / "progress.jsonl").exists()
        flip(file)
    assert ca_hpc("retry", run, TASK, cwd=tmp_path).returncode == 0
    until(lambda: bool(status(run)["ended"]), seconds=400, what="it did not end")
    assert set(states(run).values()) == {"COMPLETED"}
