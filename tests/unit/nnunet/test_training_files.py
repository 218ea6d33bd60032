"""A copy of what is named as needed is enough to train and validate by."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ca_hpc
from ca_hpc.nnunet.calls import FoldCall
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.training_files import needed_for_training
from tests.blobs import DATASET, Preprocessed


def test_a_copy_of_what_is_needed_is_enough(
    make_call: Callable[..., FoldCall], blobs: Preprocessed, tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    (stage / DATASET).mkdir(parents=True)
    for path in needed_for_training(blobs.dataset_folder, plans=["nnUNetPlans", "nnUNetPlans"]):
        target = stage / path.relative_to(blobs.root)
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
    shutil.copytree(stage, before := tmp_path / "before")
    there = train_fold(make_call(attempt_folder=tmp_path / "a"), emit=print, clock=time.monotonic)
    call = make_call(
        plans_file=stage / DATASET / "nnUNetPlans.json",
        dataset_json_file=stage / DATASET / "dataset.json",
        preprocessed_root=stage,
        attempt_folder=tmp_path / "b",
    )
    here = train_fold(call, emit=print, clock=time.monotonic)
    assert here.finished and here.weights_sha256 == there.weights_sha256
    assert content(stage) == content(before)  # and nothing is written there


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_naming_them_imports_neither_torch_nor_nnunet() -> None:
    program = (
        "import sys, ca_hpc.nnunet.training_files;"
        "sys.exit(bool({'torch', 'nnunetv2'} & set(sys.modules)))"
    )
    repository = Path(ca_hpc.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=repository).returncode == 0
