"""Whose an image is: the subject, or what ``person`` makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ca_hpc.core.data_spec import Person, PersonByColumn, PersonByPattern
from ca_hpc.core.record import Case
from ca_hpc.sources.found import Found


def person_of(found: Found, by: Person | None) -> str | None:
    """The person's name; None, where pattern or column tell none."""
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


def same_names(cases: Iterable[Case]) -> Iterator[str]:
    """A remark on names that stand for people of several sources, who might be the same."""
    sources: dict[str, dict[str, str]] = {}
    for case in cases:
        sources.setdefault(case.person, {}).setdefault(case.people, case.source)
    shared = {person: [*of.values()] for person, of in sources.items() if len(of) > 1}
    if shared:
        person, names = next(iter(shared.items()))
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        yield (
            f"{person}{more} in {' and in '.join(names[:2])} count as different people; if they "
            "are the same, give these sources the same `people: NAME`"
        )
