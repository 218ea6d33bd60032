"""A run's RO-Crate and BIDS descriptions, checked by the programs that others check theirs with.

They have a venv of their own, kept between runs of the tests (requirements/crate.txt).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.core.model import TaskState
from ca_hpc.report.run_files import write_run_files
from ca_hpc.store.run_folder import RunFolder
from tests.lab.places import CHECKOUT, cache_root
from tests.recorded_run import attempt, finished, submitted

PROFILES = ("process-run-crate", "workflow-run-crate", "provenance-run-crate")
Graph = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def checker() -> Path:
    """A Python that has the validators."""
    listed = CHECKOUT / "requirements/crate.txt"
    version = hashlib.sha256(listed.read_bytes() + sys.version.encode()).hexdigest()[:16]
    venv = cache_root() / f"crate-{version}"
    if not (venv / "whole").exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        argv = [str(venv / "bin/python"), "-m", "pip", "install", "-q", "-r", str(listed)]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            reason = f"requirements/crate.txt cannot be installed: {done.stderr[-300:]}"
            (pytest.fail if os.environ.get("CA_HPC_TEST_REQUIRE_ALL") else pytest.skip)(reason)
        (venv / "whole").touch()
    return venv / "bin/python"


@pytest.fixture
def wrong(checker: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """What the validators say is wrong."""

    def check(*arguments: str) -> list[str]:
        argv = [str(checker), "-I", str(CHECKOUT / "tests/crate_check.py"), *arguments]
        # no proxy would answer either: what they need is there
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment)
        assert done.returncode in (0, 1), done.stderr
        lines = done.stdout.splitlines()
        assert done.returncode == bool(lines), done.stderr
        return lines

    return check


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = finished(tmp_path)
    write_run_files(run)
    return run


@pytest.mark.parametrize("profile", PROFILES)
def test_a_finished_run_is_a_valid_crate(
    run: RunFolder, wrong: Callable[..., list[str]], profile: str
) -> None:
    assert wrong("crate", str(run.path), profile) == []


def test_so_is_one_of_which_only_a_failure_is_known(
    tmp_path: Path, wrong: Callable[..., list[str]]
) -> None:
    run = submitted(tmp_path)
    attempt(run, run.workflow.tasks[0].id, state=TaskState.FAILED, hour=9)
    write_run_files(run)
    assert wrong("crate", str(run.path), PROFILES[-1]) == []


def _without(entity: str, key: str) -> Callable[[Graph], object]:
    return lambda graph: graph[entity].pop(key)


@pytest.mark.parametrize(
    "damage",
    [
        _without("#run", "instrument"),
        _without("./", "license"),
        _without("#step-train", "workExample"),
        lambda graph: graph.pop("#run"),
        lambda graph: (
            graph["./"]["hasPart"].append({"@id": "lost.txt"})
            or graph.update({"lost.txt": {"@id": "lost.txt", "@type": "File"}})
        ),
    ],
    ids=["instrument", "licence", "tool of a step", "run", "file that is not there"],
)
def test_the_check_sees_what_is_missing(
    run: RunFolder, wrong: Callable[..., list[str]], damage: Callable[[Graph], object]
) -> None:
    file = run.file("ro-crate-metadata.json")
    document = json.loads(file.read_text())
    graph = {entity["@id"]: entity for entity in document["@graph"]}
    damage(graph)
    file.write_text(json.dumps({**document, "@graph": list(graph.values())}))
    assert wrong("crate", str(run.path), PROFILES[-1])


def test_predictions_are_described_as_bids_asks(
    run: RunFolder, wrong: Callable[..., list[str]]
) -> None:
    file = run.file("test/finetune/dataset_description.json")
    assert wrong("description", str(file)) == []
    document = json.loads(file.read_text())
    for key in ("Name", "BIDSVersion", "GeneratedBy"):
        file.write_text(json.dumps({k: v for k, v in document.items() if k != key}))
        assert wrong("description", str(file)), key
    file.write_text(json.dumps({**document, "GeneratedBy": [{"Version": "1"}]}))
    assert wrong("description", str(file))
