"""What training and prediction are asked for, and what comes back; without torch or nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """``tile_step`` is a share of the patch; ``workers`` loader processes, 0 loads in-process.

    With 0 ``epochs`` the network is saved and validated as it starts. ``probabilities``: the
    validation also writes them, as nnU-Net's ``--save_probabilities`` does.
    """

    epochs: int
    iterations_per_epoch: int
    validation_iterations_per_epoch: int
    seed: int
    initial_learning_rate: float | None
    workers: int
    checkpoint_every_s: float
    tile_step: float
    mirroring: bool
    validation_checkpoint: Literal["final", "best"]
    warmup_epochs: int = 0
    frozen_encoder_epochs: int = 0
    probabilities: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """The weights to start from. ``sha256`` is the file's, verified before it is read.

    ``shuffled``: their values in random places, the control that shows what the pretraining is
    worth. ``stem``: whether the first convolution may be repeated over more input channels than
    the weights have. ``head``: the layers that give the segmentation.
    """

    weights: Literal["pretrained", "shuffled"]
    file: Path
    sha256: str | None
    stem: Literal["exact", "repeat"] = "exact"
    head: Literal["new", "pretrained"] = "new"


@dataclass(frozen=True, slots=True)
class FoldCall:
    """``earlier_attempts`` are the attempt folders of the same task, oldest first.

    ``start`` None: from random weights. ``ends_at_s``: when the job ends, by ``train_fold``'s
    clock; None: not known.
    """

    trainer: str
    plans_file: Path
    dataset_json_file: Path
    configuration: str
    fold: int | Literal["all"]
    preprocessed_root: Path
    attempt_folder: Path
    earlier_attempts: tuple[Path, ...]
    start: Start | None
    device: Literal["cuda", "cpu"]
    torch_threads: int
    settings: TrainingSettings
    ends_at_s: float | None = None

    @property
    def attempts(self) -> tuple[Path, ...]:
        """Oldest first; this one may have been begun before."""
        return (*self.earlier_attempts, self.attempt_folder)


@dataclass(frozen=True, slots=True)
class FoldOutcome:
    """``weights_sha256`` is over the tensors validated with (``checkpoints.weights_sha256``)."""

    finished: bool
    fold_folder: Path
    epochs_done: int
    resumed_from: str | None
    pretrained_sha256: str | None
    weights_sha256: str | None = None
    summary_file: Path | None = None


@dataclass(frozen=True, slots=True)
class PredictionCall:
    """``model_folder``: with ``plans.json`` and ``dataset.json``; ``checkpoints`` by fold.

    ``raw_folder``: the raw data set; ``test_sets``: case ids by set. ``output_folder``, which
    nobody else writes into, takes ``SET/CASE.nii.gz``; ``earlier_folders`` are those of others.
    ``tile_step`` is a share of the patch. ``ends_at_s``: when the job ends, by
    ``predict_test_sets``'s clock; None: not known.
    """

    trainer: str
    model_folder: Path
    configuration: str
    checkpoints: Mapping[str, Path]
    raw_folder: Path
    test_sets: Mapping[str, Sequence[str]]
    output_folder: Path
    earlier_folders: tuple[Path, ...]
    device: Literal["cuda", "cpu"]
    torch_threads: int
    tile_step: float
    mirroring: bool
    probabilities: bool
    ends_at_s: float | None = None
