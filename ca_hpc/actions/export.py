"""Export an arm's model: checked here, made where nnU-Net is, in the run's own runtime."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.attempts.evidence import tail
from ca_hpc.attempts.evidence import told as told_by
from ca_hpc.core.codec import encode
from ca_hpc.core.export import REQUEST_NAME, ZIP_NAME, ExportRequest, Kept
from ca_hpc.core.failures import Evidence, diagnose
from ca_hpc.core.model import Command, Mount, Resources, Stage, Task
from ca_hpc.errors import CaHpcError, TaskFailed
from ca_hpc.images.record import verify_image
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.lock import held
from ca_hpc.store.progress import read_events
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.command import Place, started_command

FOLDER: Final = "exports"
_DRAFT: Final = ".making-"
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Exported:
    """``missing``: folds of the arm that are not published, or were not asked for."""

    file: Path
    sha256: str
    size_bytes: int
    arm: str
    folds: tuple[str, ...]
    missing: tuple[str, ...]


def export(
    run: RunFolder,
    *,
    arm: str | None = None,
    folds: Sequence[int] | None = None,
    checkpoint: Kept = "final",
    output: Path | None = None,
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> Exported:
    """Make the zip of ``arm``'s published folds; ``None`` takes the only arm, and all its folds.

    ``output``: a file or a folder; None: ``RUN/exports``. ``environment``: this process's. ``say``
    is told each fold. Raises CaHpcError, and then leaves nothing behind.
    """
    arm = _arm(run, arm)
    request = ExportRequest(_folds(run, arm, folds), checkpoint)
    size = _check_files(run, arm, request)
    target = _target(run, arm, request, whole=folds is None, output=output)
    with _attempt(run, say=say) as attempt:
        _check_space(attempt, size=size)
        (attempt / REQUEST_NAME).write_text(encode(request))
        _make(run, arm, attempt=attempt, environment=environment, say=say)
        made = attempt / ZIP_NAME
        sha256, size = sha256_file(made), made.stat().st_size
        _move(made, target)
    wanted = dict.fromkeys(map(str, run.spec.fold_indices))
    return Exported(
        file=target,
        sha256=sha256,
        size_bytes=size,
        arm=arm,
        folds=request.folds,
        missing=tuple(fold for fold in wanted if fold not in request.folds),
    )


def _arm(run: RunFolder, given: str | None) -> str:
    arms = list(run.spec.arms)
    if given is None and len(arms) == 1:
        return arms[0]
    if given in arms:
        return given
    known = ", ".join(arms)
    raise CaHpcError(
        f"{run.path.name} has the arms {known}" if given is None else f"there is no arm {given}",
        hint=f"name one: --arm {arms[0]}" if given is None else f"known: {known}",
    )


def _folds(run: RunFolder, arm: str, asked: Sequence[int] | None) -> tuple[str, ...]:
    published = tuple(dict.fromkeys(fold for fold, _ in run.folds(arm)))
    wanted = published if asked is None else tuple(dict.fromkeys(map(str, asked)))
    absent = [fold for fold in wanted if fold not in published]
    if not published or absent:
        told = ", ".join(published) or "none"
        missing = f"fold {', '.join(absent)} of arm {arm}" if absent else f"any fold of arm {arm}"
        raise CaHpcError(
            f"{run.path.name} has not published {missing}; published: {told}",
            hint=f"ca-hpc status {run.path} tells how its training stands",
        )
    return wanted


def _check_files(run: RunFolder, arm: str, request: ExportRequest) -> int:
    """The size of the zip, about: a checkpoint's optimiser state is as large as its network."""
    files = {
        fold: folder / request.checkpoint_name
        for fold, folder in run.folds(arm)
        if fold in request.folds
    }
    for fold, file in files.items():
        if not file.is_file():
            raise CaHpcError(
                f"fold {fold} of arm {arm} has no {file.name}",
                hint="nnU-Net keeps a best checkpoint of trainings with epochs only"
                if request.checkpoint == "best"
                else f"it was there when the fold was published: {file.parent}",
            )
    return sum(file.stat().st_size for file in files.values()) // 2


def _target(
    run: RunFolder, arm: str, request: ExportRequest, *, whole: bool, output: Path | None
) -> Path:
    parts = [run.path.name, arm]
    parts += [] if whole else ["fold" + "-".join(request.folds)]
    parts += [] if request.checkpoint == "final" else [request.checkpoint]
    name = "-".join(parts) + ".zip"
    if output is None:
        return run.file(FOLDER, name)
    target = output.absolute() / name if output.is_dir() else output.absolute()
    if target.exists():
        raise CaHpcError(f"{target} is there already", hint="remove it, or name another file")
    if not target.parent.is_dir():
        raise CaHpcError(f"there is no folder {target.parent}", hint="make it first")
    return target


@contextmanager
def _attempt(run: RunFolder, *, say: Callable[[str], None]) -> Iterator[Path]:
    """A folder of the run for the step's files; gone afterwards. One export at a time."""
    parent = run.file(FOLDER)
    lock = parent / ".lock"
    try:
        parent.mkdir(exist_ok=True)
        lock.touch()
    except OSError as error:
        raise CaHpcError(
            f"{parent} cannot be written to: {error.strerror}",
            hint="the export is made inside the run: ask its owner to do it",
        ) from error
    with held(lock, waiting=lambda: say("another export of this run goes first: waiting")):
        for left in parent.glob(f"{_DRAFT}*"):  # by one that was killed: it had the lock
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_DRAFT, dir=parent) as folder:
            yield Path(folder)


def _check_space(folder: Path, *, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CaHpcError(
            f"the export needs about {size / 1e6:.0f} MB, and {folder.parent} has "
            f"{free / 1e6:.0f} MB left",
            hint="free some space, or export fewer folds: --folds 0",
        )


def _make(
    run: RunFolder,
    arm: str,
    *,
    attempt: Path,
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    """Run the step to its end. Raises TaskFailed with what it says."""
    image = run.workflow.runtime.image
    if image is not None:
        verify_image(Path(image.path), image.sha256, cache=run.digests)
    with tempfile.TemporaryDirectory(prefix="ca-hpc-") as work_folder:
        (Path(work_folder) / "home").mkdir()
        command = _command(
            run, arm, attempt=attempt, work_folder=work_folder, environment=environment
        )
        try:
            child = processes.start(command.argv, env=command.environment, log=attempt / "log.txt")
        except processes.ProgramMissing as error:
            raise CaHpcError(
                error.message,
                hint="export runs where tasks do: on a machine with the run's "
                + ("Apptainer; maybe `module load apptainer`" if image else "Python"),
            ) from error
        try:
            told = 0
            while child.poll() is None:
                time.sleep(_POLL_S)
                told = _tell(attempt, told=told, say=say)
        finally:
            if child.poll() is None:
                child.terminate()
            child.wait()
    if child.returncode != 0:
        raise _failure(attempt, child.returncode)
    _tell(attempt, told=told, say=say)


def _command(
    run: RunFolder, arm: str, *, attempt: Path, work_folder: str, environment: Mapping[str, str]
) -> Command:
    # not the run's own mounts: data and weights may be gone, and the run may have moved
    workflow = dataclasses.replace(run.workflow, mounts=(Mount(str(run.path), writable=True),))
    task = Task("export", "ca_hpc.steps.export", ("--run", str(run.path), "--arm", arm))
    stage = Stage(
        name="export",
        elements=(),
        resources=Resources(time_s=0, cpus=1, memory_mib=0),
        sbatch={},
        at_once=1,
    )
    return started_command(
        task,
        stage,
        workflow,
        Place(
            attempt=str(attempt),
            work_folder=work_folder,
            slots=1,
            visible_gpus="",
            environment=environment,
        ),
    )


def _tell(attempt: Path, *, told: int, say: Callable[[str], None]) -> int:
    """Say the folds that are new since ``told``; returns how many are told now."""
    events = read_events(attempt)
    for event in events[told:]:
        say(f"fold {event['fold']}: {event['done']} of {event['total']}")
    return len(events)


def _failure(attempt: Path, status: int) -> TaskFailed:
    lines = tail(attempt / "log.txt")
    verdict = diagnose(Evidence(exit_status=status, told=told_by(attempt), lines=lines))
    shown = "".join(f"\n  | {line}" for line in verdict.lines)
    return TaskFailed(f"the export failed: {verdict.cause}{shown}", hint=verdict.hint)


def _move(made: Path, target: Path) -> None:
    """Put the zip where it belongs, in one step; also onto another disk."""
    draft = target.with_name(f".{target.name}.part")
    try:
        shutil.move(made, draft)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CaHpcError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="choose another file: --output FILE.zip",
        ) from error
