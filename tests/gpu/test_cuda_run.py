"""One epoch of both arms on a real GPU, without an image; `make test-gpu`."""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ca_hpc.nnunet.checkpoints import weights_sha256
from ca_hpc.nnunet.folders import CONFIGURATION
from ca_hpc.weights.patch import training_memory_gib
from ca_hpc.weights.topology import feature_map_size
from tests.gpu.figures import ArmRow, Report
from tests.gpu.setting import Setting
from tests.local_runs import states

ARMS = ("finetune", "scratch")


def events(run: Path, arm: str) -> dict[str, dict[str, Any]]:
    """What the arm's training told, the last of each kind."""
    (progress,) = run.glob(f"tasks/train-{arm}-fold0/attempts/*/progress.jsonl")
    return {one["event"]: one for one in map(json.loads, progress.read_text().splitlines())}


def fold_folder(run: Path, arm: str) -> Path:
    (folder,) = run.glob(f"results/{arm}/*/*/fold_0")
    return folder


def planned(run: Path, arm: str) -> dict[str, Any]:
    plans = json.loads((fold_folder(run, arm).parent / "plans.json").read_text())
    configuration: dict[str, Any] = plans["configurations"][CONFIGURATION]
    return configuration


def estimate_gib(configuration: dict[str, Any]) -> float:
    """GPU memory as nnU-Net's planner reckons it."""
    architecture = configuration["architecture"]
    features = feature_map_size(
        architecture["arch_kwargs"],
        network_class_name=architecture["network_class_name"],
        patch=configuration["patch_size"],
    )
    assert features is not None
    return training_memory_gib(
        features,
        configuration["batch_size"],
        network_class_name=architecture["network_class_name"],
    )


def test_both_arms_train_and_are_validated(run: Path, setting: Setting) -> None:
    assert set(states(run).values()) == {"COMPLETED"}
    own = planned(run, "finetune")
    assert (tuple(own["patch_size"]), own["batch_size"]) == (setting.patch, 2)
    assert events(run, "finetune")["start"]["weights"] == "pretrained"
    assert events(run, "scratch")["start"]["weights"] == "random"


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_trains_on_the_gpu_and_tells_its_memory(
    arm: str, run: Path, setting: Setting, report: Report
) -> None:
    told, own = events(run, arm), planned(run, arm)
    epoch = told["epoch"]
    report.arms.append(
        ArmRow(
            arm=arm,
            patch=tuple(own["patch_size"]),
            batch=own["batch_size"],
            seconds=epoch["seconds_per_iteration"],
            allocated_mib=epoch["gpu_allocated_mib"],
            reserved_mib=epoch["gpu_reserved_mib"],
            estimate_gib=estimate_gib(own),
        )
    )
    if setting.device == "cpu":
        assert told["start"]["device"] == "cpu"
        assert (epoch["gpu_allocated_mib"], epoch["gpu_reserved_mib"]) == (None, None)
        return
    assert told["start"]["device"] == torch.cuda.get_device_name()
    whole = torch.cuda.get_device_properties(0).total_memory >> 20
    assert 0 < epoch["gpu_allocated_mib"] <= epoch["gpu_reserved_mib"] < whole


@pytest.mark.parametrize("arm", ARMS)
def test_the_checkpoint_was_written_on_the_gpu_and_loads_without_one(
    arm: str, run: Path, setting: Setting
) -> None:
    checkpoint = fold_folder(run, arm) / "checkpoint_final.pth"
    assert {"cuda": "cuda:0", "cpu": "cpu"}[setting.device] in strings_in(checkpoint)
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from ca_hpc.nnunet.checkpoints import weights_sha256\n"
        "from ca_hpc.nnunet.torch_tensors import as_torch\n"
        "from ca_hpc.weights.checkpoint import read_checkpoint\n"
        "assert not torch.cuda.is_available()\n"
        "print(weights_sha256(as_torch(read_checkpoint(Path(sys.argv[1])).tensors)))\n"
    )
    found = subprocess.run(
        (sys.executable, "-c", program, str(checkpoint)),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    written = torch.load(checkpoint, map_location="cpu", weights_only=False)["network_weights"]
    assert found.stdout.strip() == weights_sha256(written)


def strings_in(checkpoint: Path) -> set[str]:
    """The strings of the pickle, among them where each tensor was."""
    with zipfile.ZipFile(checkpoint) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        found = pickletools.genops(archive.read(pickled))
        return {argument for _, argument, _ in found if isinstance(argument, str)}
