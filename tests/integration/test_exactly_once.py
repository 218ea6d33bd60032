"""Exactly one array each, on real SLURM: the controller away, the command killed, or both."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from ca_hpc.actions.two_sides import PROGRAMS
from tests.integration.exactly_once import STAGES, Desk, disturbed, killed_at_every_point
from tests.integration.jobs import HpcUser
from tests.lab.cluster import Cluster

# how the controller is away, and whether the command is killed meanwhile: each in turn
KINDS = tuple(itertools.product(("frozen", "dead"), (False, True)))
TIMES = 4


@pytest.fixture
def desk(
    cluster: Cluster, hpc_user: HpcUser, host_python: Path, work: Path, demo_checkpoint: Path
) -> Desk:
    return Desk.new(
        work, cluster=cluster, user=hpc_user, python=host_python, checkpoint=demo_checkpoint
    )


def test_a_controller_that_is_away_while_a_stage_is_submitted(desk: Desk, seed: int) -> None:
    away(desk, times=TIMES, seed=seed)


def test_killed_at_every_point_the_next_call_ends_with_one_array_each(desk: Desk) -> None:
    points = killed_at_every_point(desk)
    print(f"killed at {len(points)} points and after each of {len(STAGES)} sbatch")
    started = sum(point.startswith("subprocess.Popen") for point in points)
    assert started == len(STAGES) + len(PROGRAMS)


def away(desk: Desk, *, times: int, seed: int) -> None:
    chance = random.Random(seed)
    for how, killed in itertools.islice(itertools.cycle(KINDS), times):
        print(disturbed(desk, chance, how=how, killed=killed), flush=True)
