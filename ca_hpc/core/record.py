"""What a run writes down about itself: cases, pins, submissions, attempts and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ca_hpc.core.model import Pin, TaskState


@dataclass(frozen=True, slots=True)
class Case:
    """One image (a file per channel) with its label. ``id`` is nnU-Net's case identifier."""

    id: str
    source: str
    images: tuple[str, ...]
    label: str
    subject: str
    person: str
    session: str | None
    contrast: str


@dataclass(frozen=True, slots=True)
class Cases:
    """The data of a run, found at submission: what is added later does not change the run."""

    dataset: str  # nnU-Net's name of the data set
    labels: Mapping[str, int]
    cases: tuple[Case, ...]
    channel_names: tuple[str, ...] = ()  # nnU-Net chooses the normalisation by them; (): MRI


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
