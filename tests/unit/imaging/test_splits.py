"""Splits by person: nobody is trained on and validated with."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.splits import k_folds


def case(person: str, number: int = 0) -> Case:
    name = f"{person}-{number}"
    return Case(name, "s1", (f"/{name}.nii.gz",), f"/{name}-seg.nii.gz", name, person, None, "T2w")


# How many images each person has.
people = st.dictionaries(
    st.text("abcdefgh0123", min_size=1, max_size=4), st.integers(1, 9), min_size=2, max_size=25
)


def cases_of(images: dict[str, int]) -> list[Case]:
    return [case(person, number) for person, n in images.items() for number in range(n)]


@given(people, st.data(), st.integers(0, 1000))
def test_every_case_is_held_out_once_and_nobody_is_on_both_sides(
    images: dict[str, int], data: st.DataObject, seed: int
) -> None:
    cases = cases_of(images)
    count = data.draw(st.integers(2, len(images)))
    folds = k_folds(cases, folds=count, seed=seed)
    person = {one.id: one.person for one in cases}
    assert len(folds) == count
    held_out = Counter(name for fold in folds for name in fold["val"])
    assert held_out == Counter(one.id for one in cases)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(person)
        assert fold["train"] and fold["val"]
        assert not {person[c] for c in fold["train"]} & {person[c] for c in fold["val"]}


@given(people, st.data())
def test_folds_differ_by_no_more_than_one_persons_images(
    images: dict[str, int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(2, len(images)))
    sizes = [len(fold["val"]) for fold in k_folds(cases_of(images), folds=count, seed=1)]
    assert max(sizes) - min(sizes) <= max(images.values())


@given(people, st.randoms(use_true_random=False))
def test_the_order_of_the_files_changes_nothing(images: dict[str, int], random: object) -> None:
    cases = cases_of(images)
    shuffled = list(cases)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert k_folds(cases, folds=2, seed=3) == k_folds(shuffled, folds=2, seed=3)


def test_the_seed_shuffles_the_people() -> None:
    cases = [case(f"p{number}") for number in range(20)]
    splits = [k_folds(cases, folds=5, seed=seed) for seed in range(5)]
    assert splits[0] == k_folds(cases, folds=5, seed=0)
    assert any(split != splits[0] for split in splits[1:])


def test_fewer_people_than_folds_are_refused_with_the_most_folds_that_work() -> None:
    cases = [case("a", number) for number in range(9)] + [case("b"), case("c")]
    with pytest.raises(CaHpcError, match="5 folds need at least 5 people, the data have 3") as told:
        k_folds(cases, folds=5, seed=0)
    assert told.value.hint == "set splits.folds to 3 or less"


def test_one_person_cannot_be_split() -> None:
    with pytest.raises(CaHpcError) as told:
        k_folds([case("a", 0), case("a", 1)], folds=2, seed=0)
    assert told.value.hint == "add data"
