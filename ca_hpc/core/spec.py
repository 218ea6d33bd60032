"""The job spec: what a user writes in one YAML file. Frozen; every default is visible here.

Reading is in ``core/door.py``. Relative paths count from the folder of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from pydantic import Field, Strict

from ca_hpc.core.fields import (
    STRICT,
    Count,
    CountOrZero,
    Duration,
    Flag,
    Fraction,
    Index,
    Name,
    Number,
    Sbatch,
    Size,
    Text,
)

StageName = Literal["prepare", "preprocess", "train", "evaluate", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True, slots=True)
class PersonByPattern:
    """Who a case belongs to: the first group of a regular expression on the subject label."""

    pattern: Text
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class PersonByColumn:
    """Who a case belongs to: a column of the table (``participants.tsv``, the pairs, …)."""

    column: Text
    __pydantic_config__ = STRICT


Person = PersonByPattern | PersonByColumn


@dataclass(frozen=True, slots=True)
class BidsSource:
    """A BIDS folder with labels in a derivatives folder. ``contrasts``: what file names end in."""

    type: Literal["bids"]
    path: Text
    label_suffix: Text
    name: Name | None = None
    labels: Text = "derivatives/labels"
    contrasts: tuple[Text, ...] = ()
    sessions: tuple[Text, ...] = ()
    person: Person | None = None
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class NnunetSource:
    """A raw nnU-Net data set (``imagesTr``, ``labelsTr``, ``dataset.json``)."""

    type: Literal["nnunet"]
    path: Text
    name: Name | None = None
    contrast: Text = "MRI"
    person: PersonByPattern | None = None
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class PairsSource:
    """A table (.csv or .tsv): columns image, label, subject and, if wanted, session, contrast."""

    type: Literal["pairs"]
    path: Text
    name: Name | None = None
    person: Person | None = None
    __pydantic_config__ = STRICT


Source = Annotated[BidsSource | NnunetSource | PairsSource, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class ByAxis:
    """Three numbers by anatomical axis: right-left, anterior-posterior, superior-inferior."""

    RL: Number
    AP: Number
    SI: Number
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class PatchSize:
    """Voxels by anatomical axis."""

    RL: Count
    AP: Count
    SI: Count
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Plans:
    """How nnU-Net plans. ``patch_size`` and ``batch_size``: of the plans patched for the model."""

    planner: Name = "ExperimentPlanner"
    gpu_memory: Size | None = None
    spacing: ByAxis | None = None  # mm; None: nnU-Net chooses
    patch_size: PatchSize | None = None  # None: the model's own
    batch_size: Count | None = None  # None: the model's own
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Splits:
    """K folds by person, never by case. ``seed`` shuffles the people."""

    folds: Annotated[int, Strict(), Field(ge=2)] = 5
    seed: Index = 12345
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Training:
    """One arm's training. Epochs and iterations as in nnU-Net; any number is possible."""

    epochs: Count = 100
    iterations_per_epoch: Count = 250
    validation_iterations_per_epoch: Count = 50
    initial_learning_rate: Number | None = None  # None: the trainer's own (0.01)
    trainer: Name = "nnUNetTrainer"
    seed: Index = 0
    workers: CountOrZero | None = None  # augmentation processes; None: one less than the CPUs
    checkpoint_every: Duration = 600
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the trainings that are compared. What is None comes from ``training``."""

    weights: Literal["pretrained", "random"] = "pretrained"
    plans: Literal["model", "planner"] = "model"
    epochs: Count | None = None
    iterations_per_epoch: Count | None = None
    initial_learning_rate: Number | None = None
    trainer: Name | None = None
    __pydantic_config__ = STRICT


DEFAULT_ARMS: Mapping[str, Arm] = {
    "finetune": Arm(weights="pretrained", plans="model"),
    "scratch": Arm(weights="random", plans="planner"),
}


@dataclass(frozen=True, slots=True)
class Validation:
    """Sliding window of the validation: tile step as a fraction of the patch, 8-fold mirroring."""

    tile_step: Fraction = 0.5
    mirroring: Flag = True
    checkpoint: Literal["final", "best"] = "final"
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class StageRequest:
    """What one stage asks of the cluster. What is None comes from the cluster profile."""

    time: Duration | None = None
    cpus: Count | None = None
    memory: Size | None = None
    gpu: Name | None = None
    gpus: CountOrZero | None = None
    pack: Count | None = None  # tasks in one array element
    at_once: Count | None = None  # array elements that run at the same time
    sbatch: Sbatch = field(default_factory=dict)
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class FinetuneSpec:
    """``kind: finetune``: fine-tune nnU-Net from pretrained weights and compare with other arms."""

    kind: Literal["finetune"]
    name: Name
    cluster: Text
    data: Annotated[tuple[Source, ...], Field(min_length=1)]
    weights: Text | None  # a checkpoint file, or "image": the one that the image carries
    model: Text | None = None  # a profile in configs/models; None: what the checkpoint says
    image: Text | None = None  # a SIF, or SIF@sha256:…
    runtime: Literal["apptainer", "none"] | None = None  # None: the cluster's
    output: Text | None = None  # folder of runs; None: the cluster's, else ./ca-hpc-runs
    labels: Mapping[Name, Count] = field(default_factory=lambda: {"cord": 1})
    plans: Plans = field(default_factory=Plans)
    splits: Splits = field(default_factory=Splits)
    folds: Literal["all"] | tuple[Index, ...] = "all"
    arms: Annotated[Mapping[Name, Arm], Field(min_length=1)] = field(
        default_factory=lambda: dict(DEFAULT_ARMS)
    )
    training: Training = field(default_factory=Training)
    validation: Validation = field(default_factory=Validation)
    threads: Count | None = None  # of torch per task; None: the task's share of the CPUs
    resources: Mapping[StageName, StageRequest] = field(default_factory=dict)
    __pydantic_config__ = STRICT

    @property
    def fold_indices(self) -> tuple[int, ...]:
        """The folds to train, ascending."""
        return tuple(range(self.splits.folds)) if self.folds == "all" else tuple(sorted(self.folds))
