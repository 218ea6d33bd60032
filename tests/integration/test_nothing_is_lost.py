"""Interruptions, failures, kills, a lost node, slices: a share of the soak, side by side.

They mostly wait, so all are begun together; each test waits for the end of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.integration.cold_start import train_at_once
from tests.integration.conftest import scene_in, work_folder
from tests.integration.failures import BY_NAME, fail_and_mend
from tests.integration.interruptions import KINDS, interrupted_run, nothing_left, plan
from tests.integration.jobs import HpcUser
from tests.integration.killed import killed_and_compared
from tests.integration.lost_node import lost_node
from tests.integration.slices import WAYS, in_slices
from tests.integration.watched import Scene
from tests.lab.cluster import Cluster

ALWAYS = 5  # of the first kinds of interruptions; the sixth is one of the others
THREE = ("exception", "os._exit", "memory")  # of the twelve failures
WORKERS = (1, 3)  # augmentation processes, on each of the two clusters; the slices have none
EPOCHS, PACE_S = 8, 0.55  # two slices

SCENARIOS = (
    "six interruptions",
    "three failures",
    "a lost node",
    "a cold start",
    "ten kills",
    "slices",
)

Outcomes = Mapping[str, Future[object]]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    hpc_user: HpcUser,
    cluster: Cluster,
    cgroup_cluster: Cluster,
    spare_cluster: Cluster,
    host_python: Path,
    image: Path,
    seed: int,
) -> Iterator[Outcomes]:
    """By the name of the scenario, of those whose tests were chosen."""
    rng = random.Random(seed)
    with (
        work_folder(hpc_user, request, name="nothing-is-lost") as work,
        nothing_left(hpc_user.uid),
    ):
        scene = partial(scene_in, user=hpc_user, python=host_python, image=image)
        scenes = [scene(work / one.root.name, cluster=one) for one in (cluster, cgroup_cluster)]
        scenarios: dict[str, Callable[[], object]] = {
            "six interruptions": partial(six_interruptions, scenes, random.Random(rng.random())),
            "three failures": partial(
                fail_and_mend,
                scene(work / "failures", cluster=cluster),
                [BY_NAME[name] for name in THREE],
                name="wrong",
            ),
            "a lost node": partial(lost_node, scene(work / "lost", cluster=spare_cluster)),
            "a cold start": partial(train_at_once, scene(work / "cold", cluster=cluster)),
            "ten kills": partial(
                killed_and_compared,
                scene(work / "killed", cluster=cgroup_cluster),
                anywhere=6,
                writing=4,
                trainings=2,
                rng=random.Random(rng.random()),
            ),
            "slices": partial(
                in_slices,
                scene(work / "slices", cluster=cgroup_cluster),
                [rng.choice(WAYS)],
                epochs=EPOCHS,
                pace_s=PACE_S,
                at_least=2,
                seconds=900,
            ),
        }
        chosen = {
            item.callspec.params.get("scenario")
            for item in request.session.items
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        }
        with ThreadPoolExecutor(len(scenarios)) as threads:
            yield {name: threads.submit(do) for name, do in scenarios.items() if name in chosen}


def six_interruptions(scenes: Sequence[Scene], rng: random.Random) -> list[str]:
    kinds = [*KINDS[:ALWAYS], rng.choice(KINDS[ALWAYS:])]
    plans = plan(kinds, rng=rng, trainings=len(scenes))
    with ThreadPoolExecutor(len(scenes)) as threads:
        runs = [
            threads.submit(interrupted_run, scene, [one], name="again", workers=workers, rng=rng)
            for scene, one, workers in zip(scenes, plans, WORKERS, strict=True)
        ]
    told = [line for run in runs for line in run.result()]
    assert len(told) == len(kinds)
    return told


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_by(outcomes: Outcomes, scenario: str) -> None:
    print(outcomes[scenario].result())
