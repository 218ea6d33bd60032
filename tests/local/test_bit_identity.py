"""Interrupted and undisturbed trainings end with the same weights, bit for bit, and why."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ca_hpc.nnunet.calls import FoldOutcome
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.trainer import TrainerMixin
from tests.blobs import Preprocessed, blobs_in, fold_call

# one each in an epoch's training, in its validation, and in the validation of the fold
PLACES = {
    "mid-epoch": "resume-e00001-i00001.pt",
    "an epoch's validation": "resume-e00001-i00004.pt",
    "the fold's validation": "blob_4",
}
COURSE = {"validation_iterations_per_epoch": 2, "torch_threads": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Preprocessed:
    return blobs_in(tmp_path_factory.mktemp("nnunet"))


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def undisturbed(data: Preprocessed, tmp_path_factory: pytest.TempPathFactory) -> FoldOutcome:
    call = fold_call(data, tmp_path_factory.mktemp("undisturbed"), workers=0, **COURSE)
    return train_fold(call, emit=lambda event: None, clock=time.monotonic)


def interrupted(
    data: Preprocessed, folder: Path, *, at: str, workers: int
) -> tuple[FoldOutcome, dict[str, Any]]:
    """A training with a signal at a file or case, continued; and how the continuation began."""
    starts: list[dict[str, Any]] = []

    def emit(event: Any) -> None:
        if event["event"] == "start":
            starts.append(json.loads(json.dumps(event)))
        if at in (Path(event.get("file", "")).name, event.get("case")) and len(starts) == 1:
            os.kill(os.getpid(), signal.SIGUSR2)

    first = fold_call(data, folder / "1", workers=workers, checkpoint_every_s=0.0, **COURSE)
    assert not train_fold(first, emit=emit, clock=time.monotonic).finished
    second = fold_call(
        data, folder / "2", workers=workers, earlier_attempts=(folder / "1",), **COURSE
    )
    outcome = train_fold(second, emit=emit, clock=time.monotonic)
    assert outcome.finished
    return outcome, starts[-1]


def curves(outcome: FoldOutcome) -> dict[str, list[Any]]:
    """What was logged per epoch, but for the times of day."""
    final = outcome.fold_folder / "checkpoint_final.pth"
    logged = torch.load(final, weights_only=False)["logging"]
    return {key: of for key, of in logged.items() if "timestamps" not in key}


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("at", PLACES.values(), ids=PLACES.keys())
def test_interrupted_it_ends_as_undisturbed(
    data: Preprocessed, undisturbed: FoldOutcome, tmp_path: Path, at: str, workers: int
) -> None:
    outcome, _ = interrupted(data, tmp_path, at=at, workers=workers)
    assert outcome.weights_sha256 == undisturbed.weights_sha256
    assert curves(outcome) == curves(undisturbed)


@pytest.mark.parametrize("workers", [1, 3])
def test_undisturbed_it_ends_the_same_with_any_number_of_augmentation_processes(
    data: Preprocessed, undisturbed: FoldOutcome, tmp_path: Path, workers: int
) -> None:
    call = fold_call(data, tmp_path, workers=workers, **COURSE)
    outcome = train_fold(call, emit=lambda event: None, clock=time.monotonic)
    assert outcome.weights_sha256 == undisturbed.weights_sha256
    assert curves(outcome) == curves(undisturbed)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("at", list(PLACES.values())[:2], ids=list(PLACES)[:2])
@pytest.mark.parametrize("dropped", ["iteration", "epoch"])
def test_without_the_position_restored_it_would_not(
    data: Preprocessed,
    undisturbed: FoldOutcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    workers: int,
    dropped: str,
) -> None:
    """What the tests above would miss if they could not fail."""
    go_on = TrainerMixin.continue_from

    def forgetful(trainer: Any, resume: Any) -> None:
        go_on(trainer, resume)
        if dropped == "iteration":
            trainer._outputs = []
        else:
            trainer.current_epoch = 0

    monkeypatch.setattr(TrainerMixin, "continue_from", forgetful)
    outcome, _ = interrupted(data, tmp_path, at=at, workers=workers)
    assert outcome.weights_sha256 != undisturbed.weights_sha256
