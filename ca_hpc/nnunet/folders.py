"""nnU-Net's three folders. It reads them from the environment, so they are set before its import."""

from __future__ import annotations

import os
from pathlib import Path

CONFIGURATION = "3d_fullres"  # fine-tuning from 3D weights knows no other
PLANNER_PLANS = "nnUNetPlans"


def set_folders(*, raw: Path, preprocessed: Path, results: Path) -> None:
    """Point nnU-Net of this process at the run's own folders."""
    os.environ["nnUNet_raw"] = str(raw)
    os.environ["nnUNet_preprocessed"] = str(preprocessed)
    os.environ["nnUNet_results"] = str(results)


def results_folder(*, dataset: str, trainer: str, plans: str) -> Path:
    """nnU-Net's name of a model's folder, under ``nnUNet_results``."""
    return Path(dataset) / f"{trainer}__{plans}__{CONFIGURATION}"
