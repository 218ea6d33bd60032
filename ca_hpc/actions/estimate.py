"""What a run will take on disk: said before it starts, since quotas count bytes and files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.core.record import Cases
from ca_hpc.core.spec import JobSpec

# Measured on 13 real images of 8 scanners, at their own spacing: bytes of nnU-Net 2.8.1's
# preprocessed case for one byte of the .nii.gz (1.6 to 1.9). Another spacing changes it.
PREPROCESSED: Final = 1.7
# two checkpoints with their optimiser, of the network that the guide fine-tunes; others differ
BYTES_OF_TRAINING: Final = 500_000_000
FILES_OF_TRAINING: Final = 20
FILES_OF_RUN: Final = 100  # records, logs, the report


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes and files of the run folder at its end, roughly; ``free`` bytes where it will be."""

    bytes: int
    files: int
    free: int

    @property
    def text(self) -> str:
        """For people."""
        return f"about {self.bytes / 1e9:.1f} GB in {self.files:,} files"


def estimate(spec: JobSpec, cases: Cases, *, runs: Path) -> Estimate:
    """Of a job: its data set, preprocessed once per distinct plans, and its trainings.

    ``runs``: the folder of runs, which may not exist yet. What is not fetched yet counts as files
    alone.
    """
    sizes = _bytes(cases)
    kinds = len({_plans(spec, name) for name in spec.arms})
    trainings = len(spec.arms) * len(spec.fold_indices)
    count = len(cases.cases)
    per_case = sum(len(case.images) + len(case.masks) + 1 for case in cases.cases)
    predictions = count * len(spec.arms)
    return Estimate(
        bytes=round(sizes * (1 + kinds * PREPROCESSED)) + trainings * BYTES_OF_TRAINING,
        # nnU-Net: image, segmentation and properties of each case, and its reference once
        files=per_case + count * (3 * kinds + 1) + predictions
        + trainings * FILES_OF_TRAINING + FILES_OF_RUN,
        free=_free(runs),
    )  # fmt: skip


def shortage(found: Estimate) -> Iterator[str]:
    """A sentence, if the run will not fit."""
    if found.bytes > found.free:
        yield (
            f"disk: the run takes {found.text}, and {found.free / 1e9:.1f} GB are free where it "
            "will be; --output names another folder"
        )


def _plans(spec: JobSpec, arm: str) -> str:
    """Arms that share this share their preprocessed data (as far as can be told here)."""
    setting = spec.arms[arm]
    return "" if setting.plans == "model" else setting.planner or spec.plans.planner


def _bytes(cases: Cases) -> int:
    """Of all files: a pack is what it is, also when one of its cases is left out."""
    archives = {case.archive for case in cases.cases if case.archive is not None}
    files = [file for case in cases.cases if case.archive is None for file in case.files]
    return sum(_size(file) for file in (*archives, *files))


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:  # of an annex, and not fetched yet
        return 0


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
