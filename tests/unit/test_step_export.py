"""What the export step writes on the card beside the checkpoints."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from ca_hpc.core.data_spec import BidsSource, Crop
from ca_hpc.core.export import REQUEST_NAME, ZIP_NAME, ExportRequest
from ca_hpc.core.model import Runtime, Workflow
from ca_hpc.core.record import Case, Cases, LabelFile, Pins
from ca_hpc.core.spec import Arm, JobSpec, Training
from ca_hpc.steps.entry import StepCall
from ca_hpc.steps.export import export
from ca_hpc.store.run_folder import RunFolder

PLANS = {
    "transpose_forward": [2, 0, 1],
    "configurations": {
        "3d_fullres": {"spacing": [0.8, 1, 0.5], "patch_size": [32, 48, 64], "batch_size": 2}
    },
}
DATASET = {
    "image_orientation": "RPI",
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "cord": 1},
}
SCORES = {"foreground_mean": {"Dice": 0.875}, "metric_per_case": [{}, {}]}
MODEL = "Dataset501_neck/nnUNetTrainer__nnUNetPlans__3d_fullres"


def published(folder: Path, *, arm: Arm, crop: Any = "none") -> RunFolder:
    """A run of five people whose fold 1 of two is published."""
    run = RunFolder(folder / "neck-001")
    spec = JobSpec(
        kind="finetune",
        name="neck",
        cluster="local",
        data=(BidsSource(type="bids", path="/data", label_suffix="_seg"),),
        weights=None,
        crop=crop,
        arms={"scratch": arm},
        training=Training(epochs=7, iterations_per_epoch=20),
    )
    run.write_spec("spec.json", spec)
    cases = tuple(
        Case(
            f"s1-{k}",
            "s1",
            (f"/{k}.nii.gz",),
            (LabelFile(f"/{k}-seg.nii.gz"),),
            f"{k}",
            f"{k}",
            None,
            "T2w",
        )
        for k in range(5)
    )
    run.write("cases.json", Cases("Dataset501_neck", {"cord": 1}, cases))
    run.write("pins.json", Pins("0.1.0", "token", "2025-01-01T00:00:00", None))
    runtime = Runtime("none", "python3")
    flow = Workflow(str(run.path), "local", "python3", None, (), runtime, (), None, ())
    run.write("workflow.json", flow)
    names = [case.id for case in cases]
    folds = [{"train": names[3:], "val": names[:3]}, {"train": names[:3], "val": names[3:]}]
    run.file("splits.json").write_text(json.dumps(folds))
    model = run.results("scratch") / MODEL
    (model / "fold_1/validation").mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(PLANS))
    (model / "dataset.json").write_text(json.dumps(DATASET))
    (model / "dataset_fingerprint.json").write_text("{}")
    (model / "fold_1/validation/summary.json").write_text(json.dumps(SCORES))
    checkpoint = {
        "network_weights": {"weight": torch.zeros(1)},
        "current_epoch": 7,
        "init_args": {
            "plans": PLANS, "configuration": "3d_fullres", "fold": 1, "dataset_json": DATASET
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }  # fmt: skip
    torch.save(checkpoint, model / "fold_1/checkpoint_final.pth")
    return run


def card(run: RunFolder) -> str:
    _, attempt = run.new_attempt("export", job="local", restart=0)
    run.write(f"{(attempt / REQUEST_NAME).relative_to(run.path)}", ExportRequest(("1",), "final"))
    export(StepCall(run, attempt, cpus=1, threads=1, device="cpu", arm="scratch", fold=0))
    with zipfile.ZipFile(attempt / ZIP_NAME) as archive:
        return archive.read(f"{MODEL}/README.md").decode()


def test_a_fold_says_how_many_images_it_was_trained_on(tmp_path: Path) -> None:
    text = card(published(tmp_path, arm=Arm(weights="random", plans="planner", epochs=3)))
    assert "| 1 | 0.8750 | 2 | 3 |" in text
    assert "| learnt and validated with | 5 images of 5 people |" in text
    assert "| training | 3 epochs of 20 iterations |" in text
    assert "| spacing, mm | RL 0.8, AP 0.5, SI 1 |" in text
    assert "| patch, voxels | RL 32, AP 64, SI 48 |" in text
    assert "| cropped before the training | no |" in text
    assert "| trained on |" not in text


def test_a_network_of_no_epochs_was_trained_on_nothing_here(tmp_path: Path) -> None:
    text = card(published(tmp_path, arm=Arm(weights="random", plans="planner", epochs=0)))
    assert "| 1 | 0.8750 | 2 | 0 |" in text
    assert "| training | 0 epochs: the network as it began |" in text


def test_a_crop_says_what_the_scores_hold_for(tmp_path: Path) -> None:
    run = published(tmp_path, arm=Arm(weights="random"), crop=Crop("cord", 30.0))
    row = next(line for line in card(run).splitlines() if "cropped before" in line)
    assert "around cord, margin 30 mm: crop images likewise" in row
    assert "what lies outside is not scored" in row


def test_a_run_whose_splits_are_gone_is_exported_all_the_same(tmp_path: Path) -> None:
    run = published(tmp_path, arm=Arm(weights="random"))
    run.file("splits.json").unlink()
    assert "| 1 | 0.8750 | 2 | not known |" in card(run)
