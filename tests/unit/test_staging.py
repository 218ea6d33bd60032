"""Copies on the node's own disk: of what trainings read, as long as they run, and never of more."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ca_hpc.core.model import Element, Pin, Resources, Runtime, Stage, Task, Workflow
from ca_hpc.core.record import Cases
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker import staging
from ca_hpc.worker.node import Node
from ca_hpc.worker.staging import Staged, stage_in

DATASET = "Dataset501_neck"


def stage(name: str) -> Stage:
    element = Element(f"{name}.0", (Task(f"{name}-a-fold0", "module"),))
    return Stage(name, (element,), Resources(60, 1, 100), {}, at_once=1)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A preprocessed data set of two plans, of which one is used, and an image."""
    run = RunFolder.create(tmp_path / "runs", "neck")
    image = tmp_path / "neck.sif"
    image.write_bytes(b"an image")
    run.write(
        "workflow.json",
        Workflow(
            run_folder=str(run.path),
            executor="slurm",
            node_python="python3",
            node_local="$LOCAL",
            setup=(),
            runtime=Runtime("apptainer", "python3", Pin(str(image), sha256(image))),
            mounts=(),
            threads=None,
            stages=(stage("train"), stage("evaluate")),
        ),
    )
    run.write("cases.json", Cases(DATASET, {"cord": 1}, ()))
    run.write("arms.json", {"a": "planned"})
    folder = run.preprocessed / DATASET
    for plans in ("planned", "unused"):
        (folder / f"data_{plans}").mkdir(parents=True)
        (folder / f"data_{plans}" / "case.b2nd").write_bytes(b"voxels")
        configuration = {"3d_fullres": {"data_identifier": f"data_{plans}"}}
        (folder / f"{plans}.json").write_text(json.dumps({"configurations": configuration}))
    (folder / "gt_segmentations").mkdir()
    for name in ("dataset.json", "dataset_fingerprint.json", "splits_final.json"):
        (folder / name).write_text("{}")
    return run


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "local").mkdir()
    environment = {"LOCAL": str(tmp_path / "local")}
    return Node(environment, "node1", lambda: datetime.now(timezone.utc))


def kept(node: Node) -> list[bytes]:
    """What lies on the node's disk."""
    files = Path(node.environment["LOCAL"]).rglob("*")
    return [file.read_bytes() for file in files if file.is_file()]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def staged(run: RunFolder, node: Node, *, name: str = "train") -> Staged:
    with stage_in(run, stage(name), node=node, wanted=True) as found:
        return found


def test_a_training_finds_what_it_reads_beside_it_and_nothing_is_left_afterwards(
    run: RunFolder, node: Node, tmp_path: Path
) -> None:
    with stage_in(run, stage("train"), node=node, wanted=True) as found:
        assert found.preprocessed is not None
        assert found.image is not None
        dataset = Path(found.preprocessed) / DATASET
        assert (dataset / "data_planned/case.b2nd").read_bytes() == b"voxels"
        assert (dataset / "splits_final.json").is_file()
        assert not (dataset / "data_unused").exists()
        assert Path(found.image).read_bytes() == b"an image"
        assert Path(found.image).is_relative_to(tmp_path / "local")
    assert list((tmp_path / "local").iterdir()) == []


def test_a_copy_tells_what_was_copied(run: RunFolder, node: Node) -> None:
    pin = run.workflow.runtime.image
    assert pin is not None
    assert staged(run, node).image_sha256 == pin.sha256
    Path(pin.path).write_bytes(b"tampered")
    assert staged(run, node).image_sha256 == hashlib.sha256(b"tampered").hexdigest()


@pytest.mark.parametrize("name", ["evaluate"])
def test_other_stages_read_from_the_shared_storage(run: RunFolder, node: Node, name: str) -> None:
    assert staged(run, node, name=name) == Staged()


def test_a_job_can_do_without(run: RunFolder, node: Node) -> None:
    run.write("workflow.json", replace(run.workflow, staging="never"))
    assert staged(run, node) == Staged()


def test_without_a_folder_on_the_node_nothing_is_copied(run: RunFolder, node: Node) -> None:
    assert staged(run, replace(node, environment={})) == Staged()


def test_without_room_the_shared_storage_is_read(
    run: RunFolder,
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(staging, "ROOM", 1e18)
    assert staged(run, node) == Staged()
    told = capsys.readouterr().out
    for what in ("the data", "the image"):
        assert f"{what} could not be copied to this node" in told
    assert "MB are free" in told


@pytest.mark.parametrize("copied", ["copyfile", "copy_hashing"])
def test_of_a_copy_that_fills_the_disk_nothing_stays_there(
    run: RunFolder, node: Node, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path, **_: object) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = staging if copied == "copy_hashing" else shutil
    monkeypatch.setattr(owner, copied, full)
    with stage_in(run, stage("train"), node=node, wanted=True) as found:
        assert None in (found.preprocessed, found.image)
        assert b"half" not in kept(node)


@pytest.mark.parametrize("after", range(1, 8))
def test_of_a_copy_that_is_not_wanted_any_more_nothing_stays(
    run: RunFolder, node: Node, after: int
) -> None:
    asked = iter(range(100))
    with stage_in(
        run, stage("train"), node=node, wanted=True, stopping=lambda: next(asked) >= after
    ) as found:
        assert (found.preprocessed is None) == (b"voxels" not in kept(node))
        assert (found.image is None) == (b"an image" not in kept(node))
        assert found.preprocessed is not None or kept(node) == []


def test_what_cannot_be_copied_is_told_and_read_from_afar(
    run: RunFolder, node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.preprocessed / DATASET / "planned.json").unlink()
    found = staged(run, node)
    assert found.preprocessed is None
    assert found.image is not None
    assert "the data could not be copied" in capsys.readouterr().out
