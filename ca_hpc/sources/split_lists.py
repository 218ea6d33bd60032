"""Published splits: files with lists ``train``, ``val``, ``test``, for all sources or by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ca_hpc.core.data_spec import PackSource, SplitFile
from ca_hpc.core.record import Case
from ca_hpc.core.spec import JobSpec
from ca_hpc.sources.documents import Unreadable, read_json, read_yaml_texts
from ca_hpc.sources.lists import of_document
from ca_hpc.sources.names import first_three, stem
from ca_hpc.sources.roles import ROLES

Lists = Mapping[str, frozenset[str]]  # the roles of each entry: one, or the file contradicts itself


@dataclass(frozen=True, slots=True)
class Assigned:
    """The cases that lists name, with their role in ``split``."""

    cases: tuple[Case, ...]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def with_lists(spec: JobSpec, cases: Sequence[Case]) -> Assigned:
    """The cases with what files of lists say of them: their source's own, else the job's.

    What has its role already keeps it.
    """
    own = {
        source.name or f"s{position + 1}": (source.split, f"data[{position}].split")
        for position, source in enumerate(spec.data)
        if not isinstance(source, PackSource) and source.split is not None
    }
    by_file: dict[tuple[str, str] | None, list[Case]] = {}
    for case in cases:
        split, key = own.get(case.source, (spec.splits, "splits"))
        listed = (split.file, key) if isinstance(split, SplitFile) and not case.split else None
        by_file.setdefault(listed, []).append(case)
    parts = [
        Assigned(tuple(of)) if given is None else assign(of, Path(given[0]), key=given[1])
        for given, of in by_file.items()
    ]
    place = {case.id: i for i, case in enumerate(cases)}
    return Assigned(
        tuple(sorted((case for part in parts for case in part.cases), key=lambda c: place[c.id])),
        tuple(problem for part in parts for problem in part.problems),
        tuple(remark for part in parts for remark in part.remarks),
    )


def assign(cases: Sequence[Case], file: Path, *, key: str) -> Assigned:
    """Give each case the role of its subject, session or person in ``file``'s lists.

    Who is in no list is left out. ``key``: where the spec names the file.
    """
    remarks: list[str] = []
    try:
        by_source = _read(file, remarks)
    except Unreadable as error:
        return Assigned((), (f"{key}: {error}",))
    if None in by_source:
        parts = [(by_source[None], list(cases))]
    else:
        sources = list(dict.fromkeys(case.source for case in cases))
        if unknown := [name for name in sources if name not in by_source]:
            return Assigned((), tuple(_no_lists(unknown, by_source, file=file, key=key)))
        parts = [(by_source[name], [c for c in cases if c.source == name]) for name in sources]
    of_parts = [_assigned(lists, of, file=file) for lists, of in parts]
    return Assigned(
        cases=tuple(case for part in of_parts for case in part.cases),
        problems=tuple(problem for part in of_parts for problem in part.problems),
        remarks=(*remarks, *(remark for part in of_parts for remark in part.remarks)),
    )


def _read(file: Path, remarks: list[str]) -> Mapping[str | None, Lists]:
    """Lists by source; by None, of all sources. Raises Unreadable."""
    value = read_json(file) if file.suffix.lower() == ".json" else read_yaml_texts(file)
    if not isinstance(value, dict):
        raise Unreadable(f"{file}: should have lists train, val and test")
    if any(name in ROLES and not _is_section(under) for name, under in value.items()):
        return {None: _lists(value, file, remarks)}
    # further keys with text are of the file itself: its version, its seed
    parts = {str(name): part for name, part in value.items() if isinstance(part, dict)}
    if not parts or not all(map(_is_section, parts.values())):
        raise Unreadable(f"{file}: has no lists train, val and test, nor has a source in it")
    return {name: _lists(part, file, remarks) for name, part in parts.items()}


def _is_section(under: object) -> bool:
    """Whether it is of one source, which may be called ``test`` too: a mapping with lists."""
    return isinstance(under, dict) and any(name in ROLES for name in under)


def _lists(value: Mapping[Any, Any], file: Path, remarks: list[str]) -> Lists:
    roles: dict[str, set[str]] = {}
    for name, under in value.items():
        if name in ROLES:
            for entry in of_document(file, under):
                roles.setdefault(entry, set()).add(ROLES[name])
        elif isinstance(under, list):
            close = difflib.get_close_matches(str(name), ROLES, n=1)
            ask = f" (did you mean {close[0]}?)" if close else ""
            remarks.append(f"{file.name}: its list {name}{ask} is none of train, val and test")
    return {entry: frozenset(of) for entry, of in roles.items()}


def _no_lists(
    unknown: Sequence[str], by_source: Mapping[str | None, Lists], *, file: Path, key: str
) -> Iterator[str]:
    known = [name for name in by_source if name is not None]
    for name in unknown:
        yield f"{key}: {file} has no lists for the source {name}; it has: {', '.join(known)}"


def _assigned(lists: Lists, cases: Sequence[Case], *, file: Path) -> Assigned:
    kept: list[Case] = []
    problems = [f"{file}: {entry} is in {_and(of)}" for entry, of in lists.items() if len(of) > 1]
    used: set[str] = set()
    left_out: dict[str, list[str]] = {}
    for case in cases:
        names = [name for name in _names(case) if name in lists]
        used.update(names)
        roles = frozenset().union(*(lists[name] for name in names))
        if len(roles) > 1 and all(len(lists[name]) == 1 for name in names):
            problems.append(f"{file}: {case.subject} ({', '.join(names)}) is in {_and(roles)}")
        if roles:
            kept.append(replace(case, split=min(roles)))
        else:
            left_out.setdefault(case.source, []).append(case.subject)
    remarks = []
    for source, subjects in left_out.items():
        names = list(dict.fromkeys(subjects))
        remarks.append(
            f"{source}: {_people(names)} in no list of {file.name}, left out: {first_three(names)}"
        )
    if absent := [entry for entry in lists if entry not in used]:
        remarks.append(f"{file.name}: {_people(absent)} not in the data: {first_three(absent)}")
    return Assigned(tuple(kept), tuple(dict.fromkeys(problems)), tuple(remarks))


def _names(case: Case) -> tuple[str, ...]:
    """What a list may call a case, each once: session, subject, subject without sub-, person,
    nnU-Net's identifier.
    """
    session = (f"{case.subject}_ses-{case.session}",) if case.session else ()
    label = case.subject.removeprefix("sub-")
    image = stem(Path(case.images[0]).name)
    identifier = (image.removesuffix("_0000"),) if image.endswith("_0000") else ()
    return tuple(dict.fromkeys((*session, case.subject, label, case.person, *identifier)))


def _people(names: Sequence[str]) -> str:
    return f"{len(names)} subject{'s' * (len(names) > 1)} {'are' if len(names) > 1 else 'is'}"


def _and(roles: frozenset[str]) -> str:
    return " and ".join(sorted(roles))
