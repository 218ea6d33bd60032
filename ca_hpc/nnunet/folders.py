"""nnU-Net's three folders. It reads them from the environment: they are set before its import."""

from __future__ import annotations

import os
from pathlib import Path

CONFIGURATION = "3d_fullres"  # fine-tuning from 3D weights knows no other
PLANNER_PLANS = "nnUNetPlans"
TRAINERS_VARIABLE = "nnUNet_extTrainer"


def set_folders(*, raw: Path, preprocessed: Path, results: Path) -> None:
    """Point nnU-Net of this process at the run's own folders."""
    folders = {"raw": raw, "preprocessed": preprocessed, "results": results}
    os.environ.update({f"nnUNet_{name}": str(folder) for name, folder in folders.items()})


def set_trainers(folder: Path) -> None:
    """Let nnU-Net 2.8.1 and later find trainers of the user's own in ``folder``, if it is there."""
    if folder.is_dir():
        os.environ[TRAINERS_VARIABLE] = str(folder)


def results_folder(*, dataset: str, trainer: str, plans: str) -> Path:
    """nnU-Net's name of a model's folder, under ``nnUNet_results``."""
    return Path(dataset) / f"{trainer}__{plans}__{CONFIGURATION}"
