"""Transfer on real images: pretrained on some people, fine-tuned on others, beside two controls.

The images (gm-challenge, eight of six people) lie beside the checkout or where CA_HPC_SHARED_DATA
says; without them the test says so, and fails where every test is required.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import fmean

import pytest

from tests.lab.places import CHECKOUT
from tests.local_runs import states, status, submit, until

FIRST = ("sub-9418", "sub-9584", "sub-9604")
OTHERS = ("sub-9669", "sub-10062Ses1", "sub-10062Ses2", "sub-9709Ses1", "sub-9709Ses2")

COMMON = """
kind: finetune
cluster: local
splits: {folds: 3}
crop: {to: cord, margin: 30mm}
plans: {spacing: {RL: 1, AP: 1, SI: 3}, patch_size: {RL: 48, AP: 48, SI: 16}, batch_size: 2}
validation: {tile_step: 1.0, mirroring: false}
threads: 1
"""

PRETRAINING = """
name: first
data: [{type: pairs, path: first.tsv}]
weights: null
model: demo
folds: [0]
arms: {pretraining: {weights: random, plans: model}}
training: {epochs: 6, iterations_per_epoch: 100, validation_iterations_per_epoch: 1, workers: 0}
"""

COMPARISON = r"""
name: others
data: [{type: pairs, path: others.tsv, person: {pattern: 'sub-(\d+)'}}]
weights: first.pth
arms:
  finetune: {weights: pretrained}
  scratch: {weights: random}
  control: {weights: shuffled}
training: {epochs: 3, iterations_per_epoch: 20, validation_iterations_per_epoch: 1, workers: 0}
"""


@pytest.fixture(scope="module")
def images() -> Path:
    folder = Path(os.environ.get("CA_HPC_SHARED_DATA") or CHECKOUT.parent / "shared/data")
    if not (folder / "gm-challenge").is_dir():
        reason = f"no gm-challenge in {folder}; CA_HPC_SHARED_DATA names another folder"
        (pytest.fail if os.environ.get("CA_HPC_TEST_REQUIRE_ALL") else pytest.skip)(reason)
    return folder / "gm-challenge"


def write_table(file: Path, images: Path, subjects: tuple[str, ...]) -> None:
    rows = ["image\tlabel\tsubject"]
    for subject in subjects:
        stem = f"{subject}/anat/{subject}_run-1_T2starw"
        label = images / "derivatives/labels" / f"{stem}_seg-manual.nii.gz"
        rows.append(f"{images / stem}.nii.gz\t{label}\t{subject}")
    file.write_text("\n".join(rows) + "\n")


def run(folder: Path, job: str) -> Path:
    found = submit(folder, COMMON + job)
    until(lambda: status(found)["ended"], seconds=1200, what="the run did not end")
    assert set(states(found).values()) == {"COMPLETED"}, status(found)
    return found


def test_features_from_other_people_beat_their_own_values_shuffled(
    tmp_path: Path, images: Path
) -> None:
    write_table(tmp_path / "first.tsv", images, FIRST)
    write_table(tmp_path / "others.tsv", images, OTHERS)
    first = run(tmp_path, PRETRAINING)
    (checkpoint,) = first.glob("results/pretraining/*/*/fold_0/checkpoint_final.pth")
    (tmp_path / "first.pth").hardlink_to(checkpoint)
    # the checkpoint describes its network and axes: no model is named
    others = run(tmp_path, COMPARISON)
    scores = json.loads((others / "evaluation/scores.json").read_text())
    dice: dict[str, dict[str, list[float]]] = {}
    for score in scores:
        dice.setdefault(score["arm"], {}).setdefault(score["person"], []).append(score["dice"])
    mean = {arm: fmean(fmean(values) for values in people.values()) for arm, people in dice.items()}
    print("mean Dice over people:", {arm: round(value, 3) for arm, value in mean.items()})
    assert {len(people) for people in dice.values()} == {3}
    assert mean["control"] < mean["finetune"]
    comparison = json.loads((others / "evaluation/comparison.json").read_text())
    assert "control" in json.dumps(comparison)
