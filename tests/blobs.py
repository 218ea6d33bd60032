"""A small data set that nnU-Net itself fingerprinted, planned and preprocessed, and calls on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ca_hpc.nnunet.calls import FoldCall, TrainingSettings

DATASET = "Dataset901_Blobs"
NESTED = "Dataset902_Nested"
CASES = tuple(f"blob_{index}" for index in range(6))
SPLITS = [
    {"train": list(CASES[:4]), "val": list(CASES[4:])},
    {"train": list(CASES[2:]), "val": list(CASES[:2])},
]
SHAPE = (20, 24, 22)


@dataclass(frozen=True)
class Preprocessed:
    root: Path
    plans_file: Path
    dataset_json_file: Path

    @property
    def dataset_folder(self) -> Path:
        return self.plans_file.parent

    @property
    def raw(self) -> Path:
        return self.root.parent / "raw" / self.dataset_folder.name

    @property
    def of_call(self) -> dict[str, Path]:
        """What ``make_call`` is to be told of a data set other than the blobs."""
        return {
            "plans_file": self.plans_file,
            "dataset_json_file": self.dataset_json_file,
            "preprocessed_root": self.root,
        }


def write_blob(folder: Path, case: str, *, seed: int) -> None:
    """An image of a bright ball in noise and its label, ``SHAPE`` voxels of 1 mm."""
    rng = np.random.default_rng(seed)
    distance = np.linalg.norm(
        np.moveaxis(np.indices(SHAPE), 0, -1) - rng.uniform(7, 13, 3), axis=-1
    )
    ball = distance < rng.uniform(4, 6)
    save(folder / f"imagesTr/{case}_0000.nii.gz", (rng.normal(size=SHAPE) + 4 * ball).astype("f4"))
    save(folder / f"labelsTr/{case}.nii.gz", ball.astype("u1"))


def write_nested(folder: Path, case: str, *, seed: int) -> None:
    """A ball (1) with a brighter one in it (2), and a mask around both as second channel."""
    rng = np.random.default_rng(seed)
    distance = np.linalg.norm(
        np.moveaxis(np.indices(SHAPE), 0, -1) - rng.uniform(8, 12, 3), axis=-1
    )
    label = (distance < 6).astype("u1") + (distance < 3)
    image = rng.normal(size=SHAPE) + 4 * label
    save(folder / f"imagesTr/{case}_0000.nii.gz", image.astype("f4"))
    save(folder / f"imagesTr/{case}_0001.nii.gz", (distance < 8).astype("f4"))
    save(folder / f"labelsTr/{case}.nii.gz", label.astype("u1"))


def save(file: Path, array: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), file)


def environment(root: Path) -> dict[str, str]:
    """What nnU-Net reads while ``preprocess`` is at work in ``root``."""
    return {
        "nnUNet_raw": str(root / "raw"),
        "nnUNet_preprocessed": str(root / "preprocessed"),
        "nnUNet_results": str(root / "results"),
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",  # planning breaks with 0
    }


def blobs_in(root: Path) -> Preprocessed:
    """``preprocess_blobs`` for those who do not go on to use nnU-Net in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(root).items():
            patch.setenv(name, value)
        return preprocess_blobs(root)


def preprocess_blobs(root: Path) -> Preprocessed:
    """Images of one ball each."""
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "blob": 1},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    return preprocess(root, DATASET, dataset=dataset, write=write_blob)


def preprocess(
    root: Path, name: str, *, dataset: dict[str, Any], write: Callable[..., None]
) -> Preprocessed:
    for seed, case in enumerate(CASES):
        write(root / "raw" / name, case, seed=seed)
    (root / "raw" / name / "dataset.json").write_text(json.dumps(dataset))
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    number = int(name.removeprefix("Dataset").split("_")[0])
    nnunet.extract_fingerprint_dataset(number, num_processes=1, show_progress_bar=False)
    nnunet.plan_experiment_dataset(number)
    folder = root / "preprocessed" / name
    plans_file = folder / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    shrink(plans["configurations"]["3d_fullres"])
    plans_file.write_text(json.dumps(plans))
    nnunet.preprocess_dataset(
        number, configurations=("3d_fullres",), num_processes=[1], show_progress_bar=False
    )
    (folder / "splits_final.json").write_text(json.dumps(SPLITS))
    return Preprocessed(folder.parent, plans_file, folder / "dataset.json")


def shrink(configuration: dict[str, Any]) -> None:
    """A network of three stages with 4, 8 and 16 features, batches of two 16 x 16 x 16 patches."""
    configuration.update(patch_size=[16, 16, 16], batch_size=2)
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=3,
        features_per_stage=[4, 8, 16],
        kernel_sizes=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[1, 1, 1],
        n_conv_per_stage_decoder=[1, 1],
    )


SETTINGS = TrainingSettings(
    epochs=2,
    iterations_per_epoch=3,
    validation_iterations_per_epoch=1,
    seed=7,
    initial_learning_rate=None,
    workers=0,
    checkpoint_every_s=1e9,
    tile_step=1.0,
    mirroring=False,
    validation_checkpoint="final",
)


def fold_call(data: Preprocessed, attempt_folder: Path, **changes: Any) -> FoldCall:
    """``fold_call(data, folder, epochs=3, fold=1)``: with these fields or settings changed."""
    call = FoldCall(
        trainer="nnUNetTrainer",
        plans_file=data.plans_file,
        dataset_json_file=data.dataset_json_file,
        configuration="3d_fullres",
        fold=0,
        preprocessed_root=data.root,
        attempt_folder=attempt_folder,
        earlier_attempts=(),
        start=None,
        device="cpu",
        torch_threads=1,
        settings=SETTINGS,
    )
    ours = {key: changes.pop(key) for key in list(changes) if hasattr(SETTINGS, key)}
    return replace(call, settings=replace(SETTINGS, **ours), **changes)
