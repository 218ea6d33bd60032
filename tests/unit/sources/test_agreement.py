"""What sources must have in common, packs of other jobs among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ca_hpc.core.record import Case, LabelFile
from ca_hpc.sources.agreement import Terms, agree
from ca_hpc.sources.faults import same_sources
from tests.unit.sources.scanning import BIDS, spec_of

MRI = ("MRI",)
SPEC = spec_of(Path("/x"), BIDS, more="labels: {cord: 1, lesion: 2}\nregions: {all: [1, 2]}")
ALL = {"all": (1, 2)}


def terms(key: str, labels: Mapping[str, int] | None, *, in_maps: bool = False) -> Terms:
    return Terms(key, labels, ALL, MRI, in_maps=in_maps)


def test_names_that_files_go_by_must_be_the_same_even_with_regions() -> None:
    (problem,) = agree(SPEC, [terms("a", None), terms("b", {"sc": 1, "ms": 2})]).problems
    assert problem == "b: labels {'sc': 1, 'ms': 2} differ from {'cord': 1, 'lesion': 2} before it"


def test_names_of_values_in_a_map_give_way_in_any_order() -> None:
    parts = [terms("a", {"all": 1, "all_2": 2}, in_maps=True), terms("b", None)]
    for order in (parts, parts[::-1]):
        agreed = agree(SPEC, order)
        assert agreed.problems == ()
        assert agreed.labels == {"cord": 1, "lesion": 2}
        assert agreed.regions == ALL


def test_channels_agree_in_how_they_are_normalised_and_how_many_they_are() -> None:
    def problems(*channels: tuple[str, ...]) -> int:
        return len(agree(SPEC, [Terms("k", None, ALL, each) for each in channels]).problems)

    assert problems(("MRI",), ("T2w",)) == 0
    assert problems(("MRI",), ("CT",)) == 1
    assert problems(("MRI",), ("MRI", "noNorm")) == 1
    assert problems(("T2", "nonorm"), ("MRI", "noNorm")) == 0


def test_channels_in_another_order_are_refused_also_behind_a_source_that_names_none() -> None:
    both, unnamed, turned = ("T1", "T2"), ("MRI", "MRI"), ("t2", "T1")
    for order in ((both, turned), (unnamed, both, turned)):
        agreed = agree(SPEC, [Terms("k", None, ALL, each) for each in order])
        assert agreed.problems == (
            "k: channels ('t2', 'T1') are ('T1', 'T2') before it in another order",
        )


def test_channels_with_other_names_are_told() -> None:
    def remarks(*channels: tuple[str, ...]) -> tuple[str, ...]:
        agreed = agree(SPEC, [Terms(f"s{n}", None, ALL, each) for n, each in enumerate(channels)])
        assert agreed.problems == ()
        return agreed.remarks

    assert remarks(("MRI", "MRI"), ("T1", "T2"), ("T1", "FLAIR")) == (
        "s2: its channels T1, FLAIR are taken for the T1, T2 of other sources",
    )
    assert remarks(("MRI",), ("T2",), ("t2",)) == ()


def test_a_source_that_cannot_be_read_contradicts_nobody() -> None:
    parts = [Terms("a", {}, {}, ()), terms("b", None)]
    assert agree(SPEC, parts).problems == ()


def test_sources_of_one_name_are_a_problem_also_in_a_pack() -> None:
    def case(source: str) -> Case:
        return Case(
            id=f"{source}-1",
            source=source,
            images=("i",),
            labels=(LabelFile("l"),),
            subject="1",
            person="1",
            session=None,
            contrast="MRI",
        )

    by_key = {"data[0]": [case("s1"), case("s1"), case("b")], "data[1]": [case("s1"), case("c")]}
    assert [*same_sources(by_key)] == [
        "data[1]: has a source named s1, as data[0] has; give it another name"
    ]
