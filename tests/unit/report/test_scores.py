"""Scores and comparisons as files: what was written comes back, also what is undefined."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from math import isnan, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.errors import CaHpcError
from ca_hpc.report.comparison import compare
from ca_hpc.report.model import CaseScore
from ca_hpc.report.scores import read_scores, read_summary, write_comparison, write_scores

SCORE = CaseScore(
    arm="finetune",
    fold=0,
    case="s1-sub-01-T2w",
    person="sub-01",
    session=None,
    contrast="T2w",
    source="s1",
    label="cord",
    dice=0.9,
    precision=nan,
    sensitivity=1.0,
    relative_volume_difference=-0.25,
)


def same(one: CaseScore, other: CaseScore) -> bool:
    pairs = zip(asdict(one).values(), asdict(other).values(), strict=True)
    return all(a == b or (a != a and b != b) for a, b in pairs)


def test_scores_come_back_as_they_were(tmp_path: Path) -> None:
    write_scores([SCORE], tmp_path)
    (found,) = read_scores(tmp_path)
    assert same(found, SCORE)
    assert found.session is None
    assert isnan(found.precision)


@given(dice=st.floats(0, 1) | st.just(nan), fold=st.integers(0, 9) | st.just("all"))
def test_numbers_come_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, dice: float, fold: int | str
) -> None:
    folder = tmp_path_factory.mktemp("run")
    score = CaseScore(**{**asdict(SCORE), "dice": dice, "fold": fold})
    write_scores([score], folder)
    (found,) = read_scores(folder)
    assert same(found, score)


def test_what_is_undefined_is_null_for_programs_and_empty_for_people(tmp_path: Path) -> None:
    write_scores([SCORE], tmp_path)
    text = (tmp_path / "evaluation/scores.json").read_text()
    (row,) = json.loads(text, parse_constant=lambda word: f"not JSON: {word}")
    assert row["precision"] is None
    with (tmp_path / "evaluation/scores.csv").open(newline="") as stream:
        (line,) = csv.DictReader(stream)
    assert (line["precision"], line["dice"], line["session"]) == ("", "0.9", "")
    assert list(line) == list(asdict(SCORE))


def test_the_comparison_is_a_file_for_programs_and_its_sentences_come_back(tmp_path: Path) -> None:
    other = CaseScore(**{**asdict(SCORE), "arm": "scratch", "dice": 0.4})
    weights = {"finetune": "pretrained", "scratch": "random"}
    comparisons = compare([SCORE, other], weights=weights)
    write_comparison(comparisons, tmp_path, summary=("finetune is better.", "So it is."))
    document = json.loads((tmp_path / "evaluation/comparison.json").read_text())
    (row,) = document["comparisons"]
    assert (row["arm"], row["baseline"], row["differences"]) == ("finetune", "scratch", [0.5])
    assert (row["n"], row["higher"], row["lower"], row["interval"]) == (1, 1, 0, None)
    assert read_summary(tmp_path) == ("finetune is better.", "So it is.")


WRONG: dict[str, dict[str, object]] = {
    "text for a number": {"dice": "0.9"},
    "no text": {"person": []},
    "nothing where a name belongs": {"source": None},
    "more than all": {"dice": 1.5},
    "what sums overflow with": {"relative_volume_difference": 1e308},
}


@pytest.mark.parametrize("what", WRONG)
def test_scores_that_no_evaluation_says_are_refused(tmp_path: Path, what: str) -> None:
    write_scores([SCORE], tmp_path)
    file = tmp_path / "evaluation/scores.json"
    (row,) = json.loads(file.read_text())
    file.write_text(json.dumps([row | WRONG[what]]))
    with pytest.raises(CaHpcError, match=r"scores\.json cannot be read"):
        read_scores(tmp_path)


@pytest.mark.parametrize("raw", [b"[{", b"\xff\xfe", b"{}", b"[1]", b'[{"dice": Infinity}]'])
def test_a_damaged_file_of_scores_is_named(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/scores.json").write_bytes(raw)
    with pytest.raises(CaHpcError, match=r"scores\.json cannot be read"):
        read_scores(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"summary": 1}'])
def test_a_damaged_comparison_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "evaluation/comparison.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(CaHpcError, match=r"comparison\.json cannot be read"):
        read_summary(tmp_path)


def test_before_the_report_there_are_no_sentences(tmp_path: Path) -> None:
    assert read_summary(tmp_path) == ()


def test_before_the_evaluation_there_are_no_scores(tmp_path: Path) -> None:
    assert read_scores(tmp_path) == ()


def test_scores_written_before_there_were_test_sets_are_of_the_validation(tmp_path: Path) -> None:
    write_scores([SCORE], tmp_path)
    file = tmp_path / "evaluation/scores.json"
    rows = [
        {key: value for key, value in row.items() if key not in ("split", "people")}
        for row in json.loads(file.read_text())
    ]
    file.write_text(json.dumps(rows))
    (found,) = read_scores(tmp_path)
    assert (found.split, found.owner) == ("validation", ("s1", "sub-01"))


def test_scores_of_a_test_set_come_back(tmp_path: Path) -> None:
    score = CaseScore(**{**asdict(SCORE), "split": "site-b", "fold": "ensemble", "people": "h"})
    write_scores([score], tmp_path)
    (found,) = read_scores(tmp_path)
    assert (found.split, found.fold, found.owner) == ("site-b", "ensemble", ("h", "sub-01"))
