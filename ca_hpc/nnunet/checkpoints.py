"""Checkpoints: written atomically, read without running code, the newest sound one found.

A resume file is laid out like a nnU-Net checkpoint, because trainers override ``load_checkpoint``
(the warm-up trainers choose their optimiser there), plus one key of ours for the place inside the
epoch. It holds tensors and plain values only: ``torch.load(weights_only=True)`` reads it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from ca_hpc.errors import CaHpcError

Emit: TypeAlias = Callable[[Mapping[str, object]], None]

OUR_KEY: Final = "ca_hpc"
KEPT: Final = 2
RESUME_NAME: Final = re.compile(r"resume-e(\d+)-i(\d+)\.pt")
# What torch.load raises for truncated, empty, altered or foreign files: its unpickler interprets
# whatever it gets, so that a text file can end in an IndexError.
UNREADABLE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a training stands: ``iteration`` iterations of ``epoch`` (0-based) are done."""

    epoch: int
    iteration: int

    @property
    def file_name(self) -> str:
        return f"resume-e{self.epoch:05d}-i{self.iteration:05d}.pt"


@dataclass(frozen=True, slots=True)
class Course:
    """What determines the course of a training: a continuation must agree in all of it."""

    trainer: str
    configuration: str
    fold: str
    plans_sha256: str
    epochs: int
    iterations_per_epoch: int
    validation_iterations_per_epoch: int
    seed: int
    initial_learning_rate: float | None
    warmup_epochs: int
    frozen_encoder_epochs: int
    weights: str  # random, pretrained or shuffled; of random ones the next three are None
    pretrained_sha256: str | None
    stem: str | None
    head: str | None

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Course:
        """The course that a file names. Raises KeyError where a field is missing."""
        return cls(**{field.name: record[field.name] for field in fields(cls)})

    def must_equal(self, other: Course, *, place: Path) -> None:
        """Raise CaHpcError, naming every difference, unless ``other`` (from ``place``) agrees."""
        ours, theirs = asdict(self), asdict(other)
        differing = [
            f"  {name}: {theirs[name]} there, {ours[name]} asked for"
            for name in ours
            if ours[name] != theirs[name]
        ]
        if differing:
            raise CaHpcError(
                f"The training in {place} cannot be continued with other settings:\n"
                + "\n".join(differing),
                hint="Set them back, or submit a new run: the learning rate schedule and the "
                "order of the batches depend on them.",
            )


@dataclass(frozen=True, slots=True)
class Resume:
    """A sound resume file: the place to go on from, without its tensors."""

    file: Path
    position: Position
    course: Course
    train_outputs: list[dict[str, Any]]
    logging: dict[str, list[Any]]
    best_ema: Any


@contextmanager
def replacing(target: Path, *, drafts: Path | None = None) -> Iterator[Path]:
    """Yield a path beside ``target``; what is written there becomes ``target``, whole or not.

    The name's ending is kept, because image writers choose the format by it. ``drafts``: a folder
    of this process alone on the same file system, where another one may write the same target.
    """
    partial = (drafts or target.parent) / f".partial-{target.name}"
    partial.unlink(missing_ok=True)  # a killed process may have left a link to another's file
    try:
        yield partial
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Let ``target`` be the file ``source``, by a hard link where the file system has them."""
    if target.exists() and target.samefile(source):
        return
    with replacing(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def write_resume(folder: Path, *, position: Position, state: Mapping[str, Any]) -> Path:
    """Write the resume file of ``position`` into ``folder`` and drop all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / position.file_name
    with replacing(target) as partial:
        torch.save(dict(state), partial)
    for _, old in _resume_files(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return target


def newest_valid(folders: Sequence[Path], *, emit: Emit) -> Resume | None:
    """The furthest sound resume file in ``folders`` (oldest attempt first), or None.

    Broken files are reported as ``checkpoint-skipped`` events and left where they are.
    """
    found = [(position, file) for folder in folders for position, file in _resume_files(folder)]
    # sorted() keeps equal positions in the order of the attempts
    for position, file in sorted(found, key=lambda entry: entry[0])[::-1]:
        try:
            return _read_resume(file, position=position)
        except UNREADABLE as error:
            emit({"event": "checkpoint-skipped", "file": str(file), "reason": _first_line(error)})
    return None


def weights_sha256(weights: Mapping[str, Any]) -> str:
    """One digest over names, types, shapes and values of a state dict, independent of devices."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """Numpy values inside dicts, lists and tuples as tagged plain values, without loss."""
    if isinstance(value, np.generic):
        return {"numpy": value.dtype.name, "scalar": value.item()}
    if isinstance(value, np.ndarray):
        return {"numpy": value.dtype.name, "array": value.tolist()}
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return value


def unplain(value: Any) -> Any:
    """The inverse of ``plain`` (tuples come back as lists)."""
    if isinstance(value, dict) and "numpy" in value:
        dtype = np.dtype(value["numpy"])
        return dtype.type(value["scalar"]) if "scalar" in value else np.array(value["array"], dtype)
    if isinstance(value, dict):
        return {key: unplain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [unplain(member) for member in value]
    return value


def _resume_files(folder: Path) -> list[tuple[Position, Path]]:
    """The resume files of one folder by position, furthest last."""
    if not folder.is_dir():
        return []
    named = ((RESUME_NAME.fullmatch(file.name), file) for file in folder.iterdir())
    return sorted((Position(int(name[1]), int(name[2])), file) for name, file in named if name)


def _read_resume(file: Path, *, position: Position) -> Resume:
    content = torch.load(file, map_location="cpu", weights_only=True)
    ours = content[OUR_KEY]
    if Position(content["current_epoch"], ours["iteration"]) != position:
        raise ValueError("the file's name and its content name different positions")
    return Resume(
        file=file,
        position=position,
        course=Course.recorded(ours["course"]),
        train_outputs=unplain(ours["train_outputs"]),
        logging=unplain(content["logging"]),
        best_ema=unplain(content["_best_ema"]),
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
