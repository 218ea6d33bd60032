"""Writing a pack (``store/pack.py``): each file is read once, memory stays small."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError
from ca_hpc.store import sealed_tar_writer
from ca_hpc.store.pack import FORMAT, KIND, Manifest, Pack, Progress, problems
from ca_hpc.store.sealed_tar import Member, fits
from ca_hpc.store.sealed_tar_writer import Content, places, write_sealed

_MOST_TOLD: Final = 20
_ROOM: Final = 16  # bytes of a member's name, for what tells it from others
_ENDINGS: Final = (".nii.gz", ".nii")  # which tell an image; of others none is kept
_READ: Final = "fetch or repair it, or exclude its subject"


def write_pack(cases: Cases, target: Path, *, ca_hpc: str, progress: Progress) -> str:
    """Write the files of ``cases`` as a pack; its sha256. Raises CaHpcError, as check_target does.

    ``target`` appears when it is whole. The same cases and files give the same bytes. A file that
    is used twice is there once.
    """
    check_target(target)
    named, contents = _members(cases)

    def manifest(files: Mapping[str, Member]) -> Manifest:
        return Manifest(FORMAT, ca_hpc, named, files)

    if problem := next(problems(manifest(places(contents))), None):  # nobody could read it
        raise CaHpcError(f"this cannot be packed: {problem}", hint="correct it in the data")
    return write_sealed(contents, target, kind=KIND, manifest=manifest, progress=progress)


def check_target(target: Path) -> None:
    """Refuse what a pack must not take the place of: all but an older pack. Raises CaHpcError."""
    sealed_tar_writer.check_target(target, KIND)


def _members(cases: Cases) -> tuple[Cases, list[Content]]:
    """``cases`` with members as paths, and the members by name. Raises CaHpcError."""
    tops = _tops(cases)
    names: dict[tuple[str | None, str], str] = {}
    contents: dict[str, Content] = {}
    unread: list[str] = []
    opened = functools.cache(lambda archive: Pack.open(Path(archive)))

    def name_of(case: Case, path: str) -> str:
        real = path if case.archive else os.path.realpath(path)
        if (case.archive, real) not in names:
            wanted = path if case.archive else _name(case.source, path, tops[case.source])
            name = _unused(_fitting(wanted, source=case.source), contents)
            names[case.archive, real] = name
            pack = None if case.archive is None else opened(case.archive)
            try:
                contents[name] = _content(name, pack, path)
            except OSError as error:
                unread.append(f"{path}: {error.strerror}")
                contents[name] = Content(name, 0, _nothing)
        return names[case.archive, real]

    packed = []
    for case in cases.cases:
        images = tuple(name_of(case, path) for path in case.images)
        masks = tuple(name_of(case, path) for path in case.masks)
        labels = tuple(replace(of, path=name_of(case, of.path)) for of in case.labels)
        packed.append(replace(case, images=images, masks=masks, labels=labels, archive=None))
    if unread:
        told = "\n".join(unread[:_MOST_TOLD])
        raise CaHpcError(f"{len(unread)} files cannot be packed\n{told}", hint=_READ)
    return replace(cases, cases=tuple(packed)), [contents[name] for name in sorted(contents)]


def _tops(cases: Cases) -> Mapping[str, str]:
    """The folder that all files of a source lie in."""
    folders: dict[str, set[str]] = {}
    for case in cases.cases:
        if case.archive is None:
            parents = folders.setdefault(case.source, set())
            parents.update(str(_absolute(path).parent) for path in case.files)
    return {source: os.path.commonpath(parents) for source, parents in folders.items()}


def _name(source: str, path: str, top: str) -> str:
    relative = os.path.relpath(_absolute(path), top)
    plain = "".join(c if c.isprintable() and c != "\\" else "_" for c in relative)
    return f"{source}/{plain}"


def _fitting(name: str, *, source: str) -> str:
    """``name``; of one that is too long the source, its digest and the ending."""
    if fits(name, room=_ROOM):
        return name
    ending = next(filter(name.endswith, _ENDINGS), "")
    return f"{source}/{hashlib.sha256(name.encode()).hexdigest()}{ending}"


def _absolute(path: str) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))


def _unused(name: str, taken: Mapping[str, object]) -> str:
    number, unused = 1, name
    while unused in taken:
        number += 1
        folder, _, last = name.rpartition("/")
        unused = f"{folder}/{number}-{last}"
    return unused


def _content(name: str, pack: Pack | None, path: str) -> Content:
    """Raises OSError and CaHpcError."""
    if pack is not None:
        return Content(name, pack.member(path).bytes, lambda: pack.chunks(path))
    return Content.of_file(name, Path(path), hint=_READ)


def _nothing() -> Iterator[bytes]:
    return iter(())
