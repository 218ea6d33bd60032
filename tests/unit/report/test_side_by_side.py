"""Metrics of runs side by side, with a tolerance."""

from __future__ import annotations

from dataclasses import replace
from math import nan

from pytest import approx

from ca_hpc.report.side_by_side import Metric, side_by_side
from tests.unit.report.test_scores import SCORE


def dice(*means: float | None, people: tuple[int, ...] = ()) -> Metric:
    counts = people or tuple(1 for _ in means)
    return Metric("a", "validation", "cord", "dice", means, counts)


def test_means_are_over_people_whatever_their_cases_are_called() -> None:
    ours = [replace(SCORE, case=f"x{i}", person=f"p{i // 2}", dice=i / 10) for i in range(4)]
    theirs = [replace(one, case=f"y{i}", person=f"q{i // 2}") for i, one in enumerate(ours)]
    row = next(row for row in side_by_side([ours, theirs]) if row.measure == "dice")
    assert row.means == (0.15, 0.15)
    assert row.people == (2, 2)
    assert row.within(0.0)


def test_what_only_one_run_has_is_beyond_any_tolerance() -> None:
    rows = side_by_side([[SCORE], [replace(SCORE, arm="scratch")]])
    assert {(row.arm, row.people) for row in rows if row.measure == "dice"} == {
        ("finetune", (1, 0)),
        ("scratch", (0, 1)),
    }
    assert not any(row.within(1.0) for row in rows if row.measure == "dice")


def test_the_tolerance_is_to_the_first_run() -> None:
    assert dice(0.9, 0.91, 0.89).within(0.01)
    assert not dice(0.9, 0.92).within(0.01)
    assert not dice(0.9, 0.9, people=(2, 1)).within(1.0)
    assert dice(0.9, 0.92, 0.87).largest == approx(0.03)
    assert dice(0.1, 0.1 + 1e-15).largest == 0
    assert dice(None, 0.5).largest is None


def test_nothing_to_segment_in_all_of_them_is_the_same() -> None:
    assert dice(None, None, people=(0, 0)).within(0.0)
    assert not dice(None, 0.5).within(1.0)
    empty = replace(SCORE, sensitivity=nan)
    rows = {row.measure: row for row in side_by_side([[empty], [empty]])}
    assert rows["sensitivity"].means == (None, None)
    assert all(row.within(0.0) for row in rows.values())
