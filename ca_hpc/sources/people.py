"""Whose an image is: the subject, or what ``person`` makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ca_hpc.core.data_spec import Person, PersonByColumn, PersonByPattern, Scanned
from ca_hpc.core.record import Case
from ca_hpc.sources.found import Found
from ca_hpc.sources.names import first_three


def person_of(found: Found, source: Scanned) -> str | None:
    """The person's name; None, where pattern or column tell none.

    Without ``sub-`` where sources share people: only BIDS writes it.
    """
    name = _told(found, source.person)
    return name if name is None or source.people is None else _label(name)


def _told(found: Found, by: Person | None) -> str | None:
    match by:
        case None:
            return found.subject
        case PersonByPattern(pattern=pattern):
            group = re.search(pattern, found.subject)
            return (group[1] or None) if group and group.re.groups else None
        case PersonByColumn(column=column):
            cell = found.row.get(column)
            return None if cell in (None, "", "n/a") else cell  # n/a: BIDS' word for unknown


def nobody(found: Found, by: Person | None) -> str:
    """What to say where ``person_of`` tells none."""
    match by:
        case PersonByPattern(pattern=pattern):
            return f"person.pattern {pattern} does not match {found.subject}"
        case PersonByColumn(column=column):
            return f"person.column: no {column} for {found.subject}"
        case None:
            return f"no subject for {found.stem}"


def _label(name: str) -> str:
    return name.removeprefix("sub-") or name


def same_names(cases: Sequence[Case]) -> Iterator[str]:
    """Remarks: names in several sources that might be one person's, sources that should share
    people and have none in common.
    """
    yield from _namesakes(cases)
    yield from _strangers(cases)


def _namesakes(cases: Sequence[Case]) -> Iterator[str]:
    first: dict[str, dict[str, Case]] = {}
    for case in cases:
        first.setdefault(_label(case.person), {}).setdefault(case.people, case)
    shared = [[*of.values()] for of in first.values() if len(of) > 1]
    if shared:
        person, names = shared[0][0].person, [case.source for case in shared[0]]
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        yield (
            f"{person}{more} in {' and in '.join(names[:2])} count as different people; if they "
            "are the same, give these sources the same `people: NAME`"
        )


def _strangers(cases: Sequence[Case]) -> Iterator[str]:
    groups: dict[str, dict[str, set[str]]] = {}
    for case in cases:
        groups.setdefault(case.people, {}).setdefault(case.source, set()).add(case.person)
    for people, of in groups.items():
        others = {
            source: set().union(*(names for other, names in of.items() if other != source))
            for source in of
        }
        alone = [source for source in of if of[source].isdisjoint(others[source])]
        for source in alone[: len(of) - 1]:  # of two, the one says it of the other too
            yield (
                f"{source} has nobody in common with the other sources of `people: {people}`: "
                f"it has {first_three(sorted(of[source]))}, they have "
                f"{first_three(sorted(others[source]))}; if some are the same, let `person` "
                "name them alike"
            )
