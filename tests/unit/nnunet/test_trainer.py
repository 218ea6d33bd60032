"""What the mixin adds, and what it leaves to the trainer underneath."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.calls import FoldCall
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.trainer import TrainerMixin, check_split, composed, gpu_peak_mib


def test_the_composed_trainer_has_the_name_and_arguments_of_the_one_underneath() -> None:
    trainer = composed(nnUNetTrainer)
    assert trainer.__name__ == "nnUNetTrainer"
    assert issubclass(trainer, nnUNetTrainer) and issubclass(trainer, TrainerMixin)
    assert inspect.signature(trainer) == inspect.signature(nnUNetTrainer)


SPLITS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "d"]}]


@pytest.fixture
def splits_file(tmp_path: Path) -> Path:
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps(SPLITS))
    return file


def test_a_split_with_all_its_cases_is_accepted(splits_file: Path) -> None:
    check_split(splits_file, fold=0, cases=frozenset("abcd"))


@pytest.mark.parametrize("fold", [2, 7, -1])
def test_a_fold_that_is_not_in_the_splits_is_refused(splits_file: Path, fold: int) -> None:
    with pytest.raises(CaHpcError, match=f"Fold {fold} is not in .* folds 0 to 1"):
        check_split(splits_file, fold=fold, cases=frozenset("abcd"))


def test_a_case_that_is_not_preprocessed_is_named(splits_file: Path) -> None:
    with pytest.raises(CaHpcError, match=r"names 1 cases .* first d"):
        check_split(splits_file, fold=1, cases=frozenset("abc"))


def test_a_missing_splits_file_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match="There is no"):
        check_split(tmp_path / "splits_final.json", fold=0, cases=frozenset())
    assert list(tmp_path.iterdir()) == []


def test_there_is_no_gpu_memory_to_tell_of_on_the_cpu(make_call: Callable[..., FoldCall]) -> None:
    nothing = {"gpu_allocated_mib": None, "gpu_reserved_mib": None}
    assert gpu_peak_mib(torch.device("cpu")) == nothing
    events: list[Mapping[str, Any]] = []
    call = make_call(epochs=1, iterations_per_epoch=1)
    train_fold(call, emit=events.append, clock=time.monotonic)
    (epoch,) = (event for event in events if event["event"] == "epoch")
    assert {key: epoch[key] for key in nothing} == nothing
