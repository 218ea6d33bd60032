"""What a run writes down about itself: cases, pins, submissions, attempts and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ca_hpc.core.model import Pin, TaskState


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label file: the mask of one ``label``, or a map of all of them (None)."""

    path: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One image (a file per channel) with its labels. ``id`` is nnU-Net's case identifier.

    ``masks``: files of further input channels, in the order of the spec's ``mask_channels``.
    ``people``: within which names of persons mean the same person; a source's own, or shared.
    ``split``: what source or list say, ``train``, ``val`` or the name of a test set; None: to be
    divided. ``archive``: the pack whose members the files are.
    """

    id: str
    source: str
    images: tuple[str, ...]
    labels: tuple[LabelFile, ...]
    subject: str
    person: str
    session: str | None
    contrast: str
    people: str = ""
    masks: tuple[str, ...] = ()
    pathology: str | None = None
    split: str | None = None
    archive: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All of them: images, masks, labels."""
        return (*self.images, *self.masks, *(label.path for label in self.labels))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a source's files came from: a commit of a repository, or a pack of this sha256."""

    source: str
    url: str
    ref: str | None = None
    commit: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Cases:
    """The data of a run, found at submission: what is added later does not change the run.

    ``labels``: values of the label map. ``regions``: what is learnt instead, as sets of these
    values, outer ones first. ``mask_channels``: names of the masks that follow the images as
    channels. ``remarks``: what the user should know of the data.
    """

    dataset: str  # nnU-Net's name of the data set
    labels: Mapping[str, int]
    cases: tuple[Case, ...]
    channel_names: tuple[str, ...] = ()  # all; nnU-Net chooses the normalisation by them; (): MRI
    mask_channels: tuple[str, ...] = ()
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    origins: tuple[Origin, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def targets(self) -> Mapping[str, tuple[int, ...]]:
        """What is learnt and scored, each as the values of the label map that belong to it."""
        return self.regions or {name: (value,) for name, value in self.labels.items()}


@dataclass(frozen=True, slots=True)
class Pins:
    """What a run is pinned to. ``token`` marks its jobs' names, so that they can be found again.

    ``warnings``: what the user was told at submission.
    """

    ca_hpc: str
    token: str
    created: str
    weights: Pin | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Submission:
    """One stage's submission. ``job_ids`` by element id; empty: intended, not confirmed.

    ``refused``: what the scheduler said when it would not take it; then nothing of the run is
    queued.
    """

    stage: str
    job_name: str
    job_ids: Mapping[str, str] = field(default_factory=dict)
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a task, as written at its start."""

    number: int
    job: str
    restart: int
    host: str
    pid: int
    started: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended. ``cause``: one sentence, and ``hint``: the next move, if it failed."""

    task: str
    attempt: str
    state: TaskState
    exit_code: int
    started: str
    ended: str
    seconds: float
    host: str
    cause: str | None = None
    hint: str | None = None
