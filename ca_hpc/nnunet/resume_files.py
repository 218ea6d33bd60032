"""Resume files: written whole, and the furthest sound one of all attempts taken over.

A resume file is laid out like a nnU-Net checkpoint, because trainers override ``load_checkpoint``
(the warm-up trainers choose their optimiser there), plus one key of ours for the place inside the
epoch. It holds tensors and plain values only: ``torch.load(weights_only=True)`` reads it.
"""

from __future__ import annotations

import errno
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.attempt_files import discard_checkpoints, resume_folder
from ca_hpc.nnunet.checkpoints import (
    OUR_KEY,
    UNREADABLE,
    Emit,
    first_line,
    link_or_copy,
    replacing,
    unplain,
)
from ca_hpc.nnunet.course import Course

KEPT: Final = 2
NAME: Final = re.compile(r"resume-e(\d+)-i(\d+)\.pt")
BROKEN: Final = ".broken"  # after the name of a file that was set aside
LISTINGS: Final = 20  # each one beaten by a copy of the task that drops a file
VANISHED: Final = (errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a training stands: ``iteration`` iterations of ``epoch`` (0-based) are done.

    Those of the epoch's validation are counted on from those of its training.
    """

    epoch: int
    iteration: int

    @property
    def file_name(self) -> str:
        return f"resume-e{self.epoch:05d}-i{self.iteration:05d}.pt"


@dataclass(frozen=True, slots=True)
class Resume:
    """A sound resume file: the place to go on from, without its tensors.

    ``file`` is the attempt's own, ``found`` the one that it was taken over from.
    """

    file: Path
    found: Path
    position: Position
    course: Course
    outputs: list[dict[str, Any]]
    logging: dict[str, list[Any]]
    best_ema: Any


def write_resume(folder: Path, *, position: Position, state: Mapping[str, Any]) -> Path:
    """Write the resume file of ``position`` into ``folder`` and drop all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / position.file_name
    with replacing(target) as partial:
        torch.save(dict(state), partial)
    for _, old in _listed(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return target


def take_over_newest(attempts: Sequence[Path], *, emit: Emit) -> Resume | None:
    """Make the furthest sound resume file of ``attempts`` (oldest first) one of the last of them.

    None where there is none. A file whose content is broken is renamed, so that nobody reads it
    again, and told of in a ``checkpoint-skipped`` event. One that cannot be read for another
    reason is passed over, too; raises CaHpcError where only such ones are left: starting anew
    would throw away what they hold.
    """
    own = resume_folder(attempts[-1])
    for _ in range(LISTINGS):
        try:
            return _take_over(_candidates(attempts), own=own, emit=emit)
        except OSError as error:
            if error.errno not in VANISHED:
                raise
    raise CaHpcError(
        f"The resume files in {own.parent.parent} change faster than they can be read.",
        hint="Another copy of the task is at work; retry when it has ended.",
    )


def broken_files(attempts: Sequence[Path]) -> list[Path]:
    """The resume files that were set aside."""
    return [
        file for attempt in attempts for file in resume_folder(attempt).glob(f"resume-*{BROKEN}")
    ]


def supersede(attempts: Sequence[Path]) -> bool:
    """Discard the checkpoints of all but the last of ``attempts`` where it needs them no more.

    That is when it has two whole resume files; else False.
    """
    *earlier, own = attempts
    whole = 0
    for _, file in _listed(resume_folder(own)):
        try:
            _check_archive(file)
        except ValueError:
            _set_aside(file)
        else:
            whole += 1
    if whole < KEPT:
        return False
    discard_checkpoints(earlier)
    return True


def _candidates(attempts: Sequence[Path]) -> list[tuple[Position, Path]]:
    """Resume files, furthest first; of equal ones that of the latest attempt."""
    found = [entry for attempt in attempts for entry in _listed(resume_folder(attempt))]
    # sorted() keeps equal positions in the order of the attempts
    return sorted(found, key=lambda entry: entry[0])[::-1]


def _listed(folder: Path) -> list[tuple[Position, Path]]:
    """The resume files of one folder by position, furthest last."""
    try:
        files = list(folder.iterdir())
    except FileNotFoundError:
        return []
    named = ((NAME.fullmatch(file.name), file) for file in files)
    return sorted((Position(int(name[1]), int(name[2])), file) for name, file in named if name)


def _take_over(
    candidates: Sequence[tuple[Position, Path]], *, own: Path, emit: Emit
) -> Resume | None:
    unread: list[str] = []
    for position, found in candidates:
        own.mkdir(parents=True, exist_ok=True)
        file = own / found.name
        try:
            link_or_copy(found, file)  # from here on nobody else can drop it
            return _read(file, found=found, position=position)
        except UNREADABLE as error:
            # torch.load is short of memory with a RuntimeError: that says nothing of the file
            passing = isinstance(error, OSError | RuntimeError)
            if isinstance(error, OSError) and error.errno in VANISHED:
                raise
            if file != found:
                file.unlink(missing_ok=True)
            if passing:
                unread.append(f"{found}: {first_line(error)}")
            else:
                _set_aside(found)
            emit(
                {
                    "event": "checkpoint-skipped",
                    "file": str(found),
                    "reason": first_line(error),
                    "set_aside": not passing,
                }
            )
    if unread:
        raise CaHpcError(
            f"No resume file can be read, and {len(unread)} may be sound: {unread[0]}",
            hint="Retry when the storage is well again. To start the fold anew, delete the file.",
        )
    return None


def _set_aside(file: Path) -> None:
    file.replace(file.with_name(file.name + BROKEN))


def _read(file: Path, *, found: Path, position: Position) -> Resume:
    _check_archive(file)
    content = torch.load(file, map_location="cpu", weights_only=True)
    ours = content[OUR_KEY]
    if Position(content["current_epoch"], ours["iteration"]) != position:
        raise ValueError("the file's name and its content name different positions")
    return Resume(
        file=file,
        found=found,
        position=position,
        course=Course.recorded(ours["course"]),
        outputs=unplain(ours["outputs"]),
        logging=unplain(content["logging"]),
        best_ema=unplain(content["_best_ema"]),
    )


def _check_archive(file: Path) -> None:
    """Raise ValueError unless all is there as it was written.

    ``torch.load`` does not look at the archive's checksums (torch 2.13.0): most flipped bits end
    in the weights.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (
        EOFError,
        LookupError,
        RuntimeError,
        ValueError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"not a whole archive: {first_line(error)}") from error
    if damaged is not None:
        raise ValueError(f"wrong checksum of {damaged}")
