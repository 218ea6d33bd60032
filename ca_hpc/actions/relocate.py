"""Where the files of recorded cases are now: known by their content, wherever they lie."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.sources.names import is_image
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.pack import Pack, is_pack
from ca_hpc.store.seal import in_threads

Place: TypeAlias = tuple[str | None, str]  # a pack and its member; None and a file's path
_MOST_TOLD: Final = 5


@dataclass(frozen=True, slots=True)
class Holding:
    """Files by their sha256: paths, or members of the pack ``archive``."""

    files: Mapping[str, str]
    archive: str | None = None


@dataclass(frozen=True, slots=True)
class Relocated:
    """``cases`` with the places of their files, and ``by_content``: what these files hold now.

    ``changed``: a sentence for each file that is another one than was recorded.
    """

    cases: Cases
    by_content: Cases
    changed: tuple[str, ...] = ()


def holding(place: Path, *, cache: DigestCache) -> Holding:
    """What a folder or a pack holds. A pack's manifest knows; a folder's images are read once.

    Raises CaHpcError for what is neither.
    """
    place = place.absolute()  # nodes work in folders of their own
    if place.is_dir():
        files = list(_images(place))
        digests = in_threads(lambda file: cache.sealed(file).sha256, files)
        cache.save()
        return Holding(dict(zip(digests, map(str, files), strict=True)))
    if place.is_file() and is_pack(place):
        pack = Pack.open(place)
        members = {known.sha256: name for name, known in pack.files.items()}
        return Holding(members, archive=str(pack.path))
    raise CaHpcError(
        f"{place} holds no data: it is neither a folder nor a pack",
        hint="--data FOLDER-OR-PACK, with the images that the run was trained on",
    )


def relocate(
    cases: Cases, holdings: Sequence[Holding], *, former: Mapping[str, Case], cache: DigestCache
) -> Relocated:
    """Find the files of ``cases``, which go by their content.

    First where they were (``former``, by id), then in ``holdings``: of folders each file in any of
    them, of packs the whole case in one. What is nowhere is taken from its former place as it is
    now: ``by_content`` then differs. Raises CaHpcError with all cases whose files are not all here,
    DigestMismatch where some of them are: the others have been changed.
    """
    now = _as_they_are(former.values(), cache=cache)
    files = {digest: file for (pack, file), digest in now.items() if pack is None}
    for held in holdings:
        if held.archive is None:
            files = {**held.files, **files}
    places = (Holding(files), *(held for held in holdings if held.archive is not None))

    def found(case: Case) -> tuple[Case, Case] | None:
        old = former.get(case.id)
        held_now = None if old is None else _by_content(old, now)
        if old is not None and held_now is not None and held_now.files == case.files:
            return old, case
        for held in places:
            if all(digest in held.files for digest in case.files):
                return _named(case, held.files.__getitem__, archive=held.archive), case
        return None if old is None or held_now is None else (old, held_now)

    pairs = {case.id: found(case) for case in cases.cases}
    if missing := [case for case in cases.cases if pairs[case.id] is None]:
        here = {digest for held in places for digest in held.files} | set(now.values())
        absent = [each for case in missing for each in _absent(case, former.get(case.id), here)]
        raise _refusal(missing, absent, cases, holdings, now=now)
    there = [pair for pair in pairs.values() if pair is not None]
    return Relocated(
        replace(cases, cases=tuple(case for case, _ in there)),
        replace(cases, cases=tuple(case for _, case in there)),
        tuple(
            f"file {file} is sha256:{digest}, recorded is sha256:{expected}"
            for recorded, (placed, held) in zip(cases.cases, there, strict=True)
            for file, digest, expected in zip(placed.files, held.files, recorded.files, strict=True)
            if digest != expected
        ),
    )


@dataclass(frozen=True, slots=True)
class _Absent:
    """A file that is nowhere: of which case, what it is, and where it was, if that is known."""

    case: Case
    kind: str
    sha256: str
    place: Place | None

    def told(self, now: Mapping[Place, str]) -> str:
        """As a line, with both digests where another file is in its place."""
        name = f"{self.kind} of {self.case.id}"
        recorded = f"recorded is sha256:{self.sha256}"
        if self.place is None or self.place not in now:
            return f"{name} is nowhere, {recorded}"
        return f"{name}, {self.place[1]}, is sha256:{now[self.place]}, {recorded}"


def _absent(case: Case, old: Case | None, here: Collection[str]) -> Iterator[_Absent]:
    """The files of a case of whose content there is nothing ``here``."""
    kinds = ["image"] * len(case.images) + ["mask"] * len(case.masks) + ["label"] * len(case.labels)
    places = [None] * len(kinds) if old is None else [(old.archive, file) for file in old.files]
    for kind, digest, place in zip(kinds, case.files, places, strict=True):
        if digest not in here:
            yield _Absent(case, kind, digest, place)


def _refusal(
    missing: Sequence[Case],
    absent: Sequence[_Absent],
    cases: Cases,
    holdings: Sequence[Holding],
    *,
    now: Mapping[Place, str],
) -> CaHpcError:
    """Which files are nowhere, and what else is there: a changed file is one of another content."""
    known = {digest for case in cases.cases for digest in case.files}
    others = {
        f"{file} is sha256:{digest}"
        for held in holdings
        for digest, file in held.files.items()
        if digest not in known
    }
    lacks = Counter(each.case.id for each in absent)
    names = _listed([case.id for case in missing], ", ")
    lines = [f"of {len(missing)} of {len(cases.cases)} cases not all files are here: {names}"]
    lines += [each.told(now) for each in absent[:_MOST_TOLD]]
    if (more := len(absent) - _MOST_TOLD) > 0:
        lines.append(f"… and {more} more")
    if strewn := [case.id for case in missing if not lacks[case.id]]:
        lines.append(f"in several packs, or in a pack and beside it: {_listed(strewn, ', ')}")
    if others:
        lines.append("of another content: " + _listed(sorted(others), "; "))
    changed = any(each.place in now for each in absent) or (
        others and any(0 < lacks[case.id] < len(case.files) for case in missing)
    )
    return (DigestMismatch if changed else CaHpcError)(
        "\n".join(lines),
        hint="--data FOLDER-OR-PACK, with the images that the run was trained on; they are known "
        "by their content, and a case comes from folders, or whole from one pack",
    )


def _listed(names: Sequence[str], comma: str) -> str:
    return comma.join(names[:_MOST_TOLD]) + f"{comma}…" * (len(names) > _MOST_TOLD)


def _images(top: Path) -> Iterator[Path]:
    """Below ``top`` and what links lead to, each folder once: links may lead in a circle."""
    seen: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(top, followlinks=True):
        known = Path(folder).stat()
        if (known.st_dev, known.st_ino) in seen:
            below.clear()
            continue
        seen.add((known.st_dev, known.st_ino))
        below.sort()
        files = (Path(folder, name) for name in sorted(names) if is_image(name))
        yield from (file for file in files if file.is_file())


def _as_they_are(cases: Iterable[Case], *, cache: DigestCache) -> dict[Place, str]:
    """The sha256 of the cases' files as they are now; nothing of those that are gone."""

    def digest(file: str) -> str | None:
        try:
            return cache.sealed(Path(file)).sha256
        except OSError:
            return None

    places = dict.fromkeys((case.archive, file) for case in cases for file in case.files)
    files = [file for pack, file in places if pack is None]
    found: dict[Place, str] = {
        (None, file): sha256
        for file, sha256 in zip(files, in_threads(digest, files), strict=True)
        if sha256 is not None
    }
    cache.save()
    for pack in dict.fromkeys(pack for pack, _ in places if pack is not None):
        if Path(pack).is_file():
            members = Pack.open(Path(pack)).files
            found |= {(pack, name): member.sha256 for name, member in members.items()}
    return found


def _by_content(case: Case, now: Mapping[Place, str]) -> Case | None:
    """The case by what its files hold at their places; None where one is gone."""
    if any((case.archive, file) not in now for file in case.files):
        return None
    return _named(case, lambda file: now[case.archive, file], archive=None)


def _named(case: Case, name: Callable[[str], str], *, archive: str | None) -> Case:
    return replace(
        case,
        images=tuple(map(name, case.images)),
        masks=tuple(map(name, case.masks)),
        labels=tuple(replace(label, path=name(label.path)) for label in case.labels),
        archive=archive,
    )
