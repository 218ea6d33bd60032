"""The numbers of a report: per fold, per person, per contrast. Pure.

A person counts once, however many sessions and images: images of one person are alike, so they are
averaged first. NaN scores (nothing in the reference, nothing predicted) are counted, not averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean, stdev
from typing import TypeVar

from ca_hpc.report.model import CaseScore, Fold

Person = tuple[str, str]  # source and person: two data sets may both have a sub-01
Key = TypeVar("Key", bound=Hashable)
Measure = Callable[[CaseScore], float]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over ``n`` people. ``mean`` is None if nobody has a value,
    ``sd`` if fewer than two have. ``images`` counts all images, ``undefined`` those with NaN."""

    mean: float | None
    sd: float | None
    n: int
    images: int
    undefined: int


@dataclass(frozen=True)
class DiceTable:
    """Rows are folds, columns arms. A cell is None where the fold delivered nothing."""

    arms: tuple[str, ...]
    folds: tuple[Fold, ...]
    cells: tuple[tuple[Spread | None, ...], ...]
    overall: tuple[Spread | None, ...]


def dice(score: CaseScore) -> float:
    return score.dice


def per_person(scores: Iterable[CaseScore], measure: Measure = dice) -> dict[Person, float]:
    """The mean ``measure`` of each person's images. People with nothing but NaN are absent."""
    values: dict[Person, list[float]] = {}
    for score in scores:
        if not isnan(measure(score)):
            values.setdefault((score.source, score.person), []).append(measure(score))
    return {person: fmean(found) for person, found in sorted(values.items())}


def spread(scores: Iterable[CaseScore], measure: Measure = dice) -> Spread | None:
    """Mean and SD over people of their mean ``measure``; None without any score."""
    scores = tuple(scores)
    if not scores:
        return None
    means = tuple(per_person(scores, measure).values())
    return Spread(
        mean=fmean(means) if means else None,
        sd=stdev(means) if len(means) > 1 else None,
        n=len(means),
        images=len(scores),
        undefined=sum(isnan(measure(score)) for score in scores),
    )


def dice_table(
    scores: Sequence[CaseScore], *, arms: tuple[str, ...], folds: tuple[Fold, ...]
) -> DiceTable:
    """Dice per fold and arm, and per arm over all people. ``scores`` are those of one label."""
    by_arm = grouped(scores, lambda score: score.arm)
    by_cell = grouped(scores, lambda score: (score.fold, score.arm))
    return DiceTable(
        arms=arms,
        folds=folds,
        cells=tuple(tuple(spread(by_cell.get((fold, arm), ())) for arm in arms) for fold in folds),
        overall=tuple(spread(by_arm.get(arm, ())) for arm in arms),
    )


@dataclass(frozen=True)
class ContrastRow:
    """One ``contrast`` of one ``source``: a cell per arm."""

    source: str
    contrast: str
    cells: tuple[Spread | None, ...]


def contrast_table(
    scores: Sequence[CaseScore], *, arms: tuple[str, ...]
) -> tuple[ContrastRow, ...]:
    """Dice per source, contrast and arm, over people."""
    rows = grouped(scores, lambda score: (score.source, score.contrast))
    return tuple(
        ContrastRow(
            source=source,
            contrast=contrast,
            cells=tuple(spread(s for s in rows[source, contrast] if s.arm == arm) for arm in arms),
        )
        for source, contrast in sorted(rows)
    )


@dataclass(frozen=True)
class PersonRow:
    """One person's mean Dice per arm: None where the arm has no score, NaN where all are NaN."""

    source: str
    person: str
    images: int
    dice: tuple[float | None, ...]


def person_table(scores: Sequence[CaseScore], *, arms: tuple[str, ...]) -> tuple[PersonRow, ...]:
    """Mean Dice of each person in each arm; ``images`` counts distinct cases."""
    people = grouped(scores, lambda score: (score.source, score.person))
    return tuple(
        PersonRow(
            source=source,
            person=person,
            images=len({score.case for score in people[source, person]}),
            dice=tuple(
                _mean_dice(s for s in people[source, person] if s.arm == arm) for arm in arms
            ),
        )
        for source, person in sorted(people)
    )


def _mean_dice(scores: Iterable[CaseScore]) -> float | None:
    """The mean of the scores that are numbers, NaN if none is, None without a score."""
    values = [score.dice for score in scores]
    numbers = [value for value in values if not isnan(value)]
    if numbers:
        return fmean(numbers)
    return nan if values else None


def representative(scores: Iterable[CaseScore], *, arm: str) -> tuple[tuple[str, CaseScore], ...]:
    """The worst, median and best case of ``arm`` by Dice, each case once: what to look at.

    ``scores`` are those of one label. NaN is neither good nor bad and is left out. With fewer than
    three cases the later names fall away.
    """
    ranked = sorted(
        (s for s in scores if s.arm == arm and not isnan(s.dice)), key=lambda s: (s.dice, s.case)
    )
    if not ranked:
        return ()
    last = len(ranked) - 1
    ranks = {0: "worst", len(ranked) // 2: "median", last: "best" if last else "only case"}
    return tuple((rank, ranked[place]) for place, rank in ranks.items())


def grouped(
    scores: Iterable[CaseScore], key: Callable[[CaseScore], Key]
) -> dict[Key, list[CaseScore]]:
    """The scores by ``key``, in their order."""
    groups: dict[Key, list[CaseScore]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return groups
