"""Thirty interruptions: every kind, in every phase, with linuxproc and with cgroups."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.integration.interruptions import KINDS, interrupted_run, nothing_left, plan
from tests.integration.watched import Scene

TRAININGS = 5  # on each cluster; three interruptions each
WORKERS = (1, 3)  # augmentation processes; the slices have none


def test_thirty_interruptions_lose_nothing(scenes: Sequence[Scene], seed: int) -> None:
    rng = random.Random(seed)
    plans = [plan(KINDS, rng=rng, trainings=TRAININGS) for _ in scenes]
    seeds = [rng.random() for _ in scenes]
    with nothing_left(scenes[0].site.user.uid), ThreadPoolExecutor(len(scenes)) as threads:
        runs = [
            threads.submit(
                interrupted_run,
                scene,
                some,
                name="again",
                workers=workers,
                rng=random.Random(drawn),
            )
            for scene, some, workers, drawn in zip(scenes, plans, WORKERS, seeds, strict=True)
        ]
        told = [line for run in runs for line in run.result()]
    assert len(told) == 30
