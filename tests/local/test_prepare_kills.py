"""Killed at random moments and started again: the same data set as undisturbed, to the bit."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ca_hpc.core.data_spec import Crop, Folds, Prepare
from ca_hpc.core.record import Case
from ca_hpc.steps.assemble import assemble
from ca_hpc.steps.prepare import prepare
from ca_hpc.store.run_folder import RunFolder
from tests.prepare_runs import DATASET, call, contents, make, pair, run_of

KILLS = 20
SHARDS = 2
MADE = ("cases.tsv", "splits.json", "test_sets.json", "assembled.json", "data.html")
STEPS = {"prepare": prepare, "assemble": assemble}
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
    """All that the tasks leave of a run for those that come after."""
    assert not run.prepared.exists()
    return contents(run.raw) | {name: run.file(name).read_bytes() for name in MADE}


def assert_whole_or_absent(run: RunFolder, calm: RunFolder) -> None:
    """Whatever has happened, nobody sees a part of a data set, or a draft of one."""
    if there := list(run.raw.glob("*")):
        assert [path.name for path in there] == [DATASET]
        assert contents(run.raw) == contents(calm.raw)


def test_after_twenty_kills_the_data_set_is_that_of_a_run_without(
    tmp_path: Path, cases: list[Case]
) -> None:
    seed = int(os.environ.get("CA_HPC_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed} (CA_HPC_TEST_SEED repeats it)")
    chance = random.Random(seed)
    calm = submitted(tmp_path / "calm" / "small", cases)
    lasting = {task: seconds(calm, task) for task in TASKS}
    kills: list[str] = []
    for number in itertools.count():
        run = submitted(tmp_path / str(number) / "small", cases)
        for task in TASKS:
            step = start(run, task)
            while not ended(step, within=chance.uniform(0.3, 1.1) * lasting[task]):
                step.kill()
                step.wait()
                kills.append(" ".join(task))
                assert_whole_or_absent(run, calm)
                step = start(run, task)
            assert step.returncode == 0
        assert result(run) == result(calm)
        if len(kills) >= KILLS:
            break
    print(f"{len(kills)} kills in {number + 1} runs: {sorted(Counter(kills).items())}")


def ended(step: subprocess.Popen[bytes], *, within: float) -> bool:
    try:
        step.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


# --- not by chance: before each change to the file system ----------------------------------------

CHANGES = frozenset({"os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"})


def dying(task: Callable[[], None], *, change: int) -> bool:
    """Run ``task`` in a process that is killed right before its n-th change to the file system.

    False: it made fewer changes, and ended.
    """
    process = os.fork()
    if not process:
        os.setpgid(0, 0)  # its own workers die with it, as in a job
        left = itertools.count(change, -1)

        def count(event: str, arguments: tuple[object, ...]) -> None:
            writes = event == "open" and str(arguments[1]).startswith(("w", "x", "a"))
            if (writes or event in CHANGES) and next(left) == 0:
                os.killpg(0, signal.SIGKILL)

        sys.addaudithook(count)  # forked workers count on their own
        try:
            task()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"killed before change {change}"
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("name", ["prepare", "assemble"])
def test_killed_before_any_change_to_the_file_system_it_ends_with_the_same_data_set(
    tmp_path: Path, name: str
) -> None:
    cases = [
        pair(tmp_path / "data", f"sub-{index}", seed=index, split="test" if index == 2 else None)
        for index in range(3)
    ]

    def small(folder: Path) -> RunFolder:
        return run_of(folder, cases, splits=Folds(2))

    calm = small(tmp_path / "calm" / "small")
    make(calm)
    for change in itertools.count():
        run = small(tmp_path / str(change) / "small")
        if name == "assemble":
            prepare(call(run))
        killed = dying(lambda run=run: STEPS[name](call(run)), change=change)
        assert_whole_or_absent(run, calm)
        make(run)
        assert result(run) == result(calm), f"killed before change {change}"
        if not killed:
            break
    print(f"{name}: killed before each of {change} changes")
    assert change > 10
