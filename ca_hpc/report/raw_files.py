"""Where the files of a case are in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ca_hpc.core.data_spec import SEEN
from ca_hpc.nnunet.raw_dataset import TRAINING_FOLDERS, folders_of_test_set
from ca_hpc.report.case_rows import FOLDS
from ca_hpc.report.model import VALIDATION, CaseScore
from ca_hpc.store.run_folder import RunFolder

SEEN_SPLITS: Final = (VALIDATION, FOLDS, *SEEN)


def raw_pair(run: RunFolder, *, dataset: str, case: str, split: str) -> tuple[Path, Path]:
    """Image (its first channel) and label map. ``split``: what cases or scores say."""
    images, labels = TRAINING_FOLDERS if split in SEEN_SPLITS else folders_of_test_set(split)
    raw = run.raw / dataset
    return raw / images / f"{case}_0000.nii.gz", raw / labels / f"{case}.nii.gz"


def predicted(run: RunFolder, score: CaseScore) -> Path:
    """The label map that ``score`` is of."""
    name = f"{score.case}.nii.gz"
    if score.split != VALIDATION:
        return run.file("test", score.arm, score.split, name)
    return dict(run.folds(score.arm))[str(score.fold)] / "validation" / name
