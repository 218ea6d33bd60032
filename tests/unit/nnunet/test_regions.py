"""Regions with a mask as second channel: trained, validated and scored as nnU-Net does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from ca_hpc.nnunet.calls import FoldCall, FoldOutcome, Start
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.planning import build_network
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.weights.checkpoint import read_checkpoint
from tests.blobs import CASES, Preprocessed

MakeCall = Callable[..., FoldCall]


def run(call: FoldCall) -> tuple[FoldOutcome, list[Any]]:
    events: list[Any] = []
    return train_fold(call, emit=events.append, clock=time.monotonic), events


@pytest.fixture
def trained(make_call: MakeCall, nested: Preprocessed) -> tuple[FoldOutcome, list[Any]]:
    return run(make_call(**nested.of_call, epochs=2, iterations_per_epoch=120))


def test_both_regions_are_learnt_and_written_into_one_label_map(
    trained: tuple[FoldOutcome, list[Any]], nested: Preprocessed, tmp_path: Path
) -> None:
    outcome, events = trained
    assert outcome.finished and outcome.summary_file is not None
    weights = read_checkpoint(outcome.fold_folder / "checkpoint_final.pth").tensors
    heads = {t.shape[0] for name, t in weights.items() if name.endswith("seg_layers.1.weight")}
    assert heads == {2}  # one of each region, none of the background
    assert weights["encoder.stages.0.0.convs.0.conv.weight"].shape[1] == 2
    for event in events:
        if event["event"] == "epoch":
            assert event["pseudo_dice"] is not None
    stock = tmp_path / "stock.json"
    compute_metrics_on_folder(
        str(nested.dataset_folder / "gt_segmentations"),
        str(outcome.fold_folder / "validation"),
        str(stock),
        SimpleITKIO(),
        ".nii.gz",
        [(1, 2), 2],
        num_processes=1,
    )
    summary = json.loads(outcome.summary_file.read_text())
    assert summary == json.loads(stock.read_text())
    assert set(summary["mean"]) == {"(1, 2)", "2"}
    assert all(of["Dice"] > 0.5 for of in summary["mean"].values())
    for case in CASES[4:]:
        found = nibabel.load(outcome.fold_folder / "validation" / f"{case}.nii.gz")
        assert set(np.unique(found.dataobj)) == {0, 1, 2}


def test_the_mask_goes_in_as_it_is(nested: Preprocessed) -> None:
    folder = nested.dataset_folder / "nnUNetPlans_3d_fullres"
    image, *_ = nnUNetDatasetBlosc2(str(folder), [CASES[0]]).load_case(CASES[0])
    assert set(np.unique(image[1])) == {0, 1}
    assert abs(float(np.mean(image[0]))) < 0.1  # the image is normalised


def test_weights_of_one_channel_and_other_labels_start_regions(
    make_call: MakeCall,
    trained: tuple[FoldOutcome, list[Any]],
    nested: Preprocessed,
    tmp_path: Path,
) -> None:
    labels, _ = run(make_call(attempt_folder=tmp_path / "labels", epochs=1))
    file = labels.fold_folder / "checkpoint_final.pth"
    start = Start("pretrained", file=file, sha256=None, stem="repeat")
    call = make_call(**nested.of_call, attempt_folder=tmp_path / "regions", start=start, epochs=0)
    outcome, _ = run(call)
    found = as_torch(read_checkpoint(outcome.fold_folder / "checkpoint_final.pth").tensors)
    network = build_network(
        json.loads(nested.plans_file.read_text()), json.loads(nested.dataset_json_file.read_text())
    )
    assert {name: of.shape for name, of in network.state_dict().items()} == {
        name: of.shape for name, of in found.items()
    }
