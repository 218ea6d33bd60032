"""Splits by person, never by case: sessions and contrasts of one person stay together. Pure.

Chance is a hash of the seed and a person's name: the order of the cases decides nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ca_hpc.core.data_spec import SEEN, TEST, Folds, Shares, SplitFile, Splits
from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError

Person: TypeAlias = tuple[str, str]  # within what names mean the same person, and the name
People: TypeAlias = Mapping[Person, Sequence[Case]]
Roles: TypeAlias = Mapping[Person, frozenset[str]]  # train, val or a test set: one, or it is wrong
Problem: TypeAlias = tuple[str, str]  # what is wrong, and the next move

TRAIN, VAL = SEEN
# What folds shall hold equally much of, the first before the second.
BALANCED: Final[tuple[Callable[[Case], Hashable], ...]] = (
    lambda case: (case.source, case.contrast),
    lambda case: case.contrast,
    lambda case: None,
)


@dataclass(frozen=True, slots=True)
class Division:
    """Which cases are learnt from and which never are; case ids, sorted.

    ``folds``: as nnU-Net's ``splits_final.json``, lists ``train`` and ``val`` of each. ``tests``:
    by test set.
    """

    folds: tuple[Mapping[str, list[str]], ...]
    tests: Mapping[str, tuple[str, ...]]


def divide(
    cases: Sequence[Case], splits: Splits, *, shares: Mapping[str, Shares] | None = None
) -> Division:
    """Every case either into one test set or into all folds, and a person's all into the same.

    ``shares``: by name, of sources that have their own. Who has cases in several sources counts
    to the first of them by name. A role that any of a person's cases has (``Case.split``) is that
    of all. K folds pool what training may see, also where lists or shares tell train from val.
    Raises CaHpcError with all problems.
    """
    people = _by_person(cases)
    roles = _roles(people, splits, shares=shares or {})
    if isinstance(splits, Folds):
        roles = {person: frozenset(map(_pooled, of)) for person, of in roles.items()}
    members = {
        role: {person: people[person] for person in people if role in roles[person]}
        for role in sorted({*SEEN, *frozenset().union(*roles.values())})
    }
    problems = [*_misplaced(people, roles), *_missing(members, splits)]
    if problems:
        raise CaHpcError(
            "\n".join(text for text, _ in problems),
            hint="; ".join(dict.fromkeys(hint for _, hint in problems)),
        )
    val = _dealt(members[TRAIN], splits) if isinstance(splits, Folds) else [members[VAL]]
    held_out = [frozenset(of) for of in val]
    seen = [person for role in SEEN for person in members[role]]
    return Division(
        folds=tuple(
            {
                TRAIN: _ids(people, [person for person in seen if person not in out]),
                VAL: _ids(people, out),
            }
            for out in held_out
        ),
        tests={role: tuple(_ids(people, of)) for role, of in members.items() if role not in SEEN},
    )


def apportioned(count: int, shares: Sequence[float]) -> list[int]:
    """``count`` divided by ``shares`` (1 in all), the largest remainders rounded up.

    As long as there are enough, nothing with a share gets none.
    """
    exact = [count * share for share in shares]
    out = [math.floor(one + 1e-9) for one in exact]  # 0.7 * 10 is a little less than 7
    by_remainder = sorted(range(len(shares)), key=lambda i: out[i] - exact[i])
    for i in by_remainder[: count - sum(out)]:
        out[i] += 1
    wanting = [i for i, share in enumerate(shares) if share > 0 and out[i] == 0]
    if count >= sum(share > 0 for share in shares):
        for i in wanting:
            out[out.index(max(out))] -= 1
            out[i] = 1
    return out


def _by_person(cases: Iterable[Case]) -> People:
    people: dict[Person, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.id):
        people.setdefault((case.people or case.source, case.person), []).append(case)
    return {person: people[person] for person in sorted(people)}


def _rank(person: Person, seed: int) -> str:
    return hashlib.sha256("\0".join((str(seed), *person)).encode()).hexdigest()


def _pooled(role: str) -> str:
    return TRAIN if role in SEEN else role


def _roles(people: People, splits: Splits, *, shares: Mapping[str, Shares]) -> Roles:
    """What sources and lists say; who is left is drawn, each source's people on their own."""
    roles = {
        person: frozenset(case.split for case in of if case.split is not None)
        for person, of in people.items()
    }
    undecided: dict[str, list[Person]] = {}
    for person, of in people.items():
        if not roles[person]:
            undecided.setdefault(min(case.source for case in of), []).append(person)
    for source, of_source in undecided.items():
        drawn = _drawn(of_source, shares.get(source, splits))
        roles.update({person: frozenset({role}) for person, role in drawn})
    return roles


def _drawn(people: Sequence[Person], splits: Splits) -> Iterator[tuple[Person, str]]:
    match splits:
        case Folds():
            parts = {TRAIN: 1 - splits.test, TEST: splits.test}
        case Shares():
            parts = {TRAIN: splits.train, VAL: splits.val, TEST: splits.test}
        case SplitFile():  # who is in no list has no role
            return
    ranked = iter(sorted(people, key=lambda person: _rank(person, splits.seed)))
    for role, number in zip(parts, apportioned(len(people), [*parts.values()]), strict=True):
        for _ in range(number):
            yield next(ranked), role


def _dealt(people: People, splits: Folds) -> list[list[Person]]:
    """The people of each fold's validation.

    Dealt out one by one, most images first, each to the fold that has least of what the person
    brings: that is what adds least to the sum over folds of (images of a kind) squared.
    """
    held: list[Counter[Hashable]] = [Counter() for _ in range(splits.folds)]
    dealt: list[list[Person]] = [[] for _ in range(splits.folds)]
    for person in sorted(people, key=lambda one: (-len(people[one]), _rank(one, splits.seed))):
        brought = [Counter(map(kind, people[person])) for kind in BALANCED]

        def there(fold: int, brought: Sequence[Counter[Hashable]] = brought) -> list[int]:
            return [sum(n * held[fold][key] for key, n in of.items()) for of in brought]

        chosen = min(range(splits.folds), key=there)
        dealt[chosen].append(person)
        for of in brought:
            held[chosen].update(of)
    return dealt


def _ids(people: People, chosen: Iterable[Person]) -> list[str]:
    return sorted(case.id for person in chosen for case in people[person])


def _misplaced(people: People, roles: Roles) -> Iterator[Problem]:
    """People in several roles, or in none."""
    for person, of in people.items():
        name = f"{person[1]} of {person[0]}"
        if len(roles[person]) > 1:
            places = "; ".join(
                f"{case.split}: {case.id}, {', '.join(case.images)}" for case in of if case.split
            )
            yield (
                f"{name} is in {' and '.join(sorted(roles[person]))} ({places})",
                "put all images of a person into one list; where they are of different people, "
                "let person: tell them apart",
            )
        if not roles[person]:
            files = ", ".join(file for case in of for file in case.images)
            yield f"{name} is in no list of the splits ({files})", "list everybody, or exclude them"


def _missing(members: Mapping[str, People], splits: Splits) -> Iterator[Problem]:
    """Too few people for the folds, or nobody to train or to validate with."""
    tests = ", ".join(f"{len(of)} in {role}" for role, of in members.items() if role not in SEEN)
    besides = f"; people in test sets: {tests}" if tests else ""
    if isinstance(splits, Folds):
        people, folds = members[TRAIN], splits.folds
        if len(people) < folds:
            yield (
                f"{folds} folds need at least {folds} people, the data have {len(people)} "
                f"({sum(map(len, people.values()))} images){besides}",
                (f"set splits.folds to {len(people)} or less" if len(people) > 1 else "add data")
                + (", or hold out fewer people" if tests else ""),
            )
        return
    for role, other in ((TRAIN, VAL), (VAL, TRAIN)):
        if not members[role]:
            yield (
                f"nobody is in {role}; people in {other}: {len(members[other])}{besides}",
                "change the lists or the shares, or add data",
            )
