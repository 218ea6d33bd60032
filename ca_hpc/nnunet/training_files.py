"""Which part of a preprocessed data set trainings and their validation read.

Imports neither torch nor nnU-Net: the worker copies these files to the node's own disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ca_hpc.nnunet.folders import CONFIGURATION


def needed_for_training(dataset: Path, *, plans: Iterable[str]) -> list[Path]:
    """Files and folders below ``dataset`` that training by ``plans`` (their names) reads.

    ``dataset``: the data set's folder in ``nnUNet_preprocessed``. Plans may share their data.
    Raises OSError, ValueError or KeyError where plans are missing or are not nnU-Net's.
    """
    needed = [
        dataset / "dataset.json",
        dataset / "dataset_fingerprint.json",  # copied beside the checkpoints
        dataset / "splits_final.json",
        dataset / "gt_segmentations",  # what the validation is scored by
    ]
    for name in plans:
        file = dataset / f"{name}.json"
        configuration = json.loads(file.read_text())["configurations"][CONFIGURATION]
        needed += [file, dataset / configuration["data_identifier"]]
    return list(dict.fromkeys(needed))
