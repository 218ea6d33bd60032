"""One byte changed between submission and training, on real SLURM in the real image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.changed_bytes import flipped, planned
from tests.integration.jobs import HELD, QUICK, Site, until, why
from tests.integration.watched import Scene, copied_image

TRAINING = "train-finetune-fold0"


def held_job(scene: Scene, name: str, *, stage: str) -> dict[str, Any]:
    """One training, in a copy of the image that may be changed; it stands still at ``stage``."""
    image = copied_image(scene.image, scene.site.folder / "copy.sif")
    job = scene.job(name, folds=1) | QUICK
    return job | {"image": str(image), "resources": {stage: dict(HELD)}}


def assert_refused(site: Site, run: Path, task: str, *, told: str) -> None:
    """Not begun, in a run that has ended: programs and people are told why."""
    status = site.follow(run)
    found = site.task(run, task)
    assert (found["state"], found["failure"]) == ("FAILED", "changed"), why(run, status)
    assert told in found["cause"]
    shown = site.ca_hpc("status", str(run))
    assert shown.returncode == 3
    digests = {word for word in told.split() if word.startswith("sha256:")}
    assert len(digests) == 2 and digests <= set(shown.stdout.split())
    newest = max((run / "tasks" / task / "attempts").iterdir())
    assert {file.name for file in newest.iterdir()} == {"attempt.json", "result.json"}


def test_what_was_changed_trains_nothing_and_put_back_it_goes_on(scene: Scene) -> None:
    site = scene.site
    spec = held_job(scene, "changed", stage="train")
    run = site.submit(site.write("changed", spec))
    until(lambda: site.task(run, "preprocess")["state"] == "COMPLETED", seconds=120)
    (source,) = spec["data"]
    image = min(Path(source["path"]).glob("sub-*/anat/*.nii.gz"))
    for file in (Path(spec["image"]), Path(spec["weights"]), *planned(run), image):
        with flipped(file) as told:
            site.release(site.task(run, TRAINING)["job"])
            assert_refused(site, run, TRAINING, told=told)
        assert site.ca_hpc("retry", str(run), TRAINING).returncode == 0
    site.release(site.task(run, TRAINING)["job"])
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)


def test_an_image_that_carries_the_weights_is_refused_by_the_first_task(scene: Scene) -> None:
    site = scene.site
    spec = held_job(scene, "carried", stage="prepare")
    spec |= {"weights": "image", "model": "contrast-agnostic-v2"}
    done = site.ca_hpc("submit", str(site.write("carried", spec)), "--json")
    submitted = json.loads(done.stdout)
    run = Path(submitted["run"])
    with flipped(Path(spec["image"])) as told:
        site.release(*submitted["jobs"]["prepare"].values())
        assert_refused(site, run, "prepare-shard0", told=told)
    assert site.task(run, TRAINING)["state"] == "CANCELLED"
    assert not (run / "nnunet/raw").exists()
