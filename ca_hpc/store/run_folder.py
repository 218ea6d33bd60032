"""The run folder: everything about one run, in one place.

::

    job.yaml  spec.json  cluster.json      the spec as given, as resolved; the profile
    workflow.json  cases.json  pins.json   what runs, on what data, pinned to what
    model.json  weights.json  arms.json    the network, the weights' manifest, plans by arm
    submissions/NNNN-STAGE.json            one sbatch: intent, then job ids
    submissions/NNNN/                      what it is given: the script, a pickle per array index
    submitit/STAGE/                        what submitit writes: pickles and element logs
    tasks/TASK/attempts/NNNN-JOB-rN/       one folder per attempt: log.txt, progress.jsonl, …
    prepared/                              converted cases, until the data set is made of them
    cases.tsv  splits.json  test_sets.json the cases, and what each of them is used for
    nnunet/raw  nnunet/preprocessed        nnU-Net's folders, of this run alone
    plans/                                 the plans that were sealed, when nnunet/ is gone, too
    results/ARM/DATASET/TRAINER__PLANS__3d_fullres/fold_K    published folds, by arm
    trainers/                              the user's own trainers, as they were at submission
    evaluation/  report.html  exports/
    run.json  ro-crate-metadata.json       the record of all of it, made from the rest
    given/  rerun.json                     of a rerun: what it was given, and what differs

Every file has one writer and is replaced in one step (``store/atomic.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.model import TaskState, Workflow
from ca_hpc.core.record import (
    Attempt,
    Cases,
    Pins,
    Result,
    Submission,
    current_jobs,
    job_name,
)
from ca_hpc.core.run_record import Rerun
from ca_hpc.errors import CaHpcError
from ca_hpc.store import atomic

if TYPE_CHECKING:  # with pydantic behind them: a worker starts without
    from ca_hpc.core.profile import Cluster, Model
    from ca_hpc.core.spec import JobSpec

T = TypeVar("T")
RERUN = "rerun.json"
_ATTEMPT = re.compile(r"^(\d{4})-")
_PLANS = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths and records of one run."""

    path: Path

    @classmethod
    def create(cls, parent: Path, name: str) -> RunFolder:
        """Make ``parent/name-001``, or the next free number. Private to the user and the group."""
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for number in range(1, 10_000):
                folder = parent / f"{name}-{number:03d}"
                try:
                    folder.mkdir(mode=0o750)
                except FileExistsError:
                    continue
                return cls(folder)
        except OSError as error:
            raise _not_writable(parent, error) from error
        raise CaHpcError(f"{parent} is full of runs named {name}", hint="choose another name")

    @classmethod
    def next_path(cls, parent: Path, name: str) -> Path:
        """The folder that ``create`` would make now."""
        numbers = (parent / f"{name}-{number:03d}" for number in range(1, 10_000))
        try:
            return next(path for path in numbers if not path.exists())
        except OSError as error:
            raise _not_writable(parent, error) from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run. Raises CaHpcError when ``path`` holds none."""
        run = cls(path.absolute())
        if not run.file("workflow.json").is_file():
            raise CaHpcError(
                f"{path} is not a run folder (it has no workflow.json)",
                hint="name the folder that `ca-hpc submit` printed",
            )
        return run

    def file(self, *parts: str) -> Path:
        """A path inside the run folder."""
        return self.path.joinpath(*parts)

    # --- records ---------------------------------------------------------------------------

    def write(self, name: str, record: object) -> None:
        """Write a record as JSON."""
        self._write_text(name, encode(record))

    def write_spec(self, name: str, spec: object) -> None:
        """Write what a person has written (spec, profiles) or will read, with its units."""
        from ca_hpc.core import door

        self._write_text(name, door.dump(spec))

    def _write_text(self, name: str, text: str) -> None:
        path = self.file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, text)

    def _read(self, kind: type[T], name: str) -> T:
        try:
            return decode(kind, self.file(name).read_text())
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _read_spec(self, kind: type[T], name: str) -> T:
        from ca_hpc.core import door

        try:
            return door.load(kind, self.file(name).read_text())
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> CaHpcError:
        reason, *_ = str(error).split("\n")  # pydantic tells every key on a line of its own
        return CaHpcError(
            f"{self.file(name)} cannot be read: {reason}",
            hint="this run's record is damaged; submit the job again",
        )

    @property
    def spec(self) -> JobSpec:
        """The spec as resolved: paths absolute, defaults filled in."""
        from ca_hpc.core.spec import JobSpec

        return self._read_spec(JobSpec, "spec.json")

    @property
    def cluster(self) -> Cluster:
        """The profile of the cluster that the run was submitted to."""
        from ca_hpc.core.profile import Cluster

        return self._read_spec(Cluster, "cluster.json")

    @property
    def workflow(self) -> Workflow:
        """Stages, elements and tasks."""
        return self._read(Workflow, "workflow.json")

    @property
    def cases(self) -> Cases:
        """The cases of the run."""
        return self._read(Cases, "cases.json")

    @property
    def pins(self) -> Pins:
        """What the run is pinned to."""
        return self._read(Pins, "pins.json")

    @property
    def model(self) -> Model | None:
        """The model as it was at submission, its network known; None if no arm needs one."""
        if not self.file("model.json").is_file():
            return None
        from ca_hpc.core.profile import Model

        return self._read_spec(Model, "model.json")

    @property
    def arm_plans(self) -> Mapping[str, str]:
        """nnU-Net's plans name of each arm, known after the preprocess stage."""
        found = self._read(dict[str, str], "arms.json")
        for name in (*found, *found.values()):
            if not _PLANS.fullmatch(name):  # they become parts of paths
                why = ValueError(f"{name[:80]!r} is no name of plans or of an arm")
                raise self._damaged("arms.json", why)
        return found

    @property
    def rerun(self) -> Rerun | None:
        """Of which run this is one, and what was allowed to differ; None: it is a first run."""
        return self._read(Rerun, RERUN) if self.file(RERUN).is_file() else None

    def local_state(self, kind: type[T]) -> T:
        """The local executor's state."""
        return self._read(kind, "local/state.json")

    # --- submissions -----------------------------------------------------------------------

    def submissions(self) -> tuple[Submission, ...]:
        """In order of their numbers, that is as they were intended."""
        files = sorted(self.file("submissions").glob("[0-9]*-*.json"))
        return tuple(self._read(Submission, f"submissions/{file.name}") for file in files)

    def submission(self, number: int) -> Submission:
        """The submission of this number. Raises CaHpcError where there is none."""
        for submission in self.submissions():
            if submission.number == number:
                return submission
        raise CaHpcError(f"{self.path} has no submission {number}")

    def current_jobs(self) -> Mapping[str, tuple[str, ...]]:
        """Job ids by element, of the newest submission that has some of it."""
        return current_jobs(self.submissions())

    def new_submission(self, draft: Submission) -> Submission:
        """Write down what is about to be submitted, under a number and a job name of its own.

        The number is never given twice, also to another writer: of two only one makes its folder.
        """
        parent = self.file("submissions")
        parent.mkdir(exist_ok=True)
        while True:
            number = max((int(p.name) for p in parent.glob("[0-9]*[0-9]")), default=0) + 1
            try:
                self.submission_folder(number).mkdir()
            except FileExistsError:
                continue
            name = job_name(self.path.name, draft.stage, token=self.pins.token, number=number)
            return self._record(replace(draft, number=number, job_name=name))

    def confirm(self, submission: Submission, jobs: Iterable[tuple[str, str]]) -> Submission:
        """Write down the jobs (element id, job id) that a submission led to."""
        return self._record(replace(submission, jobs=tuple(jobs)))

    def refuse(self, submission: Submission, reason: str) -> Submission:
        """Write down that the scheduler would not take a submission."""
        return self._record(replace(submission, refused=reason))

    def reopen(self, submission: Submission) -> Submission:
        """Write down that a submission is intended once more: it has no jobs any longer."""
        return self._record(replace(submission, jobs=()))

    def submission_folder(self, number: int) -> Path:
        """What sbatch is given: the script and a pickle for each array index."""
        return self.file("submissions", f"{number:04d}")

    def _record(self, submission: Submission) -> Submission:
        self.write(f"submissions/{submission.number:04d}-{submission.stage}.json", submission)
        return submission

    # --- tasks -----------------------------------------------------------------------------

    def task(self, task_id: str) -> Path:
        """The task's folder."""
        return self.file("tasks", task_id)

    def attempts(self, task_id: str) -> list[Path]:
        """The task's attempt folders, oldest first."""
        return sorted(self.file("tasks", task_id, "attempts").glob("[0-9]*-*"))

    def new_attempt(self, task_id: str, *, job: str, restart: int) -> tuple[int, Path]:
        """Make the next attempt folder: its name is never used twice, also by a second writer."""
        parent = self.file("tasks", task_id, "attempts")
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            numbers = [int(m[1]) for p in parent.iterdir() if (m := _ATTEMPT.match(p.name))]
            number = max(numbers, default=0) + 1
            folder = parent / f"{number:04d}-{job}-r{restart}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return number, folder

    def attempt(self, task_id: str, name: str) -> Path:
        """The folder of the attempt of this name."""
        return self.file("tasks", task_id, "attempts", name)

    def write_attempt(self, folder: Path, record: Attempt) -> None:
        """What is known of an attempt at its start."""
        atomic.write_text(folder / "attempt.json", encode(record))

    def write_result(self, folder: Path, result: Result) -> None:
        """How an attempt ended."""
        atomic.write_text(folder / "result.json", encode(result))

    def attempt_record(self, folder: Path) -> Attempt | None:
        """What was written at the attempt's start; None where its worker died before that."""
        return self._of_attempt(Attempt, folder / "attempt.json")

    def attempt_result(self, folder: Path) -> Result | None:
        """How an attempt ended; None while it runs, and if it was killed."""
        return self._of_attempt(Result, folder / "result.json")

    def result(self, task_id: str, *, since: int = 0) -> Result | None:
        """How the task stands: its completed attempt, else the newest that has ended.

        So an old copy on a lost node, ending late, takes nothing back. None while there is none.
        ``since``: only what jobs of this submission or later ones have done.
        """
        attempts = [
            folder
            for folder in reversed(self.attempts(task_id))
            if not since or ((own := self.attempt_record(folder)) and own.submission >= since)
        ]
        ended = [self.attempt_result(folder) for folder in attempts]
        found = [result for result in ended if result is not None]
        completed = (result for result in found if result.state is TaskState.COMPLETED)
        return next(completed, found[0] if found else None)

    def _of_attempt(self, kind: type[T], file: Path) -> T | None:
        if not file.is_file():
            return None
        return self._read(kind, str(file.relative_to(self.path)))

    def job_logs(self, job: str) -> list[Path]:
        """What SLURM and the worker wrote of a job: of all its restarts, one after the other."""
        return sorted(self.file("submitit").glob(f"*/{job}_*_log.out"))

    @property
    def trainers(self) -> Path:
        """Trainers of the user's own, copied at submission; absent without any."""
        return self.file("trainers")

    # --- the data set ----------------------------------------------------------------------

    @property
    def prepared(self) -> Path:
        """Converted cases, until the data set is made of them."""
        return self.file("prepared")

    @property
    def test_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Case ids by test set, which training never sees."""
        return self._read(dict[str, tuple[str, ...]], "test_sets.json")

    # --- what must not change -------------------------------------------------------------

    @property
    def data_seals(self) -> Path:
        """Digests of all source files, taken at submission."""
        return self.file("data.json")

    @property
    def digests(self) -> Path:
        """A cache: digests of files by what they are known by without reading them."""
        return self.file("digests.json")

    # --- nnU-Net ---------------------------------------------------------------------------

    @property
    def raw(self) -> Path:
        """``nnUNet_raw``."""
        return self.file("nnunet", "raw")

    @property
    def preprocessed(self) -> Path:
        """``nnUNet_preprocessed``."""
        return self.file("nnunet", "preprocessed")

    @property
    def plans(self) -> Path:
        """nnU-Net's plans by name, kept for reruns: ``nnunet`` may go when a run has ended."""
        return self.file("plans")

    def results(self, arm: str) -> Path:
        """``nnUNet_results`` of one arm. Arms never share it: their folds have the same names."""
        return self.file("results", arm)

    def folds(self, arm: str) -> Iterator[tuple[str, Path]]:
        """Published folds of an arm: (fold, folder)."""
        for folder in sorted(self.results(arm).glob("*/*__*__*/fold_*")):
            yield folder.name.removeprefix("fold_"), folder


def inside(folder: Path, path: Path) -> Path:
    """``path``, if it lies in ``folder``. Raises CaHpcError for a link that leads out of it."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CaHpcError(
            f"{path} is not in {folder}: a link leads to {path.resolve()}",
            hint="put the file itself there, if it belongs to the run",
        )
    return path


def _not_writable(parent: Path, error: OSError) -> CaHpcError:
    return CaHpcError(
        f"cannot make a run folder in {parent}: {error.strerror}",
        hint="choose a folder that you may write to: --output FOLDER",
    )
