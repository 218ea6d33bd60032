"""Runs and archives compared: metrics, weights, and what is recorded otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc.actions.compare import compare
from ca_hpc.errors import CaHpcError
from ca_hpc.report.scores import read_scores, write_scores
from ca_hpc.store.run_folder import RunFolder
from tests.rerunnable import rerunnable
from tests.unit.test_archive import archived


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
    drifted = [row.aspect for row in rows if row.verdict == "drift"]
    assert drifted == ["splits.folds"]


def test_without_scores_there_is_nothing_to_compare(runs: tuple[RunFolder, RunFolder]) -> None:
    first, second = runs
    second.file("evaluation", "scores.json").unlink()
    with pytest.raises(CaHpcError, match="no scores"):
        compare([first.path, second.path])
    with pytest.raises(CaHpcError, match="compares to nothing"):
        compare([first.path])
