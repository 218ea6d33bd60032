"""Five folds at once on a cold cache: fifty races of the steps, and three jobs on SLURM."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cold_starts import preprocessed_run, race
from tests.integration.cold_start import train_at_once
from tests.integration.watched import Scene

RACES = 50


def test_five_folds_race_fifty_times_and_all_of_them_are_whole(tmp_path: Path) -> None:
    calm = preprocessed_run(tmp_path)
    for number in range(RACES):
        race(calm, folder := tmp_path / f"race-{number}")
        shutil.rmtree(folder)


@pytest.mark.parametrize("number", range(3))
def test_five_folds_in_the_image_train_at_once(scene: Scene, number: int) -> None:
    train_at_once(scene)
