"""Killed at random moments and started again: the same data set as undisturbed, to the bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ca_hpc.core.data_spec import Crop, Folds, Prepare
from ca_hpc.core.record import Case
from ca_hpc.store.run_folder import RunFolder
from tests.prepare_runs import DATASET, contents, pair, run_of

KILLS = 20
SHARDS = 2
MADE = ("cases.tsv", "splits.json", "test_sets.json", "assembled.json", "data.html")
TASKS = [*(("prepare", "--shard", str(shard)) for shard in range(SHARDS)), ("assemble",)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Large enough that a moment is mostly one within an image; two are held out."""
    folder = tmp_path_factory.mktemp("images")
    return [
        pair(folder, f"sub-{index:02}", seed=index, shape=(64, 64, 48), split=role)
        for index, role in enumerate([*[None] * 22, "test", "other"])
    ]


def submitted(folder: Path, cases: Sequence[Case]) -> RunFolder:
    return run_of(
        folder, cases, splits=Folds(3), prepare=Prepare(shards=SHARDS), crop=Crop(margin=20.0)
    )


def start(run: RunFolder, task: Sequence[str]) -> subprocess.Popen[bytes]:
    _, attempt = run.new_attempt(task[0], job="local", restart=0)
    argv = (sys.executable, "-m", f"ca_hpc.steps.{task[0]}", *task[1:], "--cpus", "2")
    return subprocess.Popen(
        (*argv, "--run", str(run.path), "--attempt", str(attempt)), stdout=subprocess.DEVNULL
    )


def seconds(run: RunFolder, task: Sequence[str]) -> float:
    """How long a task takes that nobody disturbs."""
    began = time.monotonic()
    assert start(run, task).wait() == 0
    return time.monotonic() - began


def result(run: RunFolder) -> dict[str, bytes]:
    """All that is left of the run, but what its steps were told and logged."""
    found = contents(run.raw)
    found |= {name: run.file(name).read_bytes() for name in MADE}
    return found


def test_after_twenty_kills_the_data_set_is_that_of_a_run_without(
    tmp_path: Path, cases: list[Case]
) -> None:
    seed = int(os.environ.get("CA_HPC_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed} (CA_HPC_TEST_SEED repeats it)")
    chance = random.Random(seed)
    calm = submitted(tmp_path / "calm", cases)
    lasting = {task: seconds(calm, task) for task in TASKS}
    run = submitted(tmp_path / "run", cases)
    kills = 0
    # each task in turn is killed until it has had its share, and then left to end
    for number, task in enumerate(TASKS, start=1):
        while kills < KILLS * number // len(TASKS):
            step = start(run, task)
            time.sleep(chance.uniform(0.2, 1.0) * lasting[task])
            if step.poll() is not None:  # too late: back to where there is work
                ...
            step.send_signal(signal.SIGKILL)
            step.wait()
            kills += 1
            assert_whole_or_absent(run, calm)
        assert start(run, task).wait() == 0
    assert result(run) == result(calm)
    assert not run.prepared.exists()
