"""Which images of a source are taken: ``where``, ``contrasts``, ``sessions``, in- and excluded."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ca_hpc.core.data_spec import LISTS, BidsSource, GitSource, PersonByColumn, Scanned
from ca_hpc.sources.documents import Unreadable
from ca_hpc.sources.found import Found, Listing
from ca_hpc.sources.lists import entries
from ca_hpc.sources.names import stem


@dataclass(frozen=True, slots=True)
class Taken:
    """The images that are taken. ``remarks``: entries that choose nothing, by a typo perhaps."""

    found: tuple[Found, ...]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which images it keeps. ``remarks`` look at all images: a list may tell of others too."""

    keeps: Callable[[Found], bool]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def take(listing: Listing, source: Scanned, *, key: str, name: str) -> Taken:
    """What the filters of ``source`` leave. ``key`` stands before problems, ``name`` remarks."""
    if unknown := tuple(_unknown_columns(listing, source, key=key)):
        return Taken(listing.found, unknown)
    filters = [
        *_where(listing, source),
        *(_of_bids(listing, source) if isinstance(source, BidsSource | GitSource) else ()),
        *_named(listing, source.include, what="include", inside=True),
        *_named(listing, source.exclude, what="exclude", inside=False),
    ]
    return Taken(
        tuple(found for found in listing.found if all(each.keeps(found) for each in filters)),
        tuple(f"{key}.{problem}" for each in filters for problem in each.problems),
        tuple(f"{name}: {remark}" for each in filters for remark in each.remarks),
    )


def _unknown_columns(listing: Listing, source: Scanned, *, key: str) -> Iterator[str]:
    wanted = {f"where.{column}": column for column in source.where}
    if isinstance(source.person, PersonByColumn):
        wanted["person.column"] = source.person.column
    if isinstance(source, BidsSource | GitSource) and source.pathology != "pathology":
        wanted["pathology"] = source.pathology
    for said, column in wanted.items():
        if listing.columns is None:
            yield f"{key}.{said}: there is no {listing.table}"
        elif column not in listing.columns:
            known = ", ".join(filter(None, listing.columns)) or "none"
            yield f"{key}.{said}: {listing.table} has no column {column}; its columns: {known}"


def _where(listing: Listing, source: Scanned) -> Iterator[_Filter]:
    for column, values in source.where.items():

        def keeps(found: Found, column: str = column, values: Sequence[str] = values) -> bool:
            return found.row.get(column) in values

        there = {found.row.get(column, "") for found in listing.found}
        yield _Filter(keeps, remarks=_unmatched(f"where.{column}", values, there=there))


def _of_bids(listing: Listing, source: BidsSource | GitSource) -> Iterator[_Filter]:
    if source.contrasts:
        ends = tuple(f"_{contrast}" for contrast in source.contrasts)
        stems = [found.stem for found in listing.found]
        there = {stem.rsplit("_", 1)[-1] for stem in stems}
        there |= {end[1:] for end in ends if any(stem.endswith(end) for stem in stems)}
        yield _Filter(
            lambda found: found.stem.endswith(ends),
            remarks=_unmatched("contrasts", source.contrasts, there=there),
        )
    if source.sessions:
        sessions = [session.removeprefix("ses-") for session in source.sessions]
        there = {found.session or "" for found in listing.found}
        yield _Filter(
            lambda found: found.session in sessions,
            remarks=_unmatched("sessions", sessions, there=there),
        )


def _named(listing: Listing, given: Sequence[str], *, what: str, inside: bool) -> Iterator[_Filter]:
    """By the entries of the spec itself and of each file that it names."""
    if not given:
        return
    files = [entry for entry in given if entry.lower().endswith(LISTS)]
    lists = {what: {_plain(entry) for entry in given if entry not in files}}
    problems = []
    for file in files:
        try:
            lists[f"{what} {Path(file).name}"] = {_plain(entry) for entry in entries(Path(file))}
        except Unreadable as error:
            problems.append(f"{what}: {error}")
    chosen = set().union(*lists.values())
    every = set().union(*map(_names, listing.found))
    yield _Filter(
        lambda found: bool(chosen & _names(found)) is inside,
        tuple(problems),
        tuple(
            remark
            for place, listed in lists.items()
            for remark in _unmatched(place, sorted(listed), there=every)
        ),
    )


def _plain(entry: str) -> str:
    return str(PurePosixPath(entry.strip()))


def _names(found: Found) -> set[str]:
    """What an entry may call an image: file, stem, path, a folder above it, subject, session.

    A subject also without ``sub-``, and by its site as in spine-generic's ``exclude.yml``: its
    entry ``stanford`` is ``sub-stanford01``, ``sub-stanford02``, ….
    """
    label = found.subject.removeprefix("sub-")
    names = {found.stem, found.subject, label}
    site = label.rstrip("0123456789")
    if site != label:
        names.add(site)
    if found.session:
        names.add(f"{found.subject}_ses-{found.session}")
    for image in found.images:
        names |= {image.name, stem(image.name), str(image)}
        if image.is_relative_to(found.folder):
            relative = image.relative_to(found.folder)
            names |= {str(relative), *map(str, relative.parents)}
    names |= {Path(file.path).name for file in found.labels}
    return names - {".", ""}


def _unmatched(place: str, wanted: Sequence[str], *, there: Collection[str]) -> tuple[str, ...]:
    missing = [entry for entry in wanted if entry not in there]
    if not missing:
        return ()
    known = sorted(there)
    told = ", ".join(_with_question(entry, known) for entry in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return (f"{place}: nothing is called {told}{more}",)


def _with_question(entry: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(entry, known, n=1, cutoff=0.8)
    return f"{entry} (did you mean {close[0]}?)" if close else entry
