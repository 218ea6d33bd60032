"""The numbers of a report: people count once, what is missing stays missing."""

from __future__ import annotations

from dataclasses import replace
from math import isnan, nan
from statistics import stdev

import pytest

from ca_hpc.report.model import CaseScore, Fold
from ca_hpc.report.tables import (
    contrast_table,
    dice_table,
    per_person,
    person_table,
    representative,
    spread,
)


def score(
    person: str,
    dice: float,
    *,
    arm: str = "finetune",
    fold: Fold = 0,
    session: str | None = None,
    contrast: str = "T2w",
    source: str = "lab",
) -> CaseScore:
    return CaseScore(
        arm=arm,
        fold=fold,
        case=f"{source}_{person}_{session}_{contrast}",
        person=person,
        session=session,
        contrast=contrast,
        source=source,
        label="cord",
        dice=dice,
        precision=dice,
        sensitivity=dice,
        relative_volume_difference=0.1,
    )


def test_a_person_with_many_images_counts_once() -> None:
    scores = [
        score("01", 0.9, session="01"),
        score("01", 0.8, session="02"),
        score("01", 0.7, session="02", contrast="T1w"),
        score("02", 0.6),
    ]
    found = spread(scores)
    assert found is not None
    assert found.mean == pytest.approx((0.8 + 0.6) / 2)
    assert found.sd == pytest.approx(stdev([0.8, 0.6]))
    assert (found.n, found.images, found.undefined) == (2, 4, 0)


def test_equal_names_in_two_sources_are_two_people() -> None:
    found = spread([score("01", 0.9, source="lab"), score("01", 0.7, source="clinic")])
    assert found is not None and found.n == 2


def test_undefined_dice_is_counted_but_not_averaged() -> None:
    found = spread([score("01", 0.9), score("01", nan, session="02"), score("02", nan)])
    assert found is not None
    assert (found.mean, found.sd, found.n) == (0.9, None, 1)
    assert (found.images, found.undefined) == (3, 2)


def test_nothing_but_undefined_is_not_the_same_as_nothing() -> None:
    undefined = spread([score("01", nan)])
    assert undefined is not None and undefined.mean is None and undefined.undefined == 1
    assert spread([]) is None


def test_folds_and_arms_without_scores_are_missing_cells() -> None:
    scores = [
        score("01", 0.9, fold=0),
        score("02", 0.8, fold=2),
        score("01", 0.5, fold=0, arm="scratch"),
    ]
    table = dice_table(scores, arms=("finetune", "scratch", "other"), folds=(0, 1, 2))
    shape = [[cell is not None for cell in row] for row in table.cells]
    assert shape == [[True, True, False], [False, False, False], [True, False, False]]
    finetune, scratch, other = table.overall
    assert finetune is not None and finetune.mean == pytest.approx(0.85)
    assert scratch is not None and scratch.n == 1
    assert other is None


def test_the_total_is_over_people_not_over_folds() -> None:
    scores = [score("01", 0.9, fold=0), score("02", 0.9, fold=0), score("03", 0.3, fold=1)]
    (total,) = dice_table(scores, arms=("finetune",), folds=(0, 1)).overall
    assert total is not None and total.mean == pytest.approx(0.7)


def test_contrasts_are_kept_apart_per_source() -> None:
    scores = [
        score("01", 0.9, contrast="T1w"),
        score("01", 0.7, contrast="T2w"),
        score("01", 0.5, contrast="T2w", source="clinic"),
    ]
    rows = contrast_table(scores, arms=("finetune", "scratch"))
    assert [(r.source, r.contrast) for r in rows] == [
        ("clinic", "T2w"),
        ("lab", "T1w"),
        ("lab", "T2w"),
        ("lab", None),
        (None, "T2w"),
    ]
    assert all(row.cells[1] is None for row in rows)


def test_totals_of_contrasts_and_sources_are_over_people_too() -> None:
    scores = [
        score("01", 0.9, contrast="T1w"),
        score("01", 0.7, contrast="T2w"),
        score("02", 0.4, contrast="T2w"),
        score("01", 0.5, contrast="T2w", source="clinic"),
    ]
    rows = contrast_table(scores, arms=("finetune",))
    found = {(r.source, r.contrast): r.cells[0] for r in rows}
    of_lab, of_t2w = found["lab", None], found[None, "T2w"]
    assert of_lab is not None and of_lab.mean == pytest.approx((0.8 + 0.4) / 2)
    assert (of_lab.n, of_lab.images) == (2, 3)
    assert of_t2w is not None and of_t2w.mean == pytest.approx((0.7 + 0.4 + 0.5) / 3)


def test_one_source_with_one_contrast_needs_no_total() -> None:
    rows = contrast_table([score("01", 0.9), score("02", 0.8)], arms=("finetune",))
    assert [(r.source, r.contrast) for r in rows] == [("lab", "T2w")]


def test_a_contrast_table_is_of_any_measure() -> None:
    scores = [replace(score("01", 0.9), precision=0.25), replace(score("02", 0.8), precision=0.75)]
    (row,) = contrast_table(scores, arms=("finetune",), measure=lambda s: s.precision)
    assert row.cells[0] is not None and row.cells[0].mean == 0.5


def test_a_person_of_shared_people_counts_once() -> None:
    here = replace(score("01", 0.9, source="3t"), people="hospital")
    there = replace(score("01", 0.5, source="7t"), people="hospital")
    assert per_person([here, there]) == {("hospital", "01"): pytest.approx(0.7)}
    (row,) = person_table([here, there], arms=("finetune",))
    assert (row.source, row.person, row.dice) == ("3t, 7t", "01", (pytest.approx(0.7),))


def test_scores_of_test_sets_do_not_count_among_the_folds() -> None:
    unseen = replace(score("02", 0.1), fold="ensemble", split="site-b")
    (total,) = dice_table([score("01", 0.9), unseen], arms=("finetune",), folds=(0, 1)).overall
    assert total is not None and (total.mean, total.n) == (0.9, 1)


def test_the_person_table_tells_missing_from_undefined() -> None:
    scores = [
        score("01", 0.9),
        score("01", 0.7, session="02"),
        score("02", nan, arm="scratch"),
        score("01", 0.4, arm="scratch"),
    ]
    first, second = person_table(scores, arms=("finetune", "scratch"))
    assert (first.person, first.images) == ("01", 2)
    assert first.dice == (pytest.approx(0.8), 0.4)
    assert second.dice[0] is None
    assert second.dice[1] is not None and isnan(second.dice[1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([nan], []),
        ([0.5], [("only case", 0.5)]),
        ([0.5, 0.9], [("worst", 0.5), ("best", 0.9)]),
        ([0.7, 0.9, nan, 0.5], [("worst", 0.5), ("median", 0.7), ("best", 0.9)]),
    ],
)
def test_worst_median_and_best_are_shown_once_each(
    values: list[float], expected: list[tuple[str, float]]
) -> None:
    scores = [score(f"{n:02d}", value) for n, value in enumerate(values)]
    scores.append(score("99", 0.01, arm="scratch"))
    found = [(rank, s.dice) for rank, s in representative(scores, arm="finetune")]
    assert found == expected
