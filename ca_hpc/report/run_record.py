"""From a run folder to its record: what was run, with what, and what came of it.

All of it is written down elsewhere first, by whoever knows it; here it is put together, and every
file that nobody has sealed is given its digest as it is now.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from ca_hpc.core.arms import arm_training
from ca_hpc.core.codec import decode
from ca_hpc.core.model import Pin, TaskState, training_id
from ca_hpc.core.record import Case
from ca_hpc.core.remarks import remarks
from ca_hpc.core.run_record import (
    ArmRecord,
    AttemptRecord,
    File,
    Fold,
    Image,
    RunRecord,
    Settings,
    Software,
)
from ca_hpc.core.spec import Arm, JobSpec
from ca_hpc.core.states import GOES_ON
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.folders import CONFIGURATION
from ca_hpc.report.scores import FOLDER as EVALUATION
from ca_hpc.store.digests import cached_sha256, sha256_file
from ca_hpc.store.progress import read_events
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, read_seals

T = TypeVar("T")
RECORD: Final = "run.json"
OWN_TASK: Final = "report"  # runs while the last record is written
_OVER: Final = (TaskState.COMPLETED, TaskState.FAILED)
_LARGE_BYTES: Final = 8 << 20  # what is worth remembering the digest of
_RESULTS: Final = ("data.html", "report.html")
# what a training says at its start, and how the record calls it
_TOLD: Final = {"cudnn": "cudnn", "cpu_capability": "torch-cpu-capability"}


def compose(run: RunFolder) -> RunRecord:
    """The record of a run as it stands now; the same files give the same record.

    ``state``: as the results say, COMPLETED, FAILED (a task has ended otherwise), RUNNING or
    PENDING; nobody is asked. What was sealed has the digest that it was sealed with. ``warnings``:
    without those about the data, which may name subjects. Sizes are 0 of files that are elsewhere
    and gone. Raises CaHpcError for a run whose records cannot be read.
    """
    spec, pins, data = run.spec, run.pins, run.cases
    cases, about_data = data.cases, remarks(data)
    tasks = [task.id for task in run.workflow.tasks if task.id != OWN_TASK]
    state = _state(run, tasks)
    try:
        return RunRecord(
            format=1,
            name=run.path.name,
            created=pins.created,
            state=state.value,
            host=pins.host or Software({"ca-hpc": pins.ca_hpc}),
            job=_inside(run, "job.yaml"),
            spec=_inside(run, "spec.json"),
            cluster=_inside(run, "cluster.json"),
            cases=len(cases),
            people=_people(cases),
            ended=_last(run, tasks) if state in _OVER else None,
            data=_there(run, run.data_seals.name),
            image=pins.image or _image(run),
            weights=_pinned(pins.weights),
            splits=_sealed(run, "splits.json"),
            test_sets=_sealed(run, "test_sets.json"),
            trainers=tuple(_trainers(run)),
            arms={name: _arm(run, spec, name) for name in spec.arms},
            attempts=tuple(_attempts(run)),
            results=tuple(_results(run)),
            warnings=tuple(text for text in pins.warnings if text not in about_data),
            rerun=run.rerun,
        )
    except OSError as error:
        raise CaHpcError(
            f"{error.filename or run.path} cannot be read: {error.strerror}",
            hint="the record of a run needs all of its files: check permissions and quota",
        ) from error


def record_file(run: RunFolder) -> File:
    """The file of the record. Raises OSError before it is written."""
    return _inside(run, RECORD)


def _state(run: RunFolder, tasks: Collection[str]) -> TaskState:
    """Of the tasks but the report's own."""
    reported = max((_begun(run, folder) for folder in run.attempts(OWN_TASK)), default="")
    states = {_task_state(run, task, reported=reported) for task in tasks}
    for state in (TaskState.FAILED, TaskState.RUNNING):
        if state in states:
            return state
    if states == {TaskState.COMPLETED}:
        return TaskState.COMPLETED
    return TaskState.RUNNING if TaskState.COMPLETED in states else TaskState.PENDING


def _task_state(run: RunFolder, task: str, *, reported: str) -> TaskState:
    """COMPLETED, FAILED, RUNNING or PENDING. ``reported``: when the report was begun last.

    What was interrupted goes on, until the report begins: it waits for all others.
    """
    attempts, result = run.attempts(task), run.result(task)
    if not attempts:
        return TaskState.PENDING
    if result is not None and result.state is TaskState.COMPLETED:
        return TaskState.COMPLETED
    newest = run.attempt_result(attempts[-1])
    goes_on = newest is None or newest.state in GOES_ON
    later = not reported or _begun(run, attempts[-1]) > reported
    return TaskState.RUNNING if goes_on and later else TaskState.FAILED


def _begun(run: RunFolder, attempt: Path) -> str:
    """When; empty where its worker died before it could say so."""
    record = run.attempt_record(attempt)
    return record.started if record else ""


def _last(run: RunFolder, tasks: Collection[str]) -> str | None:
    """When the last task ended, of those that could say so."""
    results = (run.result(task) for task in tasks)
    return max((result.ended for result in results if result is not None), default=None)


def _people(cases: tuple[Case, ...]) -> int:
    return len({(case.people or case.source, case.person) for case in cases})


# --- files -------------------------------------------------------------------------------------


def _inside(run: RunFolder, *parts: str) -> File:
    """A file of the run. Raises OSError."""
    path = run.file(*parts)
    size = path.stat().st_size
    large = size > _LARGE_BYTES
    digest = cached_sha256(path, cache=run.digests) if large else sha256_file(path)
    return File(path.relative_to(run.path).as_posix(), digest, size)


def _there(run: RunFolder, *parts: str) -> File | None:
    """The same; None while it is not there."""
    return _inside(run, *parts) if run.file(*parts).is_file() else None


def _sealed(run: RunFolder, *parts: str) -> File | None:
    """A file as it was when it was made, if that was written down; None while it is not there."""
    path = run.file(*parts)
    for sealed in read_seals(path.parent / SEALS).files:
        if sealed.path == path.name and path.is_file():
            return File(
                path.relative_to(run.path).as_posix(), sealed.sha256, sealed.identity.size_bytes
            )
    return _there(run, *parts)


def _trainers(run: RunFolder) -> Iterator[File]:
    """As they were at submission, whatever has become of them."""
    for sealed in read_seals(run.trainers / SEALS).files:
        path = f"{run.trainers.name}/{sealed.path}"
        yield File(path, sealed.sha256, sealed.identity.size_bytes)


def _below(run: RunFolder, folder: Path) -> Iterator[File]:
    """All files of a folder of the run, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield _inside(run, str(path.relative_to(run.path)))


def _pinned(pin: Pin | None) -> File | None:
    """A file that the run is pinned to: its digest is what was asked for, and checked there."""
    if pin is None:
        return None
    path = Path(pin.path)
    return File(pin.path, pin.sha256, path.stat().st_size if path.is_file() else 0)


def _image(run: RunFolder) -> Image | None:
    file = _pinned(run.workflow.runtime.image)
    return None if file is None else Image(file)


def _results(run: RunFolder) -> Iterator[File]:
    """Tables, pages, and nnU-Net's own scores of each fold; checkpoints are the folds'."""
    yield from _below(run, run.file(EVALUATION))
    for name in _RESULTS:
        if (file := _there(run, name)) is not None:
            yield file
    for arm in run.spec.arms:
        for _, folder in run.folds(arm):
            scores = _there(run, str(folder.relative_to(run.path)), "validation", "summary.json")
            if scores is not None:
                yield scores


# --- arms --------------------------------------------------------------------------------------


def _arm(run: RunFolder, spec: JobSpec, name: str) -> ArmRecord:
    return ArmRecord(
        plans=_plans(run, name),
        settings=_settings(run, spec, spec.arms[name], name=name),
        folds=dict(_folds(run, name)),
    )


def _plans(run: RunFolder, arm: str) -> File | None:
    """The plans that the arm's folds are trained by; None before they are made."""
    if not run.file("arms.json").is_file() or arm not in (names := run.arm_plans):
        return None
    return _sealed(run, run.plans.name, f"{names[arm]}.json")


def _settings(run: RunFolder, spec: JobSpec, arm: Arm, *, name: str) -> Settings:
    """``threads`` and ``workers``: as the last training of the arm said at its start."""
    training = arm_training(spec.training, arm)
    told = _last_start(run, spec, name)
    return Settings(
        trainer=training.trainer,
        configuration=CONFIGURATION,
        epochs=training.epochs,
        iterations_per_epoch=training.iterations_per_epoch,
        validation_iterations_per_epoch=training.validation_iterations_per_epoch,
        seed=training.seed,
        initial_learning_rate=training.initial_learning_rate,
        warmup_epochs=training.warmup_epochs,
        frozen_encoder_epochs=training.frozen_encoder_epochs,
        weights=arm.weights,
        threads=told.get("torch_threads"),
        workers=told.get("workers"),
    )


def _last_start(run: RunFolder, spec: JobSpec, arm: str) -> Mapping[str, Any]:
    tasks = [training_id(arm, fold) for fold in spec.fold_indices]
    starts = [start for task in tasks for a in run.attempts(task) if (start := _start(a))]
    return starts[-1] if starts else {}


def _start(attempt: Path) -> Mapping[str, Any]:
    """What a training said when it began; nothing of other tasks."""
    return next((e for e in read_events(attempt) if e["event"] == "start"), {})


def _folds(run: RunFolder, arm: str) -> Iterator[tuple[str, Fold]]:
    for fold, folder in run.folds(arm):
        here = str(folder.relative_to(run.path))
        checkpoint = _there(run, here, "checkpoint_final.pth")
        if checkpoint is not None:
            attempts = len(run.attempts(training_id(arm, int(fold)))) if fold.isdigit() else 0
            yield fold, Fold(_weights_sha256(folder, fold), checkpoint, attempts)


def _weights_sha256(folder: Path, fold: str) -> str:
    """Over the trained tensors, as the validation wrote it down; empty where it did not."""
    try:
        told = json.loads((folder / "validation" / "predicted_by.json").read_text())
        return str(told["weights_sha256"][fold])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


# --- attempts ----------------------------------------------------------------------------------


def _attempts(run: RunFolder) -> Iterator[AttemptRecord]:
    """Of all tasks, in the order of the workflow. UNKNOWN: it has left no result, or not yet."""
    for task in run.workflow.tasks:
        for folder in run.attempts(task.id):
            begun, ended = run.attempt_record(folder), run.attempt_result(folder)
            if begun is None:  # its worker died before it could say anything
                continue
            yield AttemptRecord(
                task=task.id,
                attempt=folder.name,
                started=begun.started,
                state=(ended.state if ended else TaskState.UNKNOWN).value,
                ended=ended.ended if ended else None,
                exit_code=ended.exit_code if ended else None,
                failure=ended.failure if ended else None,
                machine=begun.machine,
                software=_software(run, folder),
            )


def _software(run: RunFolder, attempt: Path) -> Software | None:
    """What the step had installed, and what torch said of itself if it trained."""
    found = _record(run, Software, str(attempt.relative_to(run.path) / "software.json"))
    if found is None:
        return None
    start = _start(attempt)
    told = {ours: str(start[theirs]) for theirs, ours in _TOLD.items() if start.get(theirs)}
    return Software({**found.versions, **told}, found.commit)


def _record(run: RunFolder, kind: type[T], name: str) -> T | None:
    """A record that need not be there. Raises CaHpcError where it is not one."""
    file = run.file(name)
    if not file.is_file():
        return None
    try:
        return decode(kind, file.read_text())
    except ValueError as error:
        raise CaHpcError(f"{file} cannot be read: {error}", hint="it is damaged") from error
