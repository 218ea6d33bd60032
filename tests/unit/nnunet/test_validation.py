"""Validation scores are nnU-Net's, and predictions are reused only where they are the same."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from ca_hpc.nnunet.calls import FoldCall, FoldOutcome
from ca_hpc.nnunet.fold_training import train_fold


def run(call: FoldCall) -> tuple[FoldOutcome, list[bool]]:
    """The outcome, and for each validation case whether an earlier prediction was taken."""
    events: list[Any] = []
    outcome = train_fold(call, emit=events.append, clock=time.monotonic)
    return outcome, [event["reused"] for event in events if event["event"] == "validation"]


@pytest.fixture
def make_next(make_call: Callable[..., FoldCall]) -> Callable[..., FoldCall]:
    """``make_next(tile_step=0.5)``: a second attempt after that of ``make_call``."""
    first = make_call().attempt_folder

    def make(**changes: Any) -> FoldCall:
        second = first.with_name("attempt-2")
        return make_call(attempt_folder=second, earlier_attempts=(first,), **changes)

    return make


def test_the_summary_is_the_one_that_nnunet_writes(
    make_call: Callable[..., FoldCall], tmp_path: Path
) -> None:
    call = make_call()
    outcome, _ = run(call)
    assert outcome.summary_file == outcome.fold_folder / "validation" / "summary.json"
    stock = tmp_path / "stock.json"
    compute_metrics_on_folder(
        str(call.preprocessed_root / "Dataset901_Blobs" / "gt_segmentations"),
        str(outcome.fold_folder / "validation"),
        str(stock),
        SimpleITKIO(),
        ".nii.gz",
        [1],
        num_processes=1,
    )
    assert json.loads(outcome.summary_file.read_text()) == json.loads(stock.read_text())


def test_predictions_of_the_same_weights_and_tiling_are_taken_over(
    make_call: Callable[..., FoldCall], make_next: Callable[..., FoldCall]
) -> None:
    first, made = run(make_call())
    second, taken = run(make_next())
    assert (made, taken) == ([False, False], [True, True])
    scores = [
        json.loads(outcome.summary_file.read_text())["foreground_mean"]
        for outcome in (first, second)
        if outcome.summary_file
    ]
    assert scores[0] == scores[1]


def test_predictions_of_another_tiling_are_not(
    make_call: Callable[..., FoldCall], make_next: Callable[..., FoldCall]
) -> None:
    run(make_call())
    assert run(make_next(tile_step=0.5))[1] == [False, False]


def test_the_same_attempt_begun_again_with_another_tiling_predicts_again(
    make_call: Callable[..., FoldCall],
) -> None:
    run(make_call())
    assert run(make_call())[1] == [True, True]
    assert run(make_call(mirroring=True))[1] == [False, False]
