"""Converted cases on their way into the data set: a folder that may be left and taken up again.

A case's files are made in a draft folder and renamed, and its record is written last. So what a
record tells of is whole; a case without a record that still holds is done again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.record import Case
from ca_hpc.imaging.bad_case import BadCase
from ca_hpc.imaging.convert import Conversion, Converted, convert_case
from ca_hpc.store import atomic
from ca_hpc.store.digests import sha256_file

if TYPE_CHECKING:
    from ca_hpc.store.pack import Pack

VERSION: Final = 1  # another one where the same files would be converted otherwise


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is known by without reading it; zeros where there is none."""

    path: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a case: ``converted``, or the ``problem``.

    ``settings``: digest of all that it depends on but files. ``inputs``: as they were before they
    were read. ``outputs``: the images by channel and the label map, relative to the folder.
    """

    settings: str
    inputs: tuple[Identity, ...]
    outputs: tuple[Identity, ...] = ()
    converted: Converted | None = None
    problem: str | None = None


def settings_digest(case: Case, conversion: Conversion) -> str:
    """SHA-256 of what decides about a case's files, but for the files it is made of."""
    told = f"{VERSION}\n{encode(conversion)}{encode(case)}"
    return hashlib.sha256(told.encode()).hexdigest()


def inputs(case: Case) -> tuple[Identity, ...]:
    """The files that a case is made of, as they are now; of a pack's case the pack."""
    files = (case.archive,) if case.archive else case.files
    return tuple(_identity(Path(file), name=file) for file in files)


@dataclass(frozen=True, slots=True)
class PreparedFolder:
    """``images``, ``labels`` and ``records`` below ``path``."""

    path: Path

    def create(self) -> None:
        """Make what is not there."""
        for name in ("images", "labels", "records"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def clean_drafts(self, owner: str) -> None:
        """Remove what killed attempts of ``owner`` left."""
        for left in self.path.glob(f".{owner}.*"):
            shutil.rmtree(left, ignore_errors=True)

    def drafts(self, owner: str, attempt: str) -> Path:
        """A new folder for drafts of one attempt, which no other one writes into."""
        folder = self.path / f".{owner}.{attempt}"
        folder.mkdir(parents=True)
        return folder

    def record(self, case: Case, conversion: Conversion) -> Record | None:
        """The case's record, if it still holds: of these settings, these inputs, these outputs."""
        try:
            record = decode(Record, self._record(case).read_text())
        except (OSError, ValueError):
            return None
        if record.settings != settings_digest(case, conversion):
            return None
        there = tuple(self._output(output.path) for output in record.outputs)
        return record if there == record.outputs and _of_these_inputs(record, case) else None

    def prepare(self, case: Case, conversion: Conversion, *, drafts: Path) -> None:
        """Convert one case and write its record; a BadCase becomes the record's problem."""
        record = Record(settings_digest(case, conversion), inputs(case))
        draft = drafts / case.id
        draft.mkdir()
        try:
            converted = _convert(case, conversion, draft)
        except BadCase as error:
            record = replace(record, problem=error.message)
        else:
            record = replace(record, converted=converted, outputs=tuple(self._publish(draft)))
        shutil.rmtree(draft)
        atomic.write_text(self._record(case), encode(record))

    def _record(self, case: Case) -> Path:
        return self.path / "records" / f"{case.id}.json"

    def _output(self, path: str) -> Identity:
        return _identity(self.path / path, name=path)

    def _publish(self, draft: Path) -> Iterator[Identity]:
        for name in ("images", "labels"):
            for file in sorted((draft / name).iterdir()):
                file.replace(self.path / name / file.name)
                yield self._output(f"{name}/{file.name}")


def _identity(file: Path, *, name: str) -> Identity:
    try:
        seen = file.stat()
    except OSError:
        return Identity(name, 0, 0, 0)
    return Identity(name, seen.st_size, seen.st_mtime_ns, seen.st_ino)


def _of_these_inputs(record: Record, case: Case) -> bool:
    if record.inputs == inputs(case):
        return True
    # copied or touched, and perhaps the same bytes all the same
    if case.archive or record.converted is None:
        return False
    known = (*record.converted.image_sha256, *record.converted.label_sha256)
    try:
        return known == tuple(sha256_file(Path(file)) for file in case.files)
    except OSError:
        return False


def _convert(case: Case, conversion: Conversion, draft: Path) -> Converted:
    images, labels, members = (draft / name for name in ("images", "labels", "members"))
    for folder in (images, labels, members):
        folder.mkdir()
    if case.archive is None:
        return convert_case(case, conversion, images=images, labels=labels)

    def by_member(told: str) -> str:  # a draft's name tells nobody anything
        return told.replace(f"{members}/", f"{case.archive}: ")

    try:
        files = _taken(case, _pack(case.archive), into=members)
        done = convert_case(files, conversion, images=images, labels=labels)
    except BadCase as error:
        raise BadCase(by_member(error.message), hint=error.hint) from error
    return replace(done, left_out=by_member(done.left_out)) if done.left_out else done


def _taken(case: Case, pack: Pack, *, into: Path) -> Case:
    """``case`` with its members as files."""
    # one file may hold several labels
    files = {member: str(pack.take(member, into=into)) for member in dict.fromkeys(case.files)}
    return replace(
        case,
        images=tuple(files[member] for member in case.images),
        masks=tuple(files[member] for member in case.masks),
        labels=tuple(replace(label, path=files[label.path]) for label in case.labels),
        archive=None,
    )


@lru_cache(maxsize=4)
def _pack(archive: str) -> Pack:
    from ca_hpc.store.pack import Pack

    return Pack.open(Path(archive))
