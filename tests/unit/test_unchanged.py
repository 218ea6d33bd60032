"""One byte of what a run is made of, its mtime restored: no task is started, exit code 3."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ca_hpc.actions.status import status
from ca_hpc.core.model import Element, Pin, Resources, Runtime, Stage, Task, Workflow
from ca_hpc.core.record import Cases, Pins, Result
from ca_hpc.core.sealed import Seals
from ca_hpc.errors import ExitCode
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import seal, write_seals
from ca_hpc.worker.execution import Execution
from ca_hpc.worker.node import Node

DATASET = "Dataset501_neck"
# says that it began, and the first time that there is more to do
SCRIPT = """#!/bin/sh
shift 6
echo '{"event": "start"}' > "$3/progress.jsonl"
test -e "$1" && exit 0
touch "$1"
exit 85
"""


@dataclass(frozen=True)
class Scene:
    """A run whose stages have a task each; ``files``: what it is made of, by kind."""

    run: RunFolder
    node: Node
    files: dict[str, Path]

    def started(self, stage: str = "train") -> Result:
        """How a further attempt of the stage's task ended."""
        Execution(self.run, self.node).run(f"{stage}.0")
        result = self.run.result(f"{stage}-a-fold0")
        assert result is not None
        return result

    def began(self, stage: str = "train") -> list[bool]:
        """Of each attempt, whether its step was started."""
        attempts = self.run.attempts(f"{stage}-a-fold0")
        return [(attempt / "progress.jsonl").exists() for attempt in attempts]


Make = Callable[..., Scene]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def scene(*, staged: bool = False) -> Scene:
        run = RunFolder.create(tmp_path / "runs", "neck")
        folder = run.preprocessed / DATASET
        files = {
            "image": tmp_path / "neck.sif",
            "weights": tmp_path / "weights.pth",
            "source": tmp_path / "sub-1_T2w.nii.gz",
            "splits": run.file("splits.json"),
            "plans": folder / "planned.json",
            "trainer": run.trainers / "mine.py",
        }
        (folder / "data").mkdir(parents=True)
        run.trainers.mkdir()
        for name in ("dataset.json", "dataset_fingerprint.json", "splits_final.json"):
            (folder / name).write_text("{}")
        for kind, file in files.items():
            file.write_text(kind)
        configuration = {"configurations": {"3d_fullres": {"data_identifier": "data"}}}
        files["plans"].write_text(json.dumps(configuration))
        python = tmp_path / "python"
        python.write_text(SCRIPT)
        python.chmod(0o755)
        run.write("cases.json", Cases(DATASET, {"cord": 1}, ()))
        run.write("arms.json", {"a": "planned"})
        weights = Pin(str(files["weights"]), sha256(files["weights"]))
        run.write("pins.json", Pins("1", "0badcafe", "2025-01-01T00:00:00+00:00", weights=weights))
        write_seals(run.data_seals, Seals((DigestCache(run.digests).sealed(files["source"]),)))
        write_seals(run.file("sealed.json"), seal(run.path, ["splits.json"]))
        write_seals(folder / "sealed.json", seal(folder, ["planned.json"]))
        write_seals(run.trainers / "sealed.json", seal(run.trainers, ["mine.py"]))
        image = Pin(str(files["image"]), sha256(files["image"]))
        least = Resources(60, cpus=1, memory_mib=64)
        run.write(
            "workflow.json",
            Workflow(
                run_folder=str(run.path),
                executor="local",
                node_python=sys.executable,
                node_local="$LOCAL",
                setup=(),
                # an image that is looked after, and not needed to run the script
                runtime=Runtime("none", str(python), image),
                mounts=(),
                threads=None,
                stages=tuple(stage(name, least, once=tmp_path / name) for name in STAGES),
            ),
        )
        environment = {"PATH": os.environ["PATH"]}
        if staged:
            (tmp_path / "local").mkdir()
            environment["LOCAL"] = str(tmp_path / "local")
        now = lambda: datetime.now(timezone.utc)  # noqa: E731
        return Scene(run, Node(environment, "host1", now), files)

    return scene


STAGES = ("prepare", "train", "predict", "evaluate")


def stage(name: str, resources: Resources, *, once: Path) -> Stage:
    task = Task(f"{name}-a-fold0", "module", (str(once),))
    return Stage(name, (Element(f"{name}.0", (task,)),), resources, {}, at_once=1)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def flip(file: Path) -> None:
    """Change one byte and nothing else that a user can set."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


KINDS = ("image", "weights", "source", "splits", "plans", "trainer")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["fresh", "continuation", "staged"])
def test_a_flipped_byte_is_refused_before_training_with_both_digests(
    make: Make, kind: str, when: str
) -> None:
    scene = make(staged=when == "staged")
    file, before = scene.files[kind], sha256(scene.files[kind])
    if when == "continuation":
        assert scene.started().failure == "preempted"
    flip(file)
    result = scene.started()
    assert (result.exit_code, result.failure) == (3, "changed")
    assert str(file) in str(result.cause)
    assert f"is sha256:{sha256(file)}, recorded is sha256:{before}" in str(result.cause)
    assert f"ca-hpc retry {scene.run.path}" in str(result.hint) or kind == "image"
    assert scene.began() == [True] * (when == "continuation") + [False]
    assert status(scene.run).exit_code is ExitCode.DIGEST_MISMATCH


@pytest.mark.parametrize("staged", [False, True])
def test_what_was_copied_or_touched_is_the_same(make: Make, staged: bool) -> None:
    scene = make(staged=staged)
    for file in scene.files.values():
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    assert scene.started().failure == "preempted"
    assert scene.started().state.value == "COMPLETED"
    assert status(scene.run).exit_code is ExitCode.OK


def test_what_is_gone_is_for_its_reader_to_miss(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make()
    for kind in ("source", "weights"):
        scene.files[kind].unlink()
    scene.started()
    assert scene.began() == [True]
    assert f"1 source files are gone, first {scene.files['source']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "refused"),
    [("prepare", True), ("predict", True), ("evaluate", False)],
)
def test_results_that_are_there_are_evaluated_whatever_became_of_the_sources(
    make: Make, name: str, refused: bool
) -> None:
    scene = make()
    flip(scene.files["source"])
    assert (scene.started(name).failure == "changed") is refused
    assert scene.began(name) == [not refused]


def test_an_unchanged_file_is_read_once_for_all_attempts(make: Make) -> None:
    scene = make()
    os.utime(scene.files["source"])  # so that it has to be read
    scene.started()
    cache = scene.run.digests
    assert {DigestCache(cache).knows(scene.files[kind]) for kind in ("image", "weights", "source")}
    told = json.loads(cache.read_text())
    for entry in told["files"]:
        entry["sha256"] = "0" * 64
    cache.write_text(json.dumps(told))
    result = scene.started()
    assert f"is sha256:{'0' * 64}, recorded" in str(result.cause)
