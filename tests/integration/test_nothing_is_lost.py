"""Interruptions, failures, a lost node, slices: a share of what the soak does, side by side.

They mostly wait, so all are begun together, those that were chosen; each test takes its own end.
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
    """By the name of the test that waits for it."""
    rng = random.Random(seed)
    with (
        work_folder(hpc_user, request, name="nothing-is-lost") as work,
        nothing_left(hpc_user.uid),
    ):
        scene = partial(scene_in, user=hpc_user, python=host_python, image=image)
        scenes = [scene(work / one.root.name, cluster=one) for one in (cluster, cgroup_cluster)]
        scenarios: dict[str, Callable[[], object]] = {
            "test_six_interruptions_lose_nothing": partial(
                six_interruptions, scenes, random.Random(rng.random())
            ),
            "test_a_failed_fold_is_told_why_and_runs_again_while_the_others_stay": partial(
                fail_and_mend,
                scene(work / "failures", cluster=cluster),
                [BY_NAME[name] for name in THREE],
                name="wrong",
            ),
            "test_a_task_of_a_lost_node_runs_again_and_its_old_copy_changes_nothing": partial(
                lost_node, scene(work / "lost", cluster=spare_cluster)
            ),
            "test_five_folds_in_the_image_train_at_once": partial(
                train_at_once, scene(work / "cold", cluster=cluster)
            ),
            "test_ten_kills_of_the_trainer_lose_no_more_than_since_the_last_checkpoint": partial(
                killed_and_compared,
                scene(work / "killed", cluster=cgroup_cluster),
                anywhere=6,
                writing=4,
                trainings=2,
                rng=random.Random(rng.random()),
            ),
            "test_a_training_in_slices_ends_with_the_weights_of_one_in_one_job": partial(
                in_slices,
                scene(work / "slices", cluster=cgroup_cluster),
                [rng.choice(WAYS)],
                epochs=EPOCHS,
                pace_s=PACE_S,
                seconds=900,
            ),
        }
        chosen = {item.name for item in request.session.items}
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
    return [line for run in runs for line in run.result()]


def own(outcomes: Outcomes, request: pytest.FixtureRequest) -> object:
    return outcomes[request.node.name].result()


def test_six_interruptions_lose_nothing(outcomes: Outcomes, request: pytest.FixtureRequest) -> None:
    told = own(outcomes, request)
    assert isinstance(told, list) and len(told) == 6


def test_a_failed_fold_is_told_why_and_runs_again_while_the_others_stay(
    outcomes: Outcomes, request: pytest.FixtureRequest
) -> None:
    own(outcomes, request)


def test_a_task_of_a_lost_node_runs_again_and_its_old_copy_changes_nothing(
    outcomes: Outcomes, request: pytest.FixtureRequest
) -> None:
    own(outcomes, request)


def test_five_folds_in_the_image_train_at_once(
    outcomes: Outcomes, request: pytest.FixtureRequest
) -> None:
    own(outcomes, request)


def test_ten_kills_of_the_trainer_lose_no_more_than_since_the_last_checkpoint(
    outcomes: Outcomes, request: pytest.FixtureRequest
) -> None:
    print(own(outcomes, request))


def test_a_training_in_slices_ends_with_the_weights_of_one_in_one_job(
    outcomes: Outcomes, request: pytest.FixtureRequest
) -> None:
    jobs = own(outcomes, request)
    assert isinstance(jobs, dict)
    assert all(count >= 2 for count in jobs.values()), f"over within one slice: {jobs}"
