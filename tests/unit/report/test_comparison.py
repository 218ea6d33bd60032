"""Arms compared: pairs fixed beforehand, values as by hand, nothing claimed from little."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import nan, sqrt
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.report.comparison import (
    compare,
    holm,
    least_p,
    paired_differences,
    planned_pairs,
    rank_biserial,
    signed_rank_p,
    t_interval,
)
from ca_hpc.report.model import CaseScore, Comparison

TWO = {"finetune": "pretrained", "scratch": "random"}
DIFFERENCES = st.lists(st.integers(-9, 9).map(lambda tenths: tenths / 10), max_size=9)


def score(
    arm: str, person: str, dice: float, *, session: str = "01", label: str = "cord"
) -> CaseScore:
    case = f"lab-{person}-{session}"
    return CaseScore(
        arm, 0, case, person, session, "T2w", "lab", label, dice, dice, dice, 0.0
    )  # fmt: skip


def scores(*, label: str = "cord", **dice: tuple[float, ...]) -> list[CaseScore]:
    """One image of each person, by arm."""
    return [
        score(arm, f"{person:02d}", value, label=label)
        for arm, values in dice.items()
        for person, value in enumerate(values)
    ]


def only(found: tuple[Comparison, ...]) -> Comparison:
    (comparison,) = found
    return comparison


@pytest.mark.parametrize(
    ("weights", "pairs"),
    [
        (TWO, [("finetune", "scratch")]),
        ({"scratch": "random", "finetune": "pretrained"}, [("finetune", "scratch")]),
        (
            {"a": "pretrained", "b": "pretrained", "scratch": "random", "control": "shuffled"},
            [("a", "scratch"), ("b", "scratch"), ("a", "control"), ("b", "control")],
        ),
        ({"a": "pretrained", "b": "pretrained", "c": "pretrained"}, [("b", "a"), ("c", "a")]),
        ({"scratch": "random", "same-network": "random"}, [("same-network", "scratch")]),
        ({"finetune": "pretrained"}, []),
    ],
)
def test_what_is_compared_follows_from_the_job_alone(
    weights: dict[str, str], pairs: list[tuple[str, str]]
) -> None:
    assert list(planned_pairs(weights)) == pairs


def test_a_person_counts_once_and_images_are_paired_with_themselves() -> None:
    given_scores = [
        score("finetune", "01", 0.9, session="01"),
        score("finetune", "01", 0.7, session="02"),
        score("finetune", "01", 0.1, session="03"),  # scratch has no Dice of this image
        score("finetune", "02", 0.5),
        score("scratch", "01", 0.6, session="01"),
        score("scratch", "01", 0.6, session="02"),
        score("scratch", "01", nan, session="03"),
        score("scratch", "02", 0.6),
    ]
    found = paired_differences(given_scores, arm="finetune", baseline="scratch")
    assert found == pytest.approx((0.2, -0.1))


def test_people_whom_one_arm_has_not_scored_are_left_out_and_counted() -> None:
    given_scores = scores(finetune=(0.9, 0.8, 0.7, nan), scratch=(0.8, 0.8, nan, 0.8))
    found = only(compare(given_scores, weights=TWO))
    assert (found.n, found.left_out, found.higher, found.lower) == (2, 2, 1, 0)


def test_equal_means_that_differ_in_the_last_bit_are_equal() -> None:
    assert 0.1 + 0.2 != 0.3
    found = paired_differences(
        scores(finetune=(0.1 + 0.2,), scratch=(0.3,)), arm="finetune", baseline="scratch"
    )
    assert found == (0.0,)


def test_the_test_and_the_effect_size_are_those_worked_out_by_hand() -> None:
    # ranks 1 to 6, rank 3 against: of 64 sign patterns 5 have a rank sum against of 3 or less
    # (none, 1, 2, 3, 1 + 2), and as many the other way round
    differences = (0.01, 0.02, -0.03, 0.04, 0.05, 0.06)
    assert signed_rank_p(differences) == pytest.approx(2 * 5 / 64)
    assert rank_biserial(differences) == pytest.approx((18 - 3) / 21)


def test_the_test_is_exact_with_ties_and_leaves_out_who_did_not_change() -> None:
    # four equal ranks, one against: 5 of 16 sign patterns have three or more of one sign
    differences = (0.1, 0.0, 0.1, -0.1, 0.0, 0.1)
    assert signed_rank_p(differences) == pytest.approx(2 * 5 / 16)
    assert rank_biserial(differences) == pytest.approx(0.5)


def test_the_interval_is_students() -> None:
    differences = (0.01, 0.02, 0.03, 0.04)
    half = 3.182446 * stdev(differences) / sqrt(4)  # t of 97.5 % with 3 degrees of freedom
    assert t_interval(differences) == pytest.approx((0.025 - half, 0.025 + half))


def test_the_interval_stays_within_what_dice_allows() -> None:
    assert t_interval((0.9, 0.1)) == (-1.0, 1.0)


def test_holms_correction_is_the_one_worked_out_by_hand() -> None:
    # sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, never less than the one before
    assert holm((0.01, 0.04, 0.03, 0.005)) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm((None, 0.04, None)) == (None, 0.04, None)
    assert holm((0.6, 0.7)) == (1.0, 1.0)


def test_p_is_corrected_for_the_comparisons_of_its_label_only() -> None:
    arms = {"finetune": (0.9,) * 6, "scratch": (0.8,) * 6, "control": (0.7,) * 6}
    weights = {"finetune": "pretrained", "scratch": "random", "control": "shuffled"}
    both = [*scores(**arms), *scores(label="lesion", **arms)]
    assert [c.p for c in compare(both, weights=weights)] == pytest.approx([2 * 2 / 64] * 4)
    assert only(compare(both[:12], weights=TWO)).p == pytest.approx(2 / 64)


def test_a_test_set_is_compared_by_itself() -> None:
    seen = scores(finetune=(0.9,) * 6, scratch=(0.8,) * 6)
    unseen = [
        replace(s, split="site-b", fold="ensemble")
        for s in scores(finetune=(0.7,) * 3, scratch=(0.9,) * 3)
    ]
    validation, tested = compare([*seen, *unseen], weights=TWO)
    assert (validation.split, validation.n, validation.p) == (
        "validation",
        6,
        pytest.approx(2 / 64),
    )
    assert (tested.split, tested.n, tested.mean) == ("site-b", 3, pytest.approx(-0.2))
    assert tested.p == pytest.approx(2 / 8), "not corrected for the validation's"


@pytest.mark.parametrize(("people", "comparisons"), [(5, 1), (6, 2), (7, 4)])
def test_too_few_people_for_any_p_below_5_percent_are_called_so(
    people: int, comparisons: int
) -> None:
    arms = [f"arm{number}" for number in range(comparisons)]
    weights = {**dict.fromkeys(arms, "pretrained"), "scratch": "random"}

    def best_case(n: int) -> tuple[Comparison, ...]:
        better = tuple(0.9 + k / 1000 for k in range(n))
        given_scores = scores(**dict.fromkeys(arms, better), scratch=(0.5,) * n)
        return compare(given_scores, weights=weights)

    assert all(c.too_few and c.p is not None and c.p >= 0.05 for c in best_case(people))
    assert all(not c.too_few and c.p is not None and c.p < 0.05 for c in best_case(people + 1))


def test_when_nobody_differs_nothing_is_tested() -> None:
    found = only(compare(scores(finetune=(0.8,) * 8, scratch=(0.8,) * 8), weights=TWO))
    assert (found.mean, found.n, found.higher, found.lower) == (0, 8, 0, 0)
    assert (found.interval, found.effect, found.p, found.too_few) == (None, None, None, False)


def test_when_nobody_has_both_there_is_nothing_but_the_people_left_out() -> None:
    found = only(compare(scores(finetune=(0.8, 0.9)), weights=TWO))
    assert (found.n, found.left_out, found.mean, found.p) == (0, 2, None, None)


def test_one_person_has_a_difference_but_no_interval() -> None:
    found = only(compare(scores(finetune=(0.8,), scratch=(0.6,)), weights=TWO))
    assert found.mean == pytest.approx(0.2)
    assert (found.interval, found.p, found.too_few) == (None, 1.0, True)


@given(DIFFERENCES)
def test_no_p_is_smaller_than_so_many_people_allow(differences: list[float]) -> None:
    p, least = signed_rank_p(differences), least_p(differences)
    assert (p is None) == (least is None)
    assert p is None or least is None or least <= p + 1e-12 <= 1 + 1e-9


@given(DIFFERENCES)
def test_the_other_way_round_all_signs_turn_and_p_stays(differences: list[float]) -> None:
    turned = [-difference for difference in differences]
    assert signed_rank_p(turned) == pytest.approx(signed_rank_p(differences))
    effect, effect_turned = rank_biserial(differences), rank_biserial(turned)
    assert (effect is None) == (effect_turned is None)
    assert effect is None or effect_turned == pytest.approx(-effect)
    limits, limits_turned = t_interval(differences), t_interval(turned)
    assert (limits is None) == (limits_turned is None)
    if limits is not None and limits_turned is not None:
        assert limits_turned == pytest.approx((-limits[1], -limits[0]))
        assert limits[0] <= fmean(differences) <= limits[1]


def test_the_terminals_tables_do_without_scipy() -> None:
    code = (
        "import sys; import ca_hpc.screen, ca_hpc.report.gather, ca_hpc.report.outcome; "
        "sys.exit('scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
