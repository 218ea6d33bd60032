"""What holds for all sources together: names, people, regions, the list of problems."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.errors import CaHpcError
from ca_hpc.sources.names import MOST_ID, case_id
from tests.unit.sources.scanning import BIDS, problems, scanned, with_keys

Put = Callable[..., None]

AGAIN = with_keys(BIDS, "name: again")


def test_cases_of_several_sources_have_different_names(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w")
    found = scanned(tmp_path, BIDS, AGAIN)
    assert [case.id for case in found.cases] == ["s1-sub-01-T2w", "again-sub-01-T2w"]


@given(source=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), stem=st.text(max_size=300))
def test_a_case_is_named_in_letters_digits_and_dashes_and_not_too_long(
    source: str, stem: str
) -> None:
    name = case_id(source, stem)
    assert re.fullmatch(r"[A-Za-z0-9-]+", name)
    assert len(name) <= MOST_ID
    assert case_id(source, stem) == name


def test_long_names_that_begin_alike_stay_apart() -> None:
    stem = "sub-01_" + "x" * 300
    assert case_id("s1", stem + "a") != case_id("s1", stem + "b")
    assert case_id("s1", "sub-01_T2w") == "s1-sub-01-T2w"


@pytest.mark.parametrize("path", ["HERE/gone", "HERE/" + "x" * 300])
def test_a_path_that_is_not_there_is_named(tmp_path: Path, path: str) -> None:
    (problem,) = problems(tmp_path, BIDS.replace("HERE/bids", path))
    assert problem.startswith("data[0]: ")
    assert path.replace("HERE", str(tmp_path)) in problem


def test_all_problems_of_all_sources_are_told_at_once(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w")
    sources = (BIDS, "{type: nnunet, path: HERE/bids}", AGAIN)
    lines = problems(tmp_path, *sources, more="regions: {lesion: [2]}")
    assert lines == [
        f"{tmp_path}/bids/dataset.json cannot be read as JSON: No such file or directory",
        "regions.lesion: no label has the value 2",
    ]


def test_of_many_problems_the_first_20_are_shown(tmp_path: Path) -> None:
    rows = "".join(f"gone{n}.nii.gz,seg{n}.nii.gz,a\n" for n in range(30))
    (tmp_path / "pairs.csv").write_text(f"image,label,subject\n{rows}")
    with pytest.raises(CaHpcError) as refused:
        scanned(tmp_path, "{type: pairs, path: HERE/pairs.csv}")
    lines = refused.value.message.splitlines()
    assert lines[0] == "60 problems with the data"
    assert lines[-1] == "… and 40 more"
    assert len(lines) == 22


# --- people --------------------------------------------------------------------------------------


def test_the_same_name_in_two_sources_is_two_people_and_that_is_told(
    tmp_path: Path, put_bids: Put
) -> None:
    put_bids("sub-01_T2w", "sub-02_T2w")
    found = scanned(tmp_path, BIDS, AGAIN)
    assert {case.people for case in found.cases} == {"s1", "again"}
    assert found.remarks == (
        "sub-01 and 1 more in s1 and in again count as different people; if they are the same, "
        "give these sources the same `people: NAME`",
    )


def test_sources_that_share_their_people_say_so(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w")
    found = scanned(tmp_path, *(with_keys(each, "people: zurich") for each in (BIDS, AGAIN)))
    assert {case.people for case in found.cases} == {"zurich"}
    assert found.remarks == ()


@pytest.mark.parametrize("keys", ["", "person: {pattern: '(sub-.*)'}"])
def test_shared_people_go_by_their_label_whether_it_is_written_with_sub_or_not(
    tmp_path: Path, put: Put, put_bids: Put, keys: str
) -> None:
    put_bids("sub-01_T2w")
    put("a.nii.gz", "seg.nii.gz")
    (tmp_path / "pairs.csv").write_text("image,label,subject\na.nii.gz,seg.nii.gz,01\n")
    own = with_keys(BIDS, "people: hosp" + (f", {keys}" if keys else ""))
    found = scanned(tmp_path, own, "{type: pairs, path: HERE/pairs.csv, people: hosp}")
    assert [(case.people, case.person) for case in found.cases] == [("hosp", "01")] * 2
    assert found.remarks == ()
    apart = scanned(tmp_path, BIDS, "{type: pairs, path: HERE/pairs.csv}")
    assert apart.remarks[0].startswith("sub-01 in s1 and in s2 count as different people")


def test_sources_that_share_people_and_have_none_in_common_are_told(
    tmp_path: Path, put_bids: Put
) -> None:
    put_bids("sub-01_T2w", "sub-02_T2w")
    put_bids("sub-h01_T2w", top="other")
    shared = with_keys(BIDS, "people: hosp")
    assert scanned(tmp_path, shared, shared.replace("HERE/bids", "HERE/other")).remarks == (
        "s1 has nobody in common with the other sources of `people: hosp`: it has 01, 02, they "
        "have h01; if some are the same, let `person` name them alike",
    )


# --- regions -------------------------------------------------------------------------------------


def test_regions_are_sorted_the_outer_first(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w")
    more = "labels: {cord: 1, lesion: 2}\nregions: {lesion: [2], all: [2, 1]}"
    found = scanned(tmp_path, BIDS, more=more)
    assert list(found.regions.items()) == [("all", (1, 2)), ("lesion", (2,))]
    assert found.labels == {"cord": 1, "lesion": 2}


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ("{a: [1, 3]}", "regions.a: no label has the value 3"),
        ("{a: [1, 2], b: [1, 2]}", "regions: a and b are the same values"),
    ],
)
def test_regions_that_cannot_be_learnt_are_a_problem(
    tmp_path: Path, put_bids: Put, regions: str, reason: str
) -> None:
    put_bids("sub-01_T2w")
    more = f"labels: {{cord: 1, lesion: 2}}\nregions: {regions}"
    assert reason in problems(tmp_path, BIDS, more=more)


# --- speed ---------------------------------------------------------------------------------------


def test_two_thousand_images_are_found_in_seconds(tmp_path: Path, put_bids: Put) -> None:
    put_bids(*(f"sub-{n:04}_T2w" for n in range(2000)))
    (tmp_path / "a.txt").write_text("\n".join(f"sub-{n:04}" for n in range(0, 2000, 2)))
    start = time.perf_counter()
    found = scanned(tmp_path, with_keys(BIDS, "exclude: [HERE/a.txt]"))
    assert len(found.cases) == 1000
    assert time.perf_counter() - start < 10  # under 1 s on an idle machine
