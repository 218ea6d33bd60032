"""What must not work, and what must work although it is unusual, on the real cluster."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.store.shipped import shipped
from tests.integration.conftest import HpcUser
from tests.integration.jobs import QUICK, Site, until, why
from tests.lab import queue
from tests.lab.cluster import Cluster

UGLY = "a b 'single' \"double\"\nsecond line, with: comma %j"


@pytest.fixture
def site(hpc_user: HpcUser, lab: dict[str, str], host_python: Path, work: Path) -> Site:
    return Site(hpc_user, host_python, lab, work)


def small_job(folder: Path, *, image: Path, name: str) -> dict[str, Any]:
    write_dataset(folder / "data", people=3, seed=5, contrasts=("T2starw",))
    for path in [folder / "data", *(folder / "data").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {
        "kind": "finetune",
        "name": name,
        "cluster": "lab",
        "image": str(image),
        "data": [{"type": "bids", "path": "data", "label_suffix": "_label-SC_seg"}],
        "weights": None,
        "model": "demo",
        "splits": {"folds": 3},
        "folds": [1],
        "arms": {"scratch": {"weights": "random", "plans": "model"}},
        **QUICK,
    }


def test_a_path_with_spaces_quotes_and_a_newline_works(
    hpc_user: HpcUser, lab: dict[str, str], host_python: Path, image: Path, work: Path
) -> None:
    folder = work / UGLY
    folder.mkdir()
    shutil.chown(folder, hpc_user.name)
    site = Site(hpc_user, host_python, lab, folder)
    run = site.submit(site.write("job", small_job(folder, image=image, name="ugly")))
    assert UGLY in str(run)
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
    logs = site.ca_hpc("logs", str(run), "train-scratch-fold1")
    assert "Desired fold for training: 1" in logs.stdout


def test_short_stages_share_a_job_where_the_site_forbids_short_ones(
    site: Site, image: Path
) -> None:
    profile = site.folder / "fused.yaml"
    text = shipped("configs", "clusters", "lab.yaml").read_text()
    profile.write_text(text + "fuse_short_stages: true\n")
    profile.chmod(0o644)
    job = site.write("job", small_job(site.folder, image=image, name="fused"))
    run = site.submit(job, "--cluster", str(profile))
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
    jobs = {task["task"]: task["job"] for task in status["tasks"]}
    assert jobs["prepare-shard0"] == jobs["preprocess"] and jobs["evaluate"] == jobs["report"]
    assert len(set(jobs.values())) == 3


def test_a_bad_case_fails_assembling_with_its_reason_and_cancels_what_depends_on_it(
    site: Site, image: Path
) -> None:
    spec = small_job(site.folder, image=image, name="bad")
    victim = next((site.folder / "data").glob("sub-02/**/*.nii.gz"))
    victim.write_bytes(victim.read_bytes()[:2000])
    run = site.submit(site.write("job", spec))
    status = site.follow(run)
    tasks = {task["task"]: task for task in status["tasks"]}
    assert tasks["prepare-shard0"]["state"] == "COMPLETED"
    assert tasks["assemble"]["state"] == "FAILED"
    assert victim.name in tasks["assemble"]["cause"]
    assert tasks["train-scratch-fold1"]["state"] == "CANCELLED"
    assert tasks["report"]["state"] == "COMPLETED"
    assert not list((run / "nnunet/raw").glob("*"))
    assert victim.name in (run / "report.html").read_text()


def test_cancel_leaves_nothing_in_the_queue(site: Site, image: Path, cluster: Cluster) -> None:
    run = site.submit(site.write("job", small_job(site.folder, image=image, name="cancelled")))
    done = site.ca_hpc("cancel", str(run))
    assert done.returncode == 0, done.stderr
    until(lambda: not queue.queued(cluster, name=run.name), seconds=60)
    status = site.follow(run)
    assert {t["state"] for t in status["tasks"]} <= {"CANCELLED", "COMPLETED", "FAILED"}


def test_a_partition_that_does_not_exist_is_refused_and_nothing_is_queued(
    site: Site, image: Path, cluster: Cluster
) -> None:
    spec = small_job(site.folder, image=image, name="refused")
    spec["resources"] = {"train": {"sbatch": {"partition": "nowhere"}}}
    done = site.ca_hpc("submit", str(site.write("job", spec)))
    assert done.returncode == 4
    assert "train" in done.stderr and "artition" in done.stderr
    assert "Traceback" not in done.stderr
    until(lambda: not queue.queued(cluster, name="refused"), seconds=60)
