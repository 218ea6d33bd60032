"""Splits by person: nobody is trained on and validated or tested with."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.data_spec import Folds, Shares, SplitFile, Splits
from ca_hpc.core.record import Case
from ca_hpc.core.splits import BALANCED, Division, apportioned, divide
from ca_hpc.errors import CaHpcError


def case(
    person: str,
    number: int = 0,
    *,
    source: str = "s1",
    contrast: str = "T2w",
    people: str = "",
    split: str | None = None,
) -> Case:
    name = f"{source}_{person}_{contrast}_{number}"
    return Case(
        id=name,
        source=source,
        images=(f"/{name}.nii.gz",),
        labels=(),
        subject=person,
        person=person,
        session=None,
        contrast=contrast,
        people=people,
        split=split,
    )


def people_of(count: int, **options: str | None) -> list[Case]:
    return [case(f"sub-{number:02d}", **options) for number in range(count)]  # type: ignore[arg-type]


def owner(one: Case) -> tuple[str, str]:
    return one.people or one.source, one.person


# Sources whose people have between one image and several of some contrasts; some are in a list.
contrasts = st.lists(st.sampled_from(["T1w", "T2w", "T2starw"]), min_size=1, max_size=4)
sources = st.lists(
    st.lists(st.tuples(contrasts, st.sampled_from([None, None, None, "train", "val", "far"]))),
    min_size=1,
    max_size=4,
)


@st.composite
def data_sets(draw: st.DrawFn) -> list[Case]:
    cases = [
        case(f"p{person}", number, source=f"s{source}", contrast=contrast, split=split)
        for source, of in enumerate(draw(sources))
        for person, (images, split) in enumerate(of)
        for number, contrast in enumerate(images)
    ]
    # of the first two sources, one may have the other's people
    if draw(st.booleans()):
        listed = {one.person for one in cases if one.source in ("s0", "s1") and one.split}
        cases = [
            replace(one, people="both", split=None if one.person in listed else one.split)
            if one.source in ("s0", "s1")
            else one
            for one in cases
        ]
    return draw(st.permutations(cases))


splits = st.one_of(
    st.builds(
        Folds,
        folds=st.integers(2, 5),
        seed=st.integers(0, 99),
        test=st.sampled_from([0.0, 0.2, 0.5]),
    ),
    st.builds(
        lambda seed, test: Shares(train=0.9 - test, val=0.1, test=test, seed=seed),
        seed=st.integers(0, 99),
        test=st.sampled_from([0.0, 0.15]),
    ),
)
own_shares = st.dictionaries(
    st.sampled_from(["s0", "s1", "s2"]), st.just(Shares(train=0.6, val=0.2, test=0.2))
)


def divided(cases: Sequence[Case], how: Splits, **options: Mapping[str, Shares]) -> Division | None:
    """None where it is refused; then the reason is too few people, since nothing else is wrong."""
    try:
        return divide(cases, how, **options)
    except CaHpcError as error:
        for line in error.message.splitlines():
            assert "need at least" in line or line.startswith("nobody is in"), line
        return None


@given(data_sets(), splits, own_shares)
def test_every_case_has_one_place_and_nobody_is_in_two(
    cases: list[Case], how: Splits, shares: dict[str, Shares]
) -> None:
    division = divided(cases, how, shares=shares)
    if division is None:
        return
    tested = Counter(name for ids in division.tests.values() for name in ids)
    for fold in division.folds:
        assert Counter([*fold["train"], *fold["val"]]) + tested == Counter(c.id for c in cases)
        assert fold["train"] and fold["val"]
        places = {"train": fold["train"], "val": fold["val"], **division.tests}
        of = {name: place for place, names in places.items() for name in names}
        assert len({(owner(c), of[c.id]) for c in cases}) == len({owner(c) for c in cases})
    if isinstance(how, Folds):
        held_out = Counter(name for fold in division.folds for name in fold["val"])
        assert held_out + tested == Counter(c.id for c in cases)
        assert len(division.folds) == how.folds
    else:
        assert len(division.folds) == 1


@given(data_sets(), splits, st.randoms(use_true_random=False))
def test_the_order_of_the_cases_changes_nothing(
    cases: list[Case], how: Splits, chance: random.Random
) -> None:
    shuffled = list(cases)
    chance.shuffle(shuffled)
    assert divided(cases, how) == divided(shuffled, how)


def test_the_seed_shuffles_the_people() -> None:
    cases = people_of(20)
    for how in (Folds(folds=5, test=0.2), Shares(train=0.6, val=0.2, test=0.2)):
        divisions = [divide(cases, replace(how, seed=seed)) for seed in range(5)]
        assert divisions[0] == divide(cases, replace(how, seed=0))
        assert any(one != divisions[0] for one in divisions[1:])


@given(
    st.dictionaries(
        st.text("abcdefgh0123", min_size=1, max_size=4), st.integers(1, 9), min_size=2, max_size=25
    ),
    st.data(),
)
def test_folds_differ_by_no_more_than_one_persons_images(
    images: dict[str, int], data: st.DataObject
) -> None:
    cases = [case(person, number) for person, n in images.items() for number in range(n)]
    count = data.draw(st.integers(2, len(images)))
    sizes = [len(fold["val"]) for fold in divide(cases, Folds(folds=count)).folds]
    assert max(sizes) - min(sizes) <= max(images.values())


def many_sources(chance: random.Random) -> list[Case]:
    cases = []
    for source in range(chance.randint(1, 6)):
        offered = [f"c{number}" for number in range(chance.randint(1, 4))]
        for person in range(chance.randint(5, 30)):
            cases += [
                case(f"p{person}", session, source=f"s{source}", contrast=contrast)
                for contrast in chance.sample(offered, chance.randint(1, len(offered)))
                for session in range(chance.choice((1, 1, 1, 2)))
            ]
    return cases


def imbalance(
    cases: Sequence[Case], folds: Sequence[Sequence[str]], kind: Callable[[Case], Hashable]
) -> tuple[int, float]:
    """The largest difference between two folds' images of a kind, and the sum of squares."""
    by_id = {one.id: one for one in cases}
    held = [Counter(kind(by_id[name]) for name in fold) for fold in folds]
    counts = [[of[key] for of in held] for key in {kind(one) for one in cases}]
    squares = sum((n - sum(of) / len(of)) ** 2 for of in counts for n in of)
    return max(max(of) - min(of) for of in counts), squares


def test_folds_are_far_better_balanced_than_by_chance_over_sources_and_contrasts() -> None:
    chance = random.Random(3)
    dealt: list[list[tuple[int, float]]] = [[] for _ in BALANCED]
    drawn: list[list[tuple[int, float]]] = [[] for _ in BALANCED]
    for _ in range(100):
        cases = many_sources(chance)
        division = divide(cases, Folds(folds=5, seed=chance.randint(0, 99)))
        people = sorted({owner(one) for one in cases})
        chance.shuffle(people)
        place = {person: number % 5 for number, person in enumerate(people)}
        by_chance = [[c.id for c in cases if place[owner(c)] == fold] for fold in range(5)]
        for level, kind in enumerate(BALANCED):
            dealt[level].append(imbalance(cases, [f["val"] for f in division.folds], kind))
            drawn[level].append(imbalance(cases, by_chance, kind))
    for level, _ in enumerate(BALANCED):
        # a person brings up to 2 images of a source and contrast, 8 in all
        assert max(worst for worst, _ in dealt[level]) <= (3, 4, 8)[level]
        assert max(worst for worst, _ in drawn[level]) >= (9, 9, 15)[level]
        squares = [sum(of for _, of in found[level]) for found in (dealt, drawn)]
        assert squares[0] < 0.15 * squares[1]


def place_of(division: Division) -> dict[str, object]:
    held_out = {name: n for n, fold in enumerate(division.folds) for name in fold["val"]}
    return {**held_out, **{name: role for role, of in division.tests.items() for name in of}}


def test_one_person_more_moves_few_of_the_others() -> None:
    chance, how = random.Random(4), Folds(folds=5, test=0.2)
    moved = []
    for _ in range(50):
        cases = many_sources(chance)
        before = place_of(divide(cases, how))
        after = place_of(divide([*cases, case("new", source="s0", contrast="c0")], how))
        moved.append(sum(before[name] != after[name] for name in before) / len(before))
    assert sum(moved) / len(moved) < 0.25  # dealt anew, four of five would move


# --- test sets, lists, shares --------------------------------------------------------------


def test_a_share_of_each_sources_people_is_held_out_of_the_folds() -> None:
    cases = [
        *people_of(20, source="large"),
        *people_of(4, source="small"),
        *people_of(1, source="lone"),
    ]
    tests = divide(cases, Folds(folds=3, test=0.1)).tests
    held_out = Counter(name.split("_")[0] for name in tests["test"])
    assert held_out == {"large": 2, "small": 1}  # the lone one stays, to be learnt from


def test_sources_may_have_shares_of_their_own_and_their_test_part_joins_the_test_set() -> None:
    cases = [*people_of(10, source="own"), *people_of(10, source="other")]
    shares = {"own": Shares(train=0.4, val=0.1, test=0.5)}
    folds = divide(cases, Folds(folds=5), shares=shares)
    assert Counter(name.split("_")[0] for name in folds.tests["test"]) == {"own": 5}
    one = divide(cases, Shares(train=0.7, val=0.3), shares=shares)
    assert one.tests == folds.tests
    parts = {
        role: Counter(name.split("_")[0] for name in ids) for role, ids in one.folds[0].items()
    }
    assert parts == {"train": {"own": 4, "other": 7}, "val": {"own": 1, "other": 3}}


def test_lists_are_followed_to_the_letter() -> None:
    cases = [
        *[case(f"a{n}", split="train") for n in range(3)],
        case("b", split="val"),
        case("c", 0, split="test"),
        case("c", 1, split="test"),
        case("d", split="far"),
    ]
    division = divide(cases, SplitFile("split.yml"))
    assert division.folds == (
        {"train": ["s1_a0_T2w_0", "s1_a1_T2w_0", "s1_a2_T2w_0"], "val": ["s1_b_T2w_0"]},
    )
    assert division.tests == {"far": ("s1_d_T2w_0",), "test": ("s1_c_T2w_0", "s1_c_T2w_1")}


def test_folds_pool_what_lists_call_train_and_val_and_leave_their_test_sets() -> None:
    cases = [
        *people_of(4, source="new"),
        *[case(f"t{n}", split="train") for n in range(3)],
        case("v", split="val"),
        case("x", split="test"),
    ]
    division = divide(cases, Folds(folds=4, test=0.25))
    assert sorted(name for fold in division.folds for name in fold["val"] if "s1" in name) == [
        "s1_t0_T2w_0",
        "s1_t1_T2w_0",
        "s1_t2_T2w_0",
        "s1_v_T2w_0",
    ]
    assert len(division.tests["test"]) == 2  # the listed one, and one of the four


def test_who_is_in_a_test_set_with_one_source_is_so_with_all_that_share_its_people() -> None:
    cases = [
        case("p0", source="clinic", people="cohort", split="clinic"),
        *people_of(6, source="study", people="cohort"),
        case("p0", source="study", people="cohort"),
        case("p0", source="elsewhere"),
    ]
    division = divide(cases, Folds(folds=2))
    assert division.tests == {"clinic": ("clinic_p0_T2w_0", "study_p0_T2w_0")}
    assert "elsewhere_p0_T2w_0" in {name for fold in division.folds for name in fold["val"]}


@given(
    st.integers(0, 200),
    st.lists(st.integers(0, 5), min_size=2, max_size=4).filter(any),
)
def test_apportioning_keeps_the_sum_and_comes_close(count: int, weights: list[int]) -> None:
    shares = [weight / sum(weights) for weight in weights]
    parts = apportioned(count, shares)
    assert sum(parts) == count and min(parts) >= 0
    for share, part in zip(shares, parts, strict=True):
        assert part == 0 if share == 0 else abs(part - share * count) < len(shares)
    if count >= sum(map(bool, weights)):
        assert all(part > 0 for part, weight in zip(parts, weights, strict=True) if weight)


@pytest.mark.parametrize(
    ("count", "shares", "parts"),
    [
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),
        (7, (0.6, 0.2, 0.2), [4, 2, 1]),
        (3, (0.9, 0.05, 0.05), [1, 1, 1]),
        (2, (0.9, 0.05, 0.05), [2, 0, 0]),
        (1, (0.2, 0.8), [0, 1]),
        (5, (0.0, 1.0), [0, 5]),
    ],
)
def test_remainders_go_to_the_largest(
    count: int, shares: tuple[float, ...], parts: list[int]
) -> None:
    assert apportioned(count, shares) == parts


# --- what is refused -----------------------------------------------------------------------


def test_fewer_people_than_folds_are_refused_with_the_most_folds_that_work() -> None:
    cases = [*(case("a", number) for number in range(9)), case("b"), case("c")]
    with pytest.raises(CaHpcError) as told:
        divide(cases, Folds(folds=5))
    assert told.value.message == "5 folds need at least 5 people, the data have 3 (11 images)"
    assert told.value.hint == "set splits.folds to 3 or less"


def test_the_people_in_test_sets_are_told_where_the_others_are_too_few() -> None:
    cases = [*people_of(2), *people_of(3, source="far", split="far")]
    with pytest.raises(CaHpcError, match=r"have 2 \(2 images\); people in test sets: 3 in far"):
        divide(cases, Folds(folds=3))


def test_one_person_cannot_be_split() -> None:
    with pytest.raises(CaHpcError) as told:
        divide([case("a", 0), case("a", 1)], Folds(folds=2))
    assert told.value.hint == "add data"
    with pytest.raises(CaHpcError, match="nobody is in val; people in train: 1"):
        divide([case("a", 0)], Shares(train=0.8, val=0.2))


def test_all_people_in_two_lists_and_in_none_are_told_at_once_with_their_files() -> None:
    cases = [
        case("a", 0, split="train"),
        case("a", 1, split="test"),
        case("b", 0, split="val"),
        case("b", 1, split="train"),
        case("c", split="train"),
        case("d"),
    ]
    with pytest.raises(CaHpcError) as told:
        divide(cases, SplitFile("split.yml"))
    assert told.value.message.splitlines() == [
        "a of s1 is in test and train (train: s1_a_T2w_0, /s1_a_T2w_0.nii.gz; "
        "test: s1_a_T2w_1, /s1_a_T2w_1.nii.gz)",
        "b of s1 is in train and val (val: s1_b_T2w_0, /s1_b_T2w_0.nii.gz; "
        "train: s1_b_T2w_1, /s1_b_T2w_1.nii.gz)",
        "d of s1 is in no list of the splits (/s1_d_T2w_0.nii.gz)",
    ]
    assert told.value.hint is not None
    assert "one list" in told.value.hint and "exclude" in told.value.hint
    with pytest.raises(CaHpcError) as told:  # folds heal the second, not the first
        divide(cases, Folds(folds=2))
    assert told.value.message.startswith("a of s1") and "b of s1" not in told.value.message


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("train", "nobody is in val; people in train: 3"),
        ("val", "nobody is in train; people in val: 3"),
    ],
)
def test_lists_that_leave_nobody_to_train_or_validate_with(role: str, message: str) -> None:
    with pytest.raises(CaHpcError) as told:
        divide(people_of(3, split=role), SplitFile("split.yml"))
    assert told.value.message == message
