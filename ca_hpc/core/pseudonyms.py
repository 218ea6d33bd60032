"""Cases under other names: of people and sessions nothing is left but who is whom. Pure.

The new ids are in the order of the old ones. nnU-Net reads cases in the order of their ids, and
our batches depend on seed and position alone: equal data under such names give equal weights, bit
for bit (``tests/local/test_rerun_here.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ca_hpc.core.record import Case, Cases

Name = TypeVar("Name", str, tuple[str, str])


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """By old name: ids of cases, and persons, within what their names mean the same person."""

    cases: Mapping[str, str]
    persons: Mapping[tuple[str, str], str]
    sessions: Mapping[tuple[str, str, str], str]

    def of(self, case: Case) -> Case:
        """``case`` under its new names; a subject goes by the person's."""
        owner = owner_of(case)
        person = self.persons[owner]
        session = None if case.session is None else self.sessions[(*owner, case.session)]
        new = self.cases[case.id]
        return replace(case, id=new, subject=person, person=person, session=session)

    def ids(self, old: Iterable[str]) -> list[str]:
        """Ids of cases, in the same order."""
        return [self.cases[one] for one in old]


def pseudonyms(cases: Cases) -> Pseudonyms:
    """``c0001`` … for cases, ``p001`` … for persons, ``s1`` … for each one's sessions."""
    ordered = sorted(cases.cases, key=lambda case: case.id)
    persons = _numbered({owner_of(case) for case in ordered}, prefix="p", digits=3)
    of_each: dict[tuple[str, str], set[str]] = {}
    for case in ordered:
        if case.session is not None:
            of_each.setdefault(owner_of(case), set()).add(case.session)
    sessions = {
        (*owner, session): f"s{number}"
        for owner, own in of_each.items()
        for number, session in enumerate(sorted(own), start=1)
    }
    ids = _numbered({case.id for case in ordered}, prefix="c", digits=4)
    return Pseudonyms(ids, persons, sessions)


def owner_of(case: Case) -> tuple[str, str]:
    """Whose images they are: two sources may both have a sub-01."""
    return case.people or case.source, case.person


def _numbered(names: set[Name], *, prefix: str, digits: int) -> dict[Name, str]:
    """Numbers of one width: as text they sort as the names do."""
    width = max(digits, len(str(len(names))))
    ordered = enumerate(sorted(names), start=1)
    return {name: f"{prefix}{number:0{width}d}" for number, name in ordered}
