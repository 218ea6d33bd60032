"""Published splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.sources.scanning import BIDS, problems, scanned, with_keys

Put = Callable[..., None]

OTHER = "{type: bids, name: b, path: HERE/other, label_suffix: _seg}"
FLAT = "train:\n- sub-01\n- sub-02\nval:\n- sub-03\ntest:\n- sub-04\n"
JOB = "splits: {file: HERE/split.yaml}"
OF_SOURCE = "split: {file: HERE/split.yaml}"


@pytest.fixture(autouse=True)
def images(put_bids: Put) -> None:
    put_bids(*(f"sub-{n:02}_T2w" for n in range(1, 5)))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], None]:
    def write(text: str, name: str = "split.yaml") -> None:
        (tmp_path / name).write_text(text)

    return write


def roles(here: Path, *sources: str, more: str = "") -> dict[str, str | None]:
    return {case.subject: case.split for case in scanned(here, *sources, more=more).cases}


@pytest.mark.parametrize(("source", "more"), [(BIDS, JOB), (with_keys(BIDS, OF_SOURCE), "")])
def test_lists_give_each_subject_its_part(
    tmp_path: Path, write: Put, source: str, more: str
) -> None:
    write(FLAT)
    assert roles(tmp_path, source, more=more) == {
        "sub-01": "train", "sub-02": "train", "sub-03": "val", "sub-04": "test",
    }  # fmt: skip


def test_other_names_json_and_further_keys(tmp_path: Path, write: Put) -> None:
    value = {"dataset_name": "x", "version": 3, "training": ["sub-01", "02"],
             "validation": ["sub-03"], "test": ["sub-04"]}  # fmt: skip
    write(json.dumps(value), "split.json")
    found = scanned(tmp_path, BIDS, more=JOB.replace("yaml", "json"))
    assert [case.split for case in found.cases] == ["train", "train", "val", "test"]
    assert found.remarks == ()


def test_persons_and_sessions_may_be_listed(tmp_path: Path, put_bids: Put, write: Put) -> None:
    put_bids("sub-x1_ses-a_T2w", "sub-x1_ses-b_T2w", "sub-x2_T2w", top="other")
    write("train: [sub-x1_ses-a]\nval: [sub-x1_ses-b]\ntest: [x2]\n")
    source = with_keys(OTHER, f"person: {{pattern: 'sub-(.*)'}}, {OF_SOURCE}")
    found = scanned(tmp_path, source)
    assert [case.split for case in found.cases] == ["train", "val", "test"]


def test_one_file_may_hold_several_sources(tmp_path: Path, put_bids: Put, write: Put) -> None:
    put_bids("sub-01_T2w", "sub-02_T2w", top="other")
    a = "s1: {train: [sub-01, sub-02], val: [sub-03, sub-04]}\n"
    write(f"version: 3\n{a}b: {{train: [sub-02], test: [sub-01]}}\nunused: {{train: [sub-09]}}\n")
    found = scanned(tmp_path, BIDS, OTHER, more=JOB)
    assert {(case.source, case.subject): case.split for case in found.cases} == {
        ("s1", "sub-01"): "train", ("s1", "sub-02"): "train",
        ("s1", "sub-03"): "val", ("s1", "sub-04"): "val",
        ("b", "sub-01"): "test", ("b", "sub-02"): "train",
    }  # fmt: skip
    write(a)
    assert problems(tmp_path, BIDS, OTHER, more=JOB) == [
        f"splits: {tmp_path}/split.yaml has no lists for the source b; it has: s1"
    ]


def test_a_source_of_several_may_be_called_as_a_list_is(tmp_path: Path, write: Put) -> None:
    write("test: {train: [sub-01, sub-02], val: [sub-03, sub-04]}\n")
    assert roles(tmp_path, with_keys(BIDS, "name: test"), more=JOB) == {
        "sub-01": "train", "sub-02": "train", "sub-03": "val", "sub-04": "val",
    }  # fmt: skip


def test_entries_with_reasons_are_a_list(tmp_path: Path, write: Put) -> None:
    write("train: {sub-01: a, sub-02: b}\nval: [sub-03]\ntest: {sub-04: motion}\n")
    assert roles(tmp_path, BIDS, more=JOB) == {
        "sub-01": "train", "sub-02": "train", "sub-03": "val", "sub-04": "test",
    }  # fmt: skip


def test_who_is_in_no_list_is_left_out_and_told_and_who_is_not_there_too(
    tmp_path: Path, put_bids: Put, write: Put
) -> None:
    put_bids(*(f"sub-1{n}_{contrast}" for n in range(5) for contrast in ("T1w", "T2w")))
    write(FLAT + "- sub-77\n- sub-78\n- sub-79\n- sub-80\n")
    found = scanned(tmp_path, BIDS, more=JOB)
    assert len(found.cases) == 4
    assert found.remarks == (
        "s1: 5 subjects are in no list of split.yaml, left out: sub-10, sub-11, sub-12, …",
        "split.yaml: 4 subjects are not in the data: sub-77, sub-78, sub-79, …",
    )


def test_a_list_with_another_name_is_told(tmp_path: Path, write: Put) -> None:
    write("train: [sub-01, sub-02, sub-03]\nvalidaton: [sub-04]\n")
    assert scanned(tmp_path, BIDS, more=JOB).remarks == (
        "split.yaml: its list validaton (did you mean validation?) is none of train, val and test",
        "s1: 1 subject is in no list of split.yaml, left out: sub-04",
    )


def test_nobody_is_in_two_lists(tmp_path: Path, write: Put) -> None:
    write("train: [sub-01, sub-09]\nval: [sub-02, '01']\ntest: [sub-09, sub-03, sub-04]\n")
    assert problems(tmp_path, BIDS, more=JOB) == [
        f"{tmp_path}/split.yaml: sub-09 is in test and train",
        f"{tmp_path}/split.yaml: sub-01 (sub-01, 01) is in train and val",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train:\n\t- sub-01\n", "split.yaml:2:1: found character '\\t'"),
        ("- sub-01\n", "split.yaml: should have lists train, val and test"),
        ("folds: 5\n", "split.yaml: has no lists train, val and test, nor has a source in it"),
        ("a: {b: [x]}\n", "split.yaml: has no lists train, val and test, nor has a source in it"),
        ("train: [a]\ntrain: [b]\n", "split.yaml:2:1: train is given twice"),
        ("train: [[a]]\n", "split.yaml: ['a'] is no subject and no image"),
        ("train: sub-01\n", "split.yaml: should be a list of subjects or images"),
    ],
)
def test_a_broken_file_is_a_problem_with_file_and_line(
    tmp_path: Path, write: Put, text: str, reason: str
) -> None:
    write(text)
    (problem,) = problems(tmp_path, BIDS, more=JOB)
    assert problem.startswith(f"splits: {tmp_path}/{reason}")


def test_a_sources_own_split_and_test_set_go_before_the_jobs(
    tmp_path: Path, put_bids: Put, write: Put
) -> None:
    put_bids("sub-01_T2w", top="other")
    write(FLAT)
    kept = with_keys(OTHER, "test_set: site-b")
    found = scanned(tmp_path, BIDS, kept, more=JOB)
    assert [case.split for case in found.cases][-1] == "site-b"
    drawn = with_keys(OTHER, "split: {train: 0.5, val: 0.5}")
    found = scanned(tmp_path, BIDS, drawn, more=JOB)
    assert [case.split for case in found.cases] == ["train", "train", "val", "test", None]
    assert not any("list" in remark for remark in found.remarks)
