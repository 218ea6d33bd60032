"""The job spec: what a user writes in one YAML file. Frozen; every default is visible here.

Reading is in ``core/door.py``. Relative paths count from the folder of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import Field

from ca_hpc.core.data_spec import Crop, Folds, Label, Prepare, Source, SplitFile, Splits
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
    Slice,
    Text,
    consistent,
)
from ca_hpc.core.model import SLICED
from ca_hpc.core.retry_spec import Retry
from ca_hpc.core.units import format_duration

StageName = Literal["prepare", "preprocess", "train", "predict", "evaluate", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)


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
    """How nnU-Net plans, and how its plans are patched for the model.

    ``axes``: ``anatomical`` brings the data onto the axes that the weights were trained on;
    ``recipe`` leaves them to the planner, as the transfer-learning guide does, whatever comes out.
    ``spacing`` of the patched plans: the model's, the planner's choice for the data set, or mm
    (then of the planner's plans too). ``patch_size: auto``: the legal size closest to the planner's
    that fits the memory.
    """

    planner: Name = "ExperimentPlanner"
    gpu_memory: Size | None = None
    axes: Literal["anatomical", "recipe"] = "anatomical"
    # None: the model's where it is known; with axes: recipe the data set's
    spacing: Literal["model", "dataset"] | ByAxis | None = None
    patch_size: PatchSize | Literal["auto"] | None = None  # None: the model's own
    batch_size: Count | None = None  # None: as many voxels a step as the model's own, if they fit
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Training:
    """One arm's training. Epochs and iterations as in nnU-Net; any number is possible.

    ``epochs: 0`` takes the network as it is after loading the weights. In the first
    ``warmup_epochs`` the learning rate rises to the initial one; in the first
    ``frozen_encoder_epochs`` only the decoder learns.
    """

    epochs: CountOrZero = 100
    iterations_per_epoch: Count = 250
    validation_iterations_per_epoch: Count = 50
    initial_learning_rate: Number | None = None  # None: the trainer's own (0.01)
    warmup_epochs: CountOrZero = 0
    frozen_encoder_epochs: CountOrZero = 0
    trainer: Name = "nnUNetTrainer"
    seed: Index = 0
    workers: CountOrZero | None = None  # augmentation processes; None: one less than the CPUs
    checkpoint_every: Duration = 600
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the trainings that are compared. What is None comes from ``training``.

    ``weights: shuffled`` is a control: the pretrained values, permuted within each tensor.
    ``head: pretrained`` keeps the output layers too, which nnU-Net makes anew for each task.
    """

    weights: Literal["pretrained", "random", "shuffled"] = "pretrained"
    head: Literal["new", "pretrained"] = "new"
    plans: Literal["model", "planner"] = "model"
    planner: Name | None = None  # of plans: planner; None: plans.planner
    epochs: CountOrZero | None = None
    iterations_per_epoch: Count | None = None
    initial_learning_rate: Number | None = None
    warmup_epochs: CountOrZero | None = None
    frozen_encoder_epochs: CountOrZero | None = None
    trainer: Name | None = None
    __pydantic_config__ = STRICT


Kind = Literal["finetune", "train"]
DEFAULT_ARMS: Final[Mapping[Kind, Mapping[str, Arm]]] = {
    "finetune": {
        "finetune": Arm(weights="pretrained", plans="model"),
        "scratch": Arm(weights="random", plans="planner"),
    },
    "train": {"train": Arm(weights="random", plans="planner")},
}


@dataclass(frozen=True, slots=True)
class Validation:
    """Sliding window of the validation: tile step as a fraction of the patch, 8-fold mirroring.

    ``probabilities`` keeps the soft output beside each mask (.npz), as nnU-Net does on request.
    """

    tile_step: Fraction = 0.5
    mirroring: Flag = True
    checkpoint: Literal["final", "best"] = "final"
    probabilities: Flag = False
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class StageRequest:
    """What one stage asks of the cluster. What is None comes from the cluster profile."""

    time: Duration | None = None
    slice: Slice | None = None  # longest job: a task that takes longer goes on in the next one
    cpus: Count | None = None
    memory: Size | None = None
    gpu: Name | None = None
    gpus: CountOrZero | None = None
    pack: Count | None = None  # tasks in one array element
    at_once: Count | None = None  # array elements that run at the same time
    sbatch: Sbatch = field(default_factory=dict)
    __pydantic_config__ = STRICT


def _cut(requests: Mapping[StageName, StageRequest]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Slices of what cannot be cut, or need not be."""
    for stage, asked in requests.items():
        if asked.slice is None:
            continue
        if stage not in SLICED:
            yield (stage, "slice"), f"only {' and '.join(sorted(SLICED))} can be cut; take it out"
        elif asked.time is not None and asked.slice > asked.time:
            yield (
                (stage, "slice"),
                f"{format_duration(asked.slice)} is longer than the time, "
                f"{format_duration(asked.time)}, of which it is to be a part; take it out, or "
                "write a shorter one",
            )


#: by stage, in a job and in a cluster profile
Requests: TypeAlias = Annotated[Mapping[StageName, StageRequest], consistent(_cut)]


@dataclass(frozen=True, slots=True)
class JobSpec:
    """``kind: finetune``: fine-tune nnU-Net from pretrained weights and compare with other arms.
    ``kind: train``: train it from random ones. ``completed`` fills in what depends on the kind.

    ``regions``: what is learnt instead of the labels, each as the label values it is made of.
    ``mask_channels``: masks that the network gets as further input channels, by name, and the
    suffix of their files.
    """

    kind: Kind
    name: Name
    cluster: Text
    data: Annotated[tuple[Source, ...], Field(min_length=1)]
    # a model profile's name, sha256:…, a file, or "image": the one it carries
    weights: Text | None = None
    model: Text | None = None  # a profile in configs/models; None: the weights' own
    stem: Literal["exact", "repeat"] = "exact"  # repeat: weights of fewer channels than the data
    image: Text | None = None  # FILE.sif[@sha256:…], NAME or sha256:… (of the store), oras://…
    runtime: Literal["apptainer", "none"] | None = None  # None: the cluster's
    output: Text | None = None  # folder of runs; None: the cluster's, else ./ca-hpc-runs
    labels: Mapping[Name, Count | Label] = field(default_factory=lambda: {"cord": 1})
    regions: Mapping[Name, Annotated[tuple[Count, ...], Field(min_length=1)]] = field(
        default_factory=dict
    )
    mask_channels: Mapping[Name, Text] = field(default_factory=dict)
    crop: Crop | Literal["none"] = "none"
    prepare: Prepare = field(default_factory=Prepare)
    plans: Plans = field(default_factory=Plans)
    splits: Splits = field(default_factory=Folds)
    folds: Literal["all"] | tuple[Index, ...] = "all"
    arms: Mapping[Name, Arm] = field(default_factory=dict)  # none: DEFAULT_ARMS of the kind
    training: Training = field(default_factory=Training)
    trainers: Text | None = None  # a folder with trainers of your own (nnUNet_extTrainer)
    validation: Validation = field(default_factory=Validation)
    threads: Count | None = None  # of torch per task; None: the task's share of the CPUs
    # auto: where the cluster names a node-local folder, trainings read image and data from there
    stage: Literal["auto", "never"] = "auto"
    retry: Retry = field(default_factory=dict)
    max_gpu_hours: Number | None = None  # of the whole run
    resources: Requests = field(default_factory=dict)
    __pydantic_config__ = STRICT

    @property
    def pretrained(self) -> bool:
        """Whether any arm reads the weights' tensors."""
        return any(arm.weights != "random" for arm in self.arms.values())

    @property
    def fold_count(self) -> int:
        """How many folds the splits make: one, where they are not K folds."""
        return self.splits.folds if isinstance(self.splits, Folds) else 1

    @property
    def fold_indices(self) -> tuple[int, ...]:
        """The folds to train, ascending."""
        return tuple(range(self.fold_count)) if self.folds == "all" else tuple(sorted(self.folds))

    @property
    def may_hold_out(self) -> bool:
        """Whether cases may end in test sets, as far as the job itself tells."""
        splits = [self.splits, *(s.split for s in self.data if s.type != "pack")]
        lists = any(source.type in ("msd", "pack") for source in self.data)
        named = any(source.type != "pack" and source.test_set for source in self.data)
        return (
            lists
            or named
            or any(
                isinstance(split, SplitFile) or (split is not None and split.test > 0)
                for split in splits
            )
        )

    @property
    def label_rules(self) -> Mapping[str, Label]:
        """The labels, with everything that may be said of them."""
        return {
            name: label if isinstance(label, Label) else Label(label)
            for name, label in self.labels.items()
        }

    @property
    def label_values(self) -> Mapping[str, int]:
        """The value of each label in the label map."""
        return {name: rule.value for name, rule in self.label_rules.items()}


def completed(spec: JobSpec) -> JobSpec:
    """``spec`` with the arms of its kind, where it names none."""
    return spec if spec.arms else replace(spec, arms=dict(DEFAULT_ARMS[spec.kind]))
