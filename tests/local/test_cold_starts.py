"""All folds at once on a cold cache: nothing is shared but what is read."""

from __future__ import annotations

from pathlib import Path

from tests.cold_starts import preprocessed_run, race, train_for_real

RACES = 10


def test_five_folds_race_ten_times_and_all_of_them_are_whole(tmp_path: Path) -> None:
    calm = preprocessed_run(tmp_path)
    for number in range(RACES):
        race(calm, tmp_path / f"race-{number}")


def test_five_folds_submitted_as_a_job_train_at_once(tmp_path: Path) -> None:
    train_for_real(tmp_path)
