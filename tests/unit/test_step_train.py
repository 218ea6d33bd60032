"""What an arm sets for itself reaches its training; the rest is the common training's."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.core.arms import arm_training
from ca_hpc.core.spec import Arm, Training
from ca_hpc.steps.train import publish_fold

COMMON = Training(epochs=9, warmup_epochs=3, frozen_encoder_epochs=2, seed=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("iterations_per_epoch", 7),
        ("initial_learning_rate", 0.001),
        ("warmup_epochs", 0),
        ("frozen_encoder_epochs", 0),
        ("trainer", "nnUNetTrainerDA5"),
    ],
)
def test_an_arms_own_setting_wins_even_where_it_is_zero(name: str, value: Any) -> None:
    training = arm_training(COMMON, Arm(**{name: value}))
    assert getattr(training, name) == value
    others = [other for other in Training.__dataclass_fields__ if other != name]
    assert all(getattr(training, other) == getattr(COMMON, other) for other in others)


def test_an_arm_without_settings_trains_as_all_do() -> None:
    assert arm_training(COMMON, Arm()) == COMMON


def test_an_encoder_that_has_learnt_nothing_is_never_frozen() -> None:
    training = arm_training(COMMON, Arm(weights="random", plans="planner"))
    assert training == dataclasses.replace(COMMON, frozen_encoder_epochs=0)


def test_folds_that_end_together_do_not_take_each_others_files(tmp_path: Path) -> None:
    folds = []
    for number in range(8):
        # the attempts of a local run, and of tasks in one array element, have the same name
        fold = tmp_path / f"train-{number}/attempts/0001-local-r0/results/D/T/fold_{number}"
        fold.mkdir(parents=True)
        for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
            (fold.parent / name).write_text("{}" * 10_000)
        folds.append(fold)
    with ThreadPoolExecutor(len(folds)) as pool:
        list(pool.map(lambda fold: publish_fold(fold, tmp_path / "model"), folds))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(
        [*(f"fold_{n}" for n in range(8)), "plans.json", "dataset.json", "dataset_fingerprint.json"]
    )
