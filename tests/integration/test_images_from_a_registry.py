"""Jobs whose image is in a registry, on real SLURM: brought at submission, once, whole, trusted."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ca_hpc.store.shipped import shipped
from tests.integration.jobs import HELD, QUICK, Site, why
from tests.integration.signing import key_pair, sign, small_image, tamper
from tests.integration.watched import Scene, copied_image
from tests.lab import queue
from tests.lab.machine import must
from tests.oci_registry import Registry, serving

SUBMISSIONS = 50
PULLED = re.compile(r"pulled (\d+) of (\d+) MB")


@dataclass(frozen=True)
class Desk:
    """Where a job is submitted to a site that trusts one key and has an empty store."""

    scene: Scene
    private: Path

    @property
    def site(self) -> Site:
        return self.scene.site

    @property
    def store(self) -> Path:
        return self.site.folder / "store"

    @property
    def images(self) -> list[dict[str, Any]]:
        done = self.site.ca_hpc("image", "list", "--store", str(self.store), "--json")
        return json.loads(done.stdout)["images"]  # type: ignore[no-any-return]

    def job(self, name: str, *, image: str) -> Path:
        spec = self.scene.job(name, folds=1) | QUICK
        return self.site.write(name, spec | {"cluster": "./trusting.yaml", "image": image})

    def submitting(self, job: Path) -> subprocess.Popen[str]:
        return self.site.start("submit", str(job), "--json")

    def assert_untouched(self, job: Path) -> None:
        """No image, no run, nothing queued."""
        assert self.images == []
        assert list(self.site.folder.glob("ca-hpc-runs/*")) == []
        assert not queue.queued(self.scene.cluster, name=job.stem)


@pytest.fixture
def desk(scene: Scene) -> Desk:
    folder = scene.site.folder
    private, public = key_pair(folder, "lab")
    profile = yaml.safe_load(shipped("configs", "clusters", "lab.yaml").read_text())
    signatures = {"keys": [str(public)], "required": True}
    profile |= {"images": {"store": str(folder / "store"), "signatures": signatures}} | HELD
    (folder / "trusting.yaml").write_text(yaml.safe_dump(profile))
    return Desk(scene, private)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with serving(tmp_path / "registry") as found:
        yield found


def push(desk: Desk, image: Path, to: str) -> dict[str, str]:
    done = desk.site.ca_hpc("image", "push", str(image), to, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def kill_half_way(submitting: subprocess.Popen[str]) -> None:
    assert submitting.stderr is not None
    for line in submitting.stderr:
        if (told := PULLED.match(line)) and int(told[1]) * 3 >= int(told[2]):
            submitting.kill()
            break
    assert submitting.wait() == -9


def test_a_pull_killed_half_way_is_gone_on_with_and_fifty_submissions_make_one(
    desk: Desk, registry: Registry
) -> None:
    site = desk.site
    signed = copied_image(desk.scene.image, site.folder / "signed.sif")
    sign(signed, desk.private)
    told = push(desk, signed, f"oras://{registry.host}/lab/ca-hpc:v1")
    job = desk.job("pulled", image=told["tagged"])

    kill_half_way(desk.submitting(job))
    desk.assert_untouched(job)

    submissions = [desk.submitting(job) for _ in range(SUBMISSIONS)]
    ended = [each.communicate(timeout=300) for each in submissions]
    assert [each.returncode for each in submissions] == [0] * SUBMISSIONS, ended
    assert registry.pulls(told["sha256"]) == [200, 206]
    assert sum("waiting" in err for _, err in ended) > 1
    submitted = [json.loads(out) for out, _ in ended]
    assert len({each["run"] for each in submitted}) == SUBMISSIONS
    (kept,) = desk.images
    assert kept["sha256"] == told["sha256"]

    one, *others = (
        [job for jobs in each["jobs"].values() for job in jobs.values()] for each in submitted
    )
    must(("scancel", *(job for jobs in others for job in jobs)), env=desk.scene.cluster.env)
    site.release(*one)
    run = Path(submitted[0]["run"])
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
    record = json.loads((run / "run.json").read_text())
    assert record["image"]["reference"] == told["tagged"]
    assert record["image"]["file"]["sha256"] == told["sha256"]
    for attempt in run.glob("tasks/*/attempts/*/attempt.json"):
        assert kept["file"] in json.loads(attempt.read_text())["argv"]


def test_an_unsigned_and_a_tampered_image_queue_nothing(desk: Desk, registry: Registry) -> None:
    folder = desk.site.folder
    unsigned = small_image(folder)
    tampered = folder / "tampered.sif"
    tampered.write_bytes(unsigned.read_bytes())
    sign(tampered, desk.private)
    tamper(tampered)
    images = {str(desk.scene.image): "is not signed"}  # what other tests run
    for image, why_not in ((unsigned, "is not signed"), (tampered, "is not as it was signed")):
        images[push(desk, image, f"oras://{registry.host}/lab/{image.stem}")["reference"]] = why_not
    for image, why_not in images.items():
        job = desk.job("refused", image=image)
        done = desk.site.ca_hpc("submit", str(job))
        assert done.returncode == 3 and why_not in done.stderr, done.stderr
        desk.assert_untouched(job)
