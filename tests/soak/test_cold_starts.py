"""As in the local tier, more often."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cold_starts import preprocessed_run, race, train_for_real

RACES = 50


def test_five_folds_race_fifty_times_and_all_of_them_are_whole(tmp_path: Path) -> None:
    calm = preprocessed_run(tmp_path)
    for number in range(RACES):
        race(calm, folder := tmp_path / f"race-{number}")
        shutil.rmtree(folder)


@pytest.mark.parametrize("number", range(3))
def test_five_folds_submitted_as_a_job_train_at_once(tmp_path: Path, number: int) -> None:
    train_for_real(tmp_path)
