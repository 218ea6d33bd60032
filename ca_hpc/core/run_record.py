"""What one run was, in one record: ``run.json``. Values only: no environment, no secrets.

Nothing is recorded here first. ``report/run_record.py`` composes it from what the run's parts wrote
about themselves, so it can be deleted and made again; a copy at another site stands for the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class File:
    """A file by its content. ``path``: relative to the run folder where it is in there."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_mib: int
    driver: str


@dataclass(frozen=True, slots=True)
class Machine:
    """The node that an attempt ran on. ``cpus``: those that the job was given."""

    host: str
    cpu: str
    cpus: int
    memory_mib: int
    kernel: str
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, slots=True)
class Software:
    """Versions by name, as far as known: ca-hpc, python, torch, nnunetv2, cuda, apptainer, …"""

    versions: Mapping[str, str]
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """``content_sha256``: of its squashfs partition, which two builds of one recipe share."""

    file: File
    content_sha256: str | None = None
    recipe_sha256: str | None = None
    reference: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """What determined the trainings of an arm, as it was used."""

    trainer: str
    configuration: str
    epochs: int
    iterations_per_epoch: int
    validation_iterations_per_epoch: int
    seed: int
    initial_learning_rate: float | None
    warmup_epochs: int
    frozen_encoder_epochs: int
    weights: str  # random, pretrained or shuffled
    threads: int | None
    workers: int | None


@dataclass(frozen=True, slots=True)
class Fold:
    """``weights_sha256``: over the trained tensors; equal for equal trainings."""

    weights_sha256: str
    checkpoint: File
    attempts: int


@dataclass(frozen=True, slots=True)
class ArmRecord:
    plans: File | None
    settings: Settings | None
    folds: Mapping[str, Fold] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    task: str
    attempt: str
    started: str
    state: str
    ended: str | None = None
    exit_code: int | None = None
    failure: str | None = None
    machine: Machine | None = None
    software: Software | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One aspect of a run and of its rerun. ``unknown``: not recorded, or only a node can tell."""

    aspect: str
    before: str
    now: str
    verdict: Literal["same", "expected", "drift", "unknown"]


@dataclass(frozen=True, slots=True)
class Rerun:
    """Of which run this is one, and the differences that were allowed by name."""

    of: File
    allowed: tuple[str, ...] = ()
    drift: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``data``: the manifest of all source files, ``cases`` and ``people`` their numbers."""

    format: Literal[1]
    name: str
    created: str
    state: str
    host: Software
    job: File
    spec: File
    cluster: File
    cases: int
    people: int
    ended: str | None = None
    data: File | None = None
    image: Image | None = None
    weights: File | None = None
    splits: File | None = None
    test_sets: File | None = None
    trainers: tuple[File, ...] = ()
    arms: Mapping[str, ArmRecord] = field(default_factory=dict)
    attempts: tuple[AttemptRecord, ...] = ()
    results: tuple[File, ...] = ()
    warnings: tuple[str, ...] = ()
    rerun: Rerun | None = None
