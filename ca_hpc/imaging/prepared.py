"""Converted cases on their way into the data set: a folder that may be left and taken up again.

A case's files are made in a draft folder and renamed, and its record is written last. So what a
record tells of is whole; a case without a record that still holds is done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.record import Case
from ca_hpc.core.sealed import Identity
from ca_hpc.imaging.bad_case import BadCase
from ca_hpc.imaging.convert import Conversion, Converted, convert_case
from ca_hpc.store import atomic
from ca_hpc.store.digests import identity_of, sha256_file
from ca_hpc.store.seal import read_seals, refuse_others

if TYPE_CHECKING:
    from ca_hpc.store.pack import Pack

VERSION: Final = 2  # another one where the same files would be converted otherwise


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was, without reading it; None: there was none."""

    path: str
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a case: ``converted``, or the ``problem``.

    ``settings``: digest of all that it depends on but files. ``inputs``: as they were before they
    were read. ``outputs``: the images by channel and the label map, relative to the folder; without
    their ctime, which changes when they are linked into the data set.
    """

    settings: str
    inputs: tuple[Seen, ...]
    outputs: tuple[Seen, ...] = ()
    converted: Converted | None = None
    problem: str | None = None


def settings_digest(case: Case, conversion: Conversion) -> str:
    """SHA-256 of what decides about a case's files, but for the files it is made of."""
    told = f"{VERSION}\n{encode(conversion)}{encode(case)}"
    return hashlib.sha256(told.encode()).hexdigest()


def inputs(case: Case) -> tuple[Seen, ...]:
    """The files that a case is made of, as they are now; of a pack's case the pack."""
    files = (case.archive,) if case.archive else case.files
    return tuple(_seen(Path(file), name=file) for file in files)


@dataclass(frozen=True, slots=True)
class PreparedFolder:
    """``images``, ``labels`` and ``records`` below ``path``.

    ``seals``: the record of the source files' digests, which are compared as they are read.
    """

    path: Path
    seals: Path | None = None

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
        """Convert one case and write its record; a BadCase becomes the record's problem.

        Raises DigestMismatch for files that are not those that were sealed, whatever is in them.
        """
        record = Record(settings_digest(case, conversion), inputs(case))
        draft = drafts / case.id
        draft.mkdir()
        try:
            converted = _convert(case, conversion, draft)
        except BadCase as error:
            self._refuse_others(case, _digests_now(case))  # before anybody may skip it
            record = replace(record, problem=error.message)
        else:
            self._refuse_others(case, _digests_read(case, converted))
            record = replace(record, converted=converted, outputs=tuple(self._publish(draft)))
        shutil.rmtree(draft)
        atomic.write_text(self._record(case), encode(record))

    def _record(self, case: Case) -> Path:
        return self.path / "records" / f"{case.id}.json"

    def _refuse_others(self, case: Case, found: Mapping[str, str]) -> None:
        if case.archive is None and self.seals is not None:  # a pack compares by itself
            refuse_others(found, _sealed(self.seals), what="source file")

    def _output(self, path: str) -> Seen:
        seen = _seen(self.path / path, name=path)
        unlinked = seen.identity and replace(seen.identity, ctime_ns=0)
        return replace(seen, identity=unlinked)

    def _publish(self, draft: Path) -> Iterator[Seen]:
        for name in ("images", "labels"):
            for file in sorted((draft / name).iterdir()):
                file.replace(self.path / name / file.name)
                yield self._output(f"{name}/{file.name}")


def _seen(file: Path, *, name: str) -> Seen:
    try:
        return Seen(name, identity_of(file))
    except OSError:
        return Seen(name, None)


def _digests_read(case: Case, converted: Converted) -> dict[str, str]:
    """By path, of the files that were read: of a case that is left out not all."""
    channels = zip((*case.images, *case.masks), converted.image_sha256, strict=False)
    labels = zip((label.path for label in case.labels), converted.label_sha256, strict=True)
    return dict((*channels, *labels))


def _digests_now(case: Case) -> dict[str, str]:
    """By path, of the files that are there."""
    found = {}
    for file in case.files:
        with contextlib.suppress(OSError):
            found[file] = sha256_file(Path(file))
    return found


@lru_cache(maxsize=1)
def _sealed(file: Path) -> Mapping[str, str]:
    """Digests by path; read once in each process, since there may be many."""
    return {sealed.path: sealed.sha256 for sealed in read_seals(file).files}


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
