"""One byte changed between submission and training, on real SLURM in the real image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.changed_bytes import flipped, planned
from tests.integration.jobs import Site, until, why
from tests.integration.watched import Scene

TRAINING = "train-finetune-fold0"


@pytest.fixture
def image(scene: Scene) -> Path:
    """A copy, since the scene's is a link to what other tests run."""
    copy = scene.site.folder / "copy.sif"
    for suffix in ("", ".json"):
        shutil.copy(f"{scene.image}{suffix}", f"{copy}{suffix}")
    return copy


def held(stage: str) -> dict[str, Any]:
    """A job's resources: what is held waits until it is released."""
    return {stage: {"sbatch": {"hold": True}}}


def state_of(site: Site, run: Path, name: str) -> dict[str, Any]:
    (task,) = (task for task in site.status(run)["tasks"] if task["task"] == name)
    return task  # type: ignore[no-any-return]


def release(site: Site, job: str) -> None:
    done = site.user.run(("scontrol", "release", job), env=site.environment)
    assert done.returncode == 0, done.stderr


def refused(site: Site, run: Path, name: str) -> dict[str, Any]:
    """The task, which was not begun when the run ended; to programs and to people."""
    task = site.follow(run)
    shown = site.ca_hpc("status", str(run))
    assert shown.returncode == 3, shown.stdout
    told = state_of(site, run, name)
    assert (told["state"], told["failure"]) == ("FAILED", "changed"), why(run, task)
    assert told["cause"] in shown.stdout
    newest = max((run / "tasks" / name / "attempts").iterdir())
    assert not (newest / "progress.jsonl").exists()
    return told


def test_each_is_refused_before_training_and_put_back_it_goes_on(scene: Scene, image: Path) -> None:
    site = scene.site
    spec = scene.job("changed", folds=1) | {"image": str(image), "resources": held("train")}
    run = site.submit(site.write("changed", spec))
    until(lambda: state_of(site, run, "preprocess")["state"] == "COMPLETED", seconds=120)
    (data,) = (Path(source["path"]) for source in spec["data"])
    voxels = min(data.rglob("anat/*.nii.gz"))
    for file in (image, Path(spec["weights"]), *planned(run), voxels):
        with flipped(file) as told:
            release(site, state_of(site, run, TRAINING)["job"])
            assert told in refused(site, run, TRAINING)["cause"]
        assert site.ca_hpc("retry", str(run), TRAINING).returncode == 0
    release(site, state_of(site, run, TRAINING)["job"])
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
