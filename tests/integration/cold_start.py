"""Five folds of one arm begin at the same time, each in the image, in a run that has just begun."""

from __future__ import annotations

from ca_hpc.store.run_folder import RunFolder
from tests.cold_starts import FOLDS, assert_at_once, assert_whole
from tests.integration.jobs import why
from tests.integration.watched import Scene

ARM = "finetune"


def train_at_once(scene: Scene) -> None:
    """Raises AssertionError unless all end whole, with the same splits."""
    spec = scene.job("cold", folds=FOLDS)
    # one of the four nodes takes two: a GPU, of which each has one, would keep the fifth waiting
    spec["resources"] = {"train": {"gpus": 0, "cpus": 1, "memory": "2500MB"}}
    folder = scene.site.submit(scene.site.write("cold", spec))
    status = scene.site.follow(folder)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(folder, status)
    assert_at_once(RunFolder(folder), arm=ARM)
    assert_whole(RunFolder(folder), arm=ARM)
