"""One fold, from wherever earlier attempts left it to its validation scores.

Importing this module imports neither torch nor nnU-Net: the environment that they read is set
first, and a signal that comes while they load is not lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ca_hpc.nnunet.folders import set_folders
from ca_hpc.nnunet.interruption import StopRequest


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


def train_fold(
    call: FoldCall, *, emit: Callable[[Mapping[str, object]], None], clock: Callable[[], float]
) -> FoldOutcome:
    """Train and validate one fold, going on from earlier attempts.

    ``emit`` takes JSON-able events; ``clock`` returns seconds. SIGTERM, SIGUSR2 and the job's end
    coming near end the call early with ``finished=False``, everything saved. Raises CaHpcError
    where files or settings do not fit. Sets nnU-Net's environment variables and torch's thread
    count for this process.
    """
    with StopRequest() as stop:
        _set_environment(call)
        from ca_hpc.nnunet.continuation import go_on

        return go_on(call, emit=emit, clock=clock, stop=stop)


def _set_environment(call: FoldCall) -> None:
    """nnU-Net reads some of these when it is imported, so this comes first."""
    set_folders(
        raw=call.preprocessed_root,  # never read in training
        preprocessed=call.preprocessed_root,
        results=call.attempt_folder / "results",
    )
    os.environ.update(
        nnUNet_n_proc_DA="0",  # the loaders' processes are ours
        nnUNet_def_n_proc="1",
    )
