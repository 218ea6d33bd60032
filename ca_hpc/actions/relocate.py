"""Where the files of recorded cases are now: known by their content, wherever they lie."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.pack import Pack, is_pack
from ca_hpc.store.seal import in_threads

_ENDINGS: Final = (".nii", ".nii.gz")
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
        files = sorted(f for f in place.rglob("*") if f.name.endswith(_ENDINGS) and f.is_file())
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

    First where they were (``former``, by id), then in ``holdings``; a case is taken from one of
    them. What is nowhere is taken from its former place as it is now: ``by_content`` then differs.
    Raises CaHpcError with all cases that have no files at all, DigestMismatch where some of their
    files are here: the others have been changed.
    """
    packs: dict[str, Pack | None] = {}

    def found(case: Case) -> tuple[Case, Case] | None:
        old = former.get(case.id)
        now = None if old is None else _now(old, packs=packs, cache=cache)
        if old is not None and now is not None and now.files == case.files:
            return old, case
        for held in holdings:
            if all(digest in held.files for digest in case.files):
                return _named(case, held.files.__getitem__, archive=held.archive), case
        return None if old is None or now is None else (old, now)

    pairs = {case.id: found(case) for case in cases.cases}
    cache.save()
    if missing := [case for case in cases.cases if pairs[case.id] is None]:
        left = {each for case in missing for each in _left(former.get(case.id), cache=cache)}
        raise _missing(missing, cases, holdings, left=left)
    there = [pair for pair in pairs.values() if pair is not None]
    return Relocated(
        replace(cases, cases=tuple(case for case, _ in there)),
        replace(cases, cases=tuple(case for _, case in there)),
        tuple(
            f"file {file} is sha256:{now}, recorded is sha256:{expected}"
            for recorded, (placed, held) in zip(cases.cases, there, strict=True)
            for file, now, expected in zip(placed.files, held.files, recorded.files, strict=True)
            if now != expected
        ),
    )


def _missing(
    missing: Sequence[Case],
    cases: Cases,
    holdings: Sequence[Holding],
    *,
    left: Collection[str],
) -> CaHpcError:
    """Which files are nowhere, and what else is there: a changed file is one of another content.

    ``left``: by digest, files of these cases that are where they were.
    """
    here = {digest for held in holdings for digest in held.files} | set(left)
    absent = {case.id: [digest for digest in case.files if digest not in here] for case in missing}
    known = {digest for case in cases.cases for digest in case.files}
    others = {
        f"{file} is sha256:{digest}"
        for held in holdings
        for digest, file in held.files.items()
        if digest not in known
    }
    lines = [f"{len(missing)} of {len(cases.cases)} cases have no files here: "]
    lines[0] += _listed([case.id for case in missing], ", ")
    lines += [
        f"{kind} of {case.id} is nowhere, recorded is sha256:{digest}"
        for case in missing[:_MOST_TOLD]
        for kind, digest in _kinds(case)
        if digest in absent[case.id]
    ]
    if others:
        lines.append("of another content: " + _listed(sorted(others), "; "))
    changed = any(0 < len(absent[case.id]) < len(case.files) for case in missing)
    return (DigestMismatch if changed and others else CaHpcError)(
        "\n".join(lines),
        hint="--data FOLDER-OR-PACK, with the images that the run was trained on; they are known "
        "by their content",
    )


def _left(old: Case | None, *, cache: DigestCache) -> Iterator[str]:
    """What files at the former place of a case hold, of which others are gone."""
    for file in old.files if old is not None and old.archive is None else ():
        with contextlib.suppress(OSError):
            yield cache.sealed(Path(file)).sha256


def _listed(names: Sequence[str], comma: str) -> str:
    return comma.join(names[:_MOST_TOLD]) + f"{comma}…" * (len(names) > _MOST_TOLD)


def _kinds(case: Case) -> Iterator[tuple[str, str]]:
    """Its files, each with what it is."""
    yield from (("image", file) for file in case.images)
    yield from (("mask", file) for file in case.masks)
    yield from (("label", label.path) for label in case.labels)


def _now(old: Case, *, packs: dict[str, Pack | None], cache: DigestCache) -> Case | None:
    """The case by what its files hold at their former place; None where one is gone."""
    if old.archive is None:
        try:
            digests = {file: cache.sealed(Path(file)).sha256 for file in old.files}
        except OSError:
            return None
        return _named(old, digests.__getitem__, archive=None)
    pack = _opened(old.archive, packs)
    if pack is None or any(member not in pack.files for member in old.files):
        return None
    members = pack.files
    return _named(old, lambda member: members[member].sha256, archive=None)


def _opened(archive: str, packs: dict[str, Pack | None]) -> Pack | None:
    if archive not in packs:
        path = Path(archive)
        packs[archive] = Pack.open(path) if path.is_file() else None
    return packs[archive]


def _named(case: Case, name: Callable[[str], str], *, archive: str | None) -> Case:
    return replace(
        case,
        images=tuple(map(name, case.images)),
        masks=tuple(map(name, case.masks)),
        labels=tuple(replace(label, path=name(label.path)) for label in case.labels),
        archive=archive,
    )
