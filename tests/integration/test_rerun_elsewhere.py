"""A run is run again: on its cluster, and at another site that has nothing but its archive.

On real SLURM, in the real image, with real nnU-Net; the other site has no network.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ca_hpc.images.collect import collect
from ca_hpc.images.shelf import Shelf
from tests.integration.conftest import another_cluster, scene_in, work_folder
from tests.integration.jobs import HpcUser, Site, why
from tests.integration.watched import Scene, copied_image
from tests.lab.cluster import Cluster, Traits
from tests.lab.host import system_python
from tests.lab.machine import LOGIN_PATH
from tests.lab.network import cut_off, has_way_out
from tests.lab.places import CHECKOUT, OFFLINE
from tests.reruns import NOT_YET, NOT_YET_THERE, PLACES, differing

FOLDS: Final = {"finetune fold 0": True, "finetune fold 1": True}
LATER: Final = 60 * 86400.0  # seconds; nobody has asked for an image since
TRAINER: Final = f"""
import errno, json, pathlib, socket
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

{inspect.getsource(has_way_out)}

class nnUNetTrainerAsking(nnUNetTrainer):
    def on_train_start(self):
        super().on_train_start()
        pathlib.Path(self.output_folder, "way_out.json").write_text(json.dumps(has_way_out()))
"""


@dataclass(frozen=True)
class Finished:
    """A run that has ended, and where; ``home`` has all that it was made of."""

    site: Site
    run: Path

    @property
    def home(self) -> Path:
        return self.site.folder


@pytest.fixture(scope="module")
def finished(
    hpc_user: HpcUser,
    cluster: Cluster,
    host_python: Path,
    image: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Finished]:
    with work_folder(hpc_user, request, name="finished") as folder:
        home = folder / "home"
        scene = scene_in(home, cluster=cluster, user=hpc_user, python=host_python, image=image)
        run = scene.site.submit(scene.site.write("study", study(scene)))
        ended(scene.site, run)
        yield Finished(scene.site, run)


def study(scene: Scene) -> dict[str, Any]:
    trainers = scene.site.folder / "trainers"
    trainers.mkdir()
    (trainers / "asking.py").write_text(TRAINER)
    job = scene.job("study", folds=2, trainer="Asking")
    job["training"] |= {"epochs": 1, "iterations_per_epoch": 2}
    job["validation"]["mirroring"] = False
    return job


def ended(site: Site, run: Path) -> None:
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)


def told(site: Site, *arguments: str | Path) -> dict[str, Any]:
    done = site.ca_hpc(*map(str, arguments), "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def image_of(run: Path) -> str:
    record = json.loads((run / "run.json").read_text())
    return record["image"]["file"]["sha256"]  # type: ignore[no-any-return]


def ways_out(run: Path) -> list[bool]:
    """What each training has found."""
    return [json.loads(file.read_text()) for file in run.glob("results/**/way_out.json")]


def test_on_the_same_cluster_its_weights_are_the_same(finished: Finished) -> None:
    site, run = finished.site, finished.run
    again = told(site, "rerun", run)
    assert differing(again["drift"]) == {"folder": "expected", **NOT_YET}
    ended(site, Path(again["run"]))
    assert told(site, "compare", run, again["run"])["identical"] == FOLDS
    assert image_of(Path(again["run"])) == image_of(run)
    assert ways_out(run) == [has_way_out()] * 2


def test_another_image_is_refused_unless_it_is_allowed(finished: Finished) -> None:
    site, run = finished.site, finished.run
    other = copied_image(site.folder / "image.sif", site.folder / "other.sif")
    Path(f"{other}.json").unlink()
    with other.open("ab") as stream:
        stream.write(b"\0")  # behind its file system
    options = ("rerun", str(run), "--image", str(other), "--dry-run")
    done = site.ca_hpc(*options)
    assert done.returncode == 3
    assert f"recorded is sha256:{image_of(run)}" in done.stderr
    assert "--allow image" in done.stderr
    assert site.ca_hpc(*options, "--allow", "image").returncode == 0


# --- the last one: the run is taken away ---------------------------------------------------------


@pytest.fixture
def archive(finished: Finished, work: Path) -> Path:
    """All that is left of the run. The images that it was trained on have other names now."""
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    site = replace(finished.site, environment={**finished.site.environment, **pip})
    made = told(site, "archive", finished.run, "-o", work / "study.tar")
    assert made["left_out"] == ["images"]
    (work / "pictures").mkdir()
    for number, file in enumerate(sorted(finished.home.glob("data-*/**/*.nii.gz"))):
        file.rename(work / f"pictures/x{number}.nii.gz")
    shutil.rmtree(finished.home)
    return Path(made["file"])


@pytest.fixture
def offline(cluster: Cluster, hpc_user: HpcUser, archive: Path) -> Iterator[Cluster]:
    """A cluster without a network; the test itself has none either, as soon as it is up."""
    traits = Traits(accounting=False)
    with cut_off(), another_cluster(cluster, OFFLINE, user=hpc_user, traits=traits) as found:
        assert not has_way_out()
        yield found


@pytest.fixture
def elsewhere(offline: Cluster, hpc_user: HpcUser, archive: Path) -> Site:
    """A site that has done what the archive's README.txt says, and got ca-hpc by that."""
    folder = archive.parent
    text = hpc_user.run(("tar", "-xOf", archive, "README.txt")).stdout
    commands = re.findall(r"^  (\S.*)", text.replace("ARCHIVE", archive.name), re.MULTILINE)
    install = "\n".join(takewhile(lambda command: "ca-hpc" not in command, commands))
    path = f"{system_python(hpc_user.name).parent}:{LOGIN_PATH}"
    done = hpc_user.run(("sh", "-ec", install), cwd=folder, env={"PATH": path})
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return Site(hpc_user, folder / "host/bin/python", {**offline.env, "PATH": LOGIN_PATH}, folder)


def their_profile(site: Site) -> Path:
    """Other names and paths, another partition, and more CPUs than the run had."""
    profile = yaml.safe_load((CHECKOUT / "configs/clusters/lab.yaml").read_text())
    profile |= {"name": "theirs", "partition": "high"}
    profile["folders"] = {name: str(site.folder / name) for name in ("runs", "store")}
    profile["gpus"]["fake"]["cpus"] = 2
    return site.write("theirs", profile)


def test_an_archive_is_all_that_a_site_without_a_network_needs(
    archive: Path, elsewhere: Site, image: Path
) -> None:
    site = elsewhere
    images = site.folder / "pictures"
    again = told(site, "rerun", archive, "--cluster", their_profile(site), "--data", images)
    run = Path(again["run"])
    assert run.parent == site.folder / "runs"
    assert differing(again["drift"]) == {**PLACES, **NOT_YET_THERE}
    ended(site, run)
    assert ways_out(run) == [False, False]
    compared = told(site, "compare", archive, run)
    assert compared["identical"] == FOLDS and compared["within"]
    assert differing(compared["drift"][str(run)]) == {**PLACES, "node": "unknown"}
    assert image_of(run) == json.loads(Path(f"{image}.json").read_text())["sha256"]
    (kept,) = collect(Shelf(site.folder / "store"), now=time.time() + LATER, delete=False)
    assert kept.entry.sha256 == image_of(run) and f"run {run}" in kept.kept
