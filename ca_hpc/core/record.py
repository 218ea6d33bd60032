"""What a run writes down about itself: cases, pins, submissions, attempts and results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ca_hpc.core.model import Pin, TaskState
from ca_hpc.core.run_record import Image, Machine, Software


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

    ``warnings``: what the user was told at submission. ``image`` as its record described it then,
    and ``host``: what the submitting Python had installed.
    """

    ca_hpc: str
    token: str
    created: str
    weights: Pin | None
    warnings: tuple[str, ...] = ()
    image: Image | None = None
    host: Software | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of sbatch, as intended, and then with the ids of its jobs.

    ``tasks``: None for all of the elements, else only these; ``again``: earlier completed results
    of these tasks do not count. ``after``: ids of the jobs that ``condition`` is about.
    ``memory_mib``, ``exclude`` (names of nodes) and ``wait_s`` change what the stage asks for.
    ``links``: that many jobs of one element, one after another. ``by``: ``submit``, ``retry``, or
    the id of the job that made it. ``jobs``: (element id, job id); none: intended, not confirmed.
    ``refused``: what the scheduler said when it would not take it.
    """

    number: int
    stage: str
    job_name: str
    elements: tuple[str, ...]
    tasks: tuple[str, ...] | None = None
    again: bool = False
    after: tuple[str, ...] = ()
    condition: str = "afterok"
    memory_mib: int | None = None
    exclude: tuple[str, ...] = ()
    wait_s: int = 0
    links: int = 1
    by: str = "submit"
    created: str = ""
    jobs: tuple[tuple[str, str], ...] = ()
    refused: str | None = None

    @property
    def by_index(self) -> tuple[str, ...]:
        """The element of each array index."""
        return self.elements * self.links

    @property
    def confirmed(self) -> bool:
        """Whether its jobs are known."""
        return bool(self.jobs)

    @property
    def open(self) -> bool:
        """Whether nobody knows what became of it: neither jobs nor a refusal."""
        return not self.jobs and self.refused is None

    def names(self, element: str, task: str) -> bool:
        """Whether the task of this element is among those that it is for."""
        return element in self.elements and (self.tasks is None or task in self.tasks)

    def of(self, element: str) -> tuple[str, ...]:
        """Ids of the jobs of an element, in order: several where it has links."""
        return tuple(job for name, job in self.jobs if name == element)


def tasks_of(
    own: Submission,
    element: str,
    tasks: Iterable[str],
    *,
    submissions: Iterable[Submission],
    job: str,
) -> tuple[str, ...]:
    """Which tasks of an element a job of the submission ``own`` is for.

    Those that a later submission names are in other hands, unless that one is to take over from
    this ``job`` when it ends. Only what is known to be queued counts.
    """
    later = [s for s in submissions if s.number > own.number and s.confirmed and job not in s.after]
    return tuple(
        task
        for task in tasks
        if own.names(element, task) and not any(s.names(element, task) for s in later)
    )


def job_name(run: str, stage: str, *, token: str, number: int) -> str:
    """The tag of a submission: --comment is not kept by default accounting, the name is."""
    return f"{run}.{stage}.{token}.{number:04d}"


def current_jobs(submissions: Iterable[Submission]) -> dict[str, tuple[str, ...]]:
    """Ids of each element's jobs in the newest submission that has some of it; oldest first in."""
    return {e: s.of(e) for s in submissions if s.confirmed for e in s.elements}


def whole_arrays(submissions: Sequence[Submission], elements: Iterable[str]) -> tuple[str, ...]:
    """The current jobs of ``elements`` as others depend on them.

    One id for an array all of whose jobs are meant; single ids where one of its elements has been
    submitted again since, so that nobody waits for what is superseded.
    """
    current = current_jobs(submissions)
    return together(submissions, {job for element in elements for job in current.get(element, ())})


def together(submissions: Sequence[Submission], meant: Collection[str]) -> tuple[str, ...]:
    """Job ids, an array's own where all of its jobs are meant."""
    chosen = frozenset(meant)
    found: list[str] = []
    for submission in submissions:
        jobs = [job for _, job in submission.jobs]
        whole = chosen.issuperset(jobs)
        found += [job.split("_")[0] if whole else job for job in jobs if job in chosen]
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a task, as written at its start.

    ``submission``: the number of the one that its job belongs to. ``gpus``: its share of the job's.
    ``memory_mib``: of the job. ``machine``: the node, unless the attempt was given up unbegun.
    """

    number: int
    job: str
    restart: int
    host: str
    pid: int
    started: str
    argv: tuple[str, ...]
    submission: int = 0
    gpus: float = 0.0
    memory_mib: int = 0
    machine: Machine | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended.

    If it did not complete, ``failure`` is its class (``core/failures.py``), ``cause`` one sentence,
    ``hint`` the next move, and ``lines`` are those of the log that show it. ``image_mount``: the
    way in which the image was mounted (``ca_hpc/guard``).
    """

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
    failure: str | None = None
    lines: tuple[str, ...] = ()
    image_mount: str | None = None
