"""Profiles: of a cluster (where things run, never what runs) and of a model (its network)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from ca_hpc.core.data_spec import Crop
from ca_hpc.core.fields import (
    STRICT,
    Count,
    CountOrZero,
    Duration,
    Flag,
    Line,
    Name,
    Sbatch,
    Sha256,
    Size,
    Text,
)
from ca_hpc.core.model import Continuation
from ca_hpc.core.spec import ByAxis, PatchSize, Requests

Axis = Literal["RL", "AP", "SI"]
# of every image here, from stage prepare on; SCT's code, which nibabel calls L, A, S
ORIENTATION: Final = "RPI"


def _flag(value: str) -> str:
    if re.fullmatch(r"--[a-z-]+=[^{}]*\{count\}[^{}]*", value) is None:
        raise ValueError('write sbatch\'s long option with {count} in it: "--gpus=h100:{count}"')
    return value


def _key(path: str) -> str:
    if not path.endswith((".pem", ".asc")):
        raise ValueError("name a public key: .pem (openssl) or .asc (PGP)")
    if not path.startswith(("/", "~")):
        raise ValueError("write where it is from /: a profile is used from any folder")
    return path


def _each_once(axes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(axes)) != len(axes):
        raise ValueError("name each of RL, AP and SI once")
    return axes


def _orientation(code: str) -> str:
    if len(code) != 3 or any(len(set(axis) & set(code)) != 1 for axis in ("RL", "AP", "SI")):
        raise ValueError("write SCT's orientation code: RPI, LPI, …")
    return code


def _with_strides(arch_kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The patch is checked against the strides before anything is queued."""
    strides = arch_kwargs.get("strides")
    if not isinstance(strides, list) or not strides or not all(map(_is_stride, strides)):
        raise ValueError("needs strides, three whole numbers per stage: [[1, 1, 1], [2, 2, 2]]")
    return arch_kwargs


def _is_stride(stage: object) -> bool:
    return (
        isinstance(stage, list) and len(stage) == 3 and all(type(n) is int and n > 0 for n in stage)
    )


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU and what comes with each of them by default.

    ``flag`` is the site's way to ask for it, ``{count}`` standing for the number:
    ``--gpus=h100:{count}``, ``--gres=gpu:a100:{count}``, ``--gpus-per-node={count}``,
    ``--gpus=h100_3g.40gb:{count}`` (a MIG slice, ``most: 1``).
    """

    flag: Annotated[Line, AfterValidator(_flag)]
    cpus: Count
    ram: Size
    memory: Size | None = None  # of the GPU itself
    most: Count | None = None  # per job
    device: Literal["cuda", "cpu"] = "cuda"  # cpu: the lab's GPUs are device files without a GPU
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Node:
    """What one node has. The local executor schedules against this; None: all of this machine."""

    cpus: Count | None = None
    memory: Size | None = None
    gpus: CountOrZero = 0
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Folders:
    """``node_local`` may name environment variables of the job, like ``$SLURM_TMPDIR``."""

    runs: Text | None = None
    store: Text | None = None
    node_local: Text | None = None
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Limits:
    """What the site allows."""

    jobs: Count | None = None
    shortest_job: Duration | None = None
    longest_job: Duration | None = None
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Apptainer:
    """How the site calls Apptainer. ``arguments`` go right behind ``exec``."""

    executable: Text = "apptainer"
    arguments: tuple[Text, ...] = ()
    binds: tuple[Text, ...] = ()  # further folders, read-only
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Signatures:
    """Public keys, one of which must have signed every image that tasks run in.

    ``required: false`` lets images without any signature through.
    """

    keys: Annotated[tuple[Annotated[Text, AfterValidator(_key)], ...], Field(min_length=1)]
    required: Flag = True
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Images:
    """Where images are kept by sha256 (None: ``folders.store``), and whose are trusted."""

    store: Text | None = None
    signatures: Signatures | None = None
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster profile, ``configs/clusters/NAME.yaml`` or a file of your own."""

    name: Name
    executor: Literal["slurm", "local"] = "slurm"
    runtime: Literal["apptainer", "none"] = "apptainer"
    python: Text | None = None  # interpreter with ca-hpc on the nodes; None: the submitting one
    account: Line | None = None
    partition: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    gpus: Mapping[Name, Gpu] = field(default_factory=dict)
    gpu: Name | None = None  # the kind a job gets that names none; None: no GPU
    node: Node = field(default_factory=Node)
    whole_node: Flag = False  # jobs with GPUs get, and pay for, all of a node
    fuse_short_stages: Flag = False  # one job for prepare + preprocess, one for evaluate + report
    # how a task goes on after its job was interrupted: the job is queued again, or the next link
    # of an array that runs one at a time takes over, or a job that was submitted for it
    continuation: Continuation = "requeue"
    internet: Literal["nodes", "login", "none"] = "login"
    environment: tuple[Name, ...] = ("HOME", "USER", "LOGNAME", "PATH", "MODULEPATH")
    setup: tuple[Text, ...] = ()  # lines of shell before the worker: module load …
    folders: Folders = field(default_factory=Folders)
    limits: Limits = field(default_factory=Limits)
    apptainer: Apptainer = field(default_factory=Apptainer)
    images: Images = field(default_factory=Images)
    sbatch: Sbatch = field(default_factory=dict)
    resources: Requests = field(default_factory=dict)
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Network:
    """A 3D network of nnU-Net: its topology, and the anatomical axis of each of its axes, in order.

    ``arch_kwargs``, ``network_class_name`` and ``requires_import`` as in nnU-Net's plans
    ("architecture"). ``patch_size`` and ``batch_size`` are those of the pretraining.
    """

    axes: Annotated[tuple[Axis, Axis, Axis], AfterValidator(_each_once)]
    patch_size: PatchSize
    batch_size: Count
    arch_kwargs: Annotated[Mapping[str, Any], AfterValidator(_with_strides)]
    network_class_name: Text = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    requires_import: tuple[Text, ...] = ("conv_op", "norm_op", "dropout_op", "nonlin")
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """The images that weights have learnt from. None: not known."""

    orientation: Annotated[Text, AfterValidator(_orientation)] | None = None  # SCT's code
    spacing: ByAxis | None = None  # mm
    crop: Crop | Literal["none", "cord"] | None = None  # cord: cut to it, by an unknown margin
    channels: Count | None = None
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Release:
    """Where weights are published. None: not known offline; ``ca-hpc weights add`` tells it."""

    url: Text | None = None
    page: Text | None = None
    sha256: Sha256 | None = None
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Model:
    """Weights by name: ``configs/models/NAME.yaml``. ``network`` None: read from the weights."""

    name: Name
    network: Network | None = None
    trained_on: TrainedOn = field(default_factory=TrainedOn)
    release: Release = field(default_factory=Release)
    description: Text | None = None
    licence: Text | None = None
    citation: Text | None = None
    __pydantic_config__ = STRICT
