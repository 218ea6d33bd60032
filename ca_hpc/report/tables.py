"""The numbers of a report: per fold, per person, per contrast. Pure.

A person counts once, however many sessions and images: images of one person are alike, so they are
averaged first. NaN scores (nothing in the reference, nothing predicted) are counted, not averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean, stdev
from typing import TypeVar

from ca_hpc.report.model import CaseScore, Fold

Person = tuple[str, str]  # CaseScore.owner
Item = TypeVar("Item")
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
            values.setdefault(score.owner, []).append(measure(score))
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
    """Dice per fold and arm, and per arm over all people of these folds.

    ``scores`` are those of one label; those of test sets, which are of no fold, do not count.
    """
    by_arm = grouped((s for s in scores if s.fold in folds), lambda score: score.arm)
    by_cell = grouped(scores, lambda score: (score.fold, score.arm))
    return DiceTable(
        arms=arms,
        folds=folds,
        cells=tuple(tuple(spread(by_cell.get((fold, arm), ())) for arm in arms) for fold in folds),
        overall=tuple(spread(by_arm.get(arm, ())) for arm in arms),
    )


@dataclass(frozen=True)
class ContrastRow:
    """One ``contrast`` of one ``source``, a cell per arm. None: all of them together."""

    source: str | None
    contrast: str | None
    cells: tuple[Spread | None, ...]


def contrast_table(
    scores: Sequence[CaseScore], *, arms: tuple[str, ...], measure: Measure = dice
) -> tuple[ContrastRow, ...]:
    """``measure`` per source, contrast and arm, over people.

    Sources with several contrasts have a total, and so have contrasts of several sources (last).
    """
    cells: dict[tuple[str | None, str | None, str], list[CaseScore]] = {}
    for score in scores:
        for place in ((score.source, score.contrast), (score.source, None), (None, score.contrast)):
            cells.setdefault((*place, score.arm), []).append(score)
    pairs = sorted({(score.source, score.contrast) for score in scores})
    return tuple(
        ContrastRow(
            source=source,
            contrast=contrast,
            cells=tuple(spread(cells.get((source, contrast, arm), ()), measure) for arm in arms),
        )
        for source, contrast in with_totals(pairs)
    )


def with_totals(
    pairs: Sequence[tuple[str, str]],
) -> tuple[tuple[str | None, str | None], ...]:
    """Sources and contrasts as rows of a table, with None for the totals where they say more."""
    sources = dict.fromkeys(source for source, _ in pairs)
    rows: list[tuple[str | None, str | None]] = []
    for source in sources:
        ours = [pair for pair in pairs if pair[0] == source]
        rows += [*ours, *([(source, None)] if len(ours) > 1 else [])]
    if len(sources) > 1:
        shared = Counter(contrast for _, contrast in pairs)
        rows += [(None, contrast) for contrast, n in sorted(shared.items()) if n > 1]
    return tuple(rows)


@dataclass(frozen=True)
class PersonRow:
    """One person's mean Dice per arm: None where the arm has no score, NaN where all are NaN.

    ``source``: several, joined by a comma, for a person of several.
    """

    source: str
    person: str
    images: int
    dice: tuple[float | None, ...]


def person_table(scores: Sequence[CaseScore], *, arms: tuple[str, ...]) -> tuple[PersonRow, ...]:
    """Mean Dice of each person in each arm; ``images`` counts distinct cases."""
    people = grouped(scores, lambda score: score.owner)
    return tuple(
        PersonRow(
            source=", ".join(sorted({score.source for score in people[owner]})),
            person=owner[1],
            images=len({score.case for score in people[owner]}),
            dice=tuple(_mean_dice(s for s in people[owner] if s.arm == arm) for arm in arms),
        )
        for owner in sorted(people)
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


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Scores, or whatever else, by ``key``, in their order."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
