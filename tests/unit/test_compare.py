"""Runs and archives compared: metrics, weights, and what is recorded otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc.actions.compare import compare
from ca_hpc.errors import CaHpcError
from ca_hpc.report.scores import read_scores, write_scores
from ca_hpc.store.run_folder import RunFolder
from tests.rerunnable import rerunnable
from tests.unit.test_archive import archived, forged


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two runs of equal inputs and results, at two places."""
    return rerunnable(tmp_path / "here"), rerunnable(tmp_path / "there")


def test_equal_runs_differ_in_their_folder_alone(runs: tuple[RunFolder, RunFolder]) -> None:
    found = compare([run.path for run in runs])
    assert found.within
    assert found.identical == {
        f"{arm} fold {fold}": True for arm in ("finetune", "scratch") for fold in (0, 1)
    }
    (rows,) = found.drift.values()
    assert [row.aspect for row in rows if row.verdict != "same"] == ["folder"]


def test_a_metric_beyond_the_tolerance_is_told(runs: tuple[RunFolder, RunFolder]) -> None:
    first, second = runs
    write_scores([replace(score, dice=0.85) for score in read_scores(second.path)], second.path)
    assert not compare([first.path, second.path], tolerance=0.04).within
    assert compare([first.path, second.path], tolerance=0.06).within
    beyond = [row.measure for row in compare([first.path, second.path]).rows if not row.within(0)]
    assert beyond == ["dice"]


def test_other_weights_of_a_fold_are_told(runs: tuple[RunFolder, RunFolder]) -> None:
    first, second = runs
    (file,) = second.results("scratch").glob("*/*/fold_1/validation/predicted_by.json")
    file.write_text(file.read_text().replace("1111", "2222"))
    others = compare([first.path, second.path]).identical
    assert [fold for fold, same in others.items() if not same] == ["scratch fold 1"]


def test_an_archive_under_other_names_compares_by_its_means(
    tmp_path: Path, runs: tuple[RunFolder, RunFolder]
) -> None:
    study = archived(runs[0], tmp_path / "study.tar").file
    found = compare([study, runs[0].path])
    assert found.within and all(found.identical.values())
    (rows,) = found.drift.values()
    told = {row.aspect: row.verdict for row in rows if row.verdict != "same"}
    assert told == {"splits.folds": "expected", "folder": "expected", "node": "unknown"}
    assert "splits.folds.content" in {row.aspect for row in rows if row.verdict == "same"}


def test_other_splits_drift_under_any_names(
    tmp_path: Path, runs: tuple[RunFolder, RunFolder]
) -> None:
    study = archived(runs[0], tmp_path / "study.tar").file
    file = runs[1].file("splits.json")
    first, second = json.loads(file.read_text())
    file.write_text(json.dumps([second, first]))
    (rows,) = compare([study, runs[1].path]).drift.values()
    drifted = [row.aspect for row in rows if row.verdict == "drift"]
    assert drifted == ["splits.folds", "splits.folds.content"]


def test_scores_of_an_archive_that_are_none_are_refused(
    tmp_path: Path, runs: tuple[RunFolder, RunFolder]
) -> None:
    study = archived(runs[0], tmp_path / "study.tar", without=["wheels"]).file
    for number, text in enumerate(('[{"dice": "0.9"}]', "[", '[{"arm": null}]')):
        bad = forged(study, tmp_path / f"{number}.tar", **{"evaluation/scores.json": text})
        with pytest.raises(CaHpcError, match=f"{number}.tar cannot be read"):
            compare([bad, runs[0].path])


@pytest.mark.parametrize("name", ["splits.json", "test_sets.json", "cases.tsv"])
def test_a_damaged_file_of_a_run_is_named(runs: tuple[RunFolder, RunFolder], name: str) -> None:
    runs[1].file(name).write_bytes(b"\xff\xfe")
    with pytest.raises(CaHpcError, match=f"{name} cannot be read"):
        compare([run.path for run in runs])


def test_without_scores_there_is_nothing_to_compare(runs: tuple[RunFolder, RunFolder]) -> None:
    first, second = runs
    second.file("evaluation", "scores.json").unlink()
    with pytest.raises(CaHpcError, match="no scores"):
        compare([first.path, second.path])
    with pytest.raises(CaHpcError, match="compares to nothing"):
        compare([first.path])
