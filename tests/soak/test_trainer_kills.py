"""Fifty kills of the trainer: in the image on SLURM, and of its process alone."""

from __future__ import annotations

import random
from pathlib import Path

from tests.blobs import blobs_in
from tests.integration.interruptions import nothing_left
from tests.integration.killed import killed_and_compared
from tests.integration.watched import Scene
from tests.trainer_kills import seed_of_this_run, survives_kills


def test_a_trainer_survives_fifty_kills_twenty_of_them_while_it_writes(tmp_path: Path) -> None:
    data = blobs_in(tmp_path / "nnunet")
    survives_kills(data, tmp_path, anywhere=30, writing=20, seed=seed_of_this_run())


def test_in_the_image_too_slurm_starts_it_again_fifty_times(scene: Scene, seed: int) -> None:
    with nothing_left(scene.site.user.uid):
        told = killed_and_compared(
            scene, anywhere=30, writing=20, trainings=4, rng=random.Random(seed)
        )
    print(told)
