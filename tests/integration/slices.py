"""A long training in short jobs, nobody there; the same in a single job, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from ca_hpc.store.shipped import shipped
from tests.integration.jobs import why
from tests.integration.watched import Scene, attempts, final_weights, tell_pace
from tests.lab import queue

Way = Literal["requeue", "array", "resubmit"]
WAYS: tuple[Way, ...] = get_args(Way)
TASK = "train-finetune-fold0"
SLICE_S = 120
PER_EPOCH = 20


def submit(scene: Scene, *, way: Way | None, epochs: int, pace_s: float) -> Path:
    """One training in slices that go on in this ``way``; None: in one job, as fast as it can."""
    name = way or "whole"
    spec = scene.job(name, folds=1)
    spec["training"] |= {"epochs": epochs, "iterations_per_epoch": PER_EPOCH}
    spec["validation"]["mirroring"] = False
    profile: dict[str, Any] = yaml.safe_load(shipped("configs", "clusters", "lab.yaml").read_text())
    if way is not None:
        profile["continuation"] = way
        spec["resources"] = {"train": {"time": "30min", "slice": f"{SLICE_S}s"}}
    cluster = scene.site.write(f"{name}-cluster", profile)
    run = scene.site.submit(scene.site.write(name, spec), "--cluster", str(cluster))
    tell_pace(scene, run / "tasks" / TASK, pace_s if way else 0)
    return run


def in_slices(
    scene: Scene,
    ways: Sequence[Way],
    *,
    epochs: int,
    pace_s: float,
    at_least: int,
    seconds: float,
) -> dict[str, int]:
    """Each way and one training at once, side by side; how many jobs each took.

    Raises AssertionError unless all end, each within ``seconds`` of the one before and after
    ``at_least`` jobs, with the weights of the one that was not interrupted.
    """
    runs = {way: submit(scene, way=way, epochs=epochs, pace_s=pace_s) for way in (*ways, None)}
    jobs: dict[str, int] = {}
    found: dict[Way | None, str] = {}
    for way, run in runs.items():
        status = scene.site.follow(run, seconds=seconds)
        assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
        assert not queue.queued(scene.cluster, name=run.name)
        lived = attempts(run, TASK)
        trained = [event["epoch"] for one in lived for event in one.of("epoch")]
        assert trained == list(range(epochs)), f"{way}: {trained}"
        if way is not None:
            jobs[way] = len(lived)
            assert len(lived) >= at_least, f"{way}: over in {len(lived)} jobs"
        found[way] = final_weights(run, 0)
    assert len(set(found.values())) == 1, found
    return jobs
