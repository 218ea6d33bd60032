"""Copies on the node's own disk of what trainings read again and again. What is written is not
staged: checkpoints always go to the shared storage, so that a killed job loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.core.model import Stage
from ca_hpc.nnunet.training_files import needed_for_training
from ca_hpc.store.digests import copy_hashing
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.node import Node

STAGED: Final = frozenset({"train"})
ROOM: Final = 1.5  # times the size must be free: others use the disk too


@dataclass(frozen=True, slots=True)
class Staged:
    """Where the copies are; None: read from the shared storage.

    ``image_sha256``: of the image's bytes as they were copied.
    """

    preprocessed: str | None = None
    image: str | None = None
    image_sha256: str | None = None


@contextlib.contextmanager
def stage_in(
    run: RunFolder,
    stage: Stage,
    *,
    node: Node,
    wanted: bool,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Staged]:
    """Copy image and preprocessed data for the tasks of one element; gone at the end.

    Only where the profile names a node-local folder that exists on the node. A disk that has no
    room, or gets full, is told, nothing is left on it, and the shared storage is read.
    ``stopping``: the copies are not wanted any more.
    """
    flow = run.workflow
    local = node.folder(flow.node_local)
    if not wanted or local is None or flow.staging == "never" or stage.name not in STAGED:
        yield Staged()
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(
                        prefix="ca-hpc-staged-", dir=local, ignore_cleanup_errors=True
                    )
                )
            )
        except OSError as error:
            _tell("image and data", error)
            yield Staged()
            return
        data = _data(run, folder, stopping=stopping)
        image = folder / "image.sif"
        digest = _image(run, image, stopping=stopping)
        yield Staged(data, None if digest is None else str(image), digest)


def _data(run: RunFolder, folder: Path, *, stopping: Callable[[], bool]) -> str | None:
    source, target = run.preprocessed, folder / "preprocessed"
    try:
        dataset = source / run.cases.dataset
        needed = needed_for_training(dataset, plans=set(run.arm_plans.values()))
        files = [file for path in needed for file in (_below(path) if path.is_dir() else [path])]
        _check_room(folder, sum(file.stat().st_size for file in files))
        whole = _copied(files, source, target, stopping=stopping)
    except (OSError, ValueError, KeyError) as error:  # the training will say what is missing
        _tell("the data", error)
        whole = False
    if not whole:
        shutil.rmtree(target, ignore_errors=True)  # half a copy, for as long as the training lasts
        return None
    print(f"ca-hpc: {len(files)} files of {dataset.name} copied to {target}", flush=True)
    return str(target)


def _copied(
    files: Iterable[Path], source: Path, target: Path, *, stopping: Callable[[], bool]
) -> bool:
    """Whether all of them were copied; False as soon as ``stopping`` says so. Raises OSError."""
    for file in files:
        if stopping():
            return False
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return True


def _below(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _image(run: RunFolder, target: Path, *, stopping: Callable[[], bool]) -> str | None:
    """The digest of the copy: whether it is the right one is for each attempt to say."""
    pin = run.workflow.runtime.image
    if pin is None:
        return None
    try:
        _check_room(target.parent, Path(pin.path).stat().st_size)
        found = copy_hashing(Path(pin.path), target, stopping=stopping)
    except OSError as error:
        _tell("the image", error)
        found = None
    if found is None:
        with contextlib.suppress(OSError):
            target.unlink()
    else:
        print(f"ca-hpc: {pin.path} copied to {target}", flush=True)
    return found


def _check_room(folder: Path, size_bytes: int) -> None:
    """Raises OSError where a copy of this size would leave others too little."""
    free, wanted = shutil.disk_usage(folder).free, ROOM * size_bytes
    if free < wanted:
        told = f"{free / 1e6:.0f} MB are free, {wanted / 1e6:.0f} MB should be"
        raise OSError(errno.ENOSPC, told, str(folder))


def _tell(what: str, error: Exception) -> None:
    print(f"ca-hpc: {what} could not be copied to this node ({error}): read from afar", flush=True)
