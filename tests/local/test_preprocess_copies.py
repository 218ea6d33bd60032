"""Two copies of the preprocess stage at once: one publishes, and what is published stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ca_hpc.core.data_spec import Folds
from ca_hpc.core.spec import Arm
from ca_hpc.store.run_folder import RunFolder
from tests.local_runs import shell_environment, until
from tests.prepare_runs import DATASET, contents, make, pair, run_of


def assembled(folder: Path) -> RunFolder:
    cases = [
        pair(folder / "images", f"sub-{index}", seed=index, shape=(24, 26, 20))
        for index in range(2)
    ]
    arms = {"scratch": Arm(weights="random", plans="planner")}
    run = run_of(folder / "small", cases, splits=Folds(2), arms=arms)
    make(run)
    return run


def started(run: RunFolder) -> tuple[subprocess.Popen[bytes], Path]:
    """The next attempt of the stage, and its folder."""
    _, attempt = run.new_attempt("preprocess", job="local", restart=0)
    argv = (sys.executable, "-u", "-m", "ca_hpc.steps.preprocess", "--run", str(run.path))
    with (attempt / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            (*argv, "--attempt", str(attempt)),
            env=shell_environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process, attempt


def test_an_old_copy_changes_nothing_that_a_new_one_has_published(tmp_path: Path) -> None:
    run = assembled(tmp_path)
    published = run.preprocessed / DATASET
    killed, attempt = started(run)
    draft = attempt / "preprocessed" / DATASET
    until((draft / "dataset_fingerprint.json").exists, seconds=120, what="it did not start")
    os.killpg(killed.pid, 9)
    killed.wait()
    assert draft.exists() and not published.exists()

    copies = [started(run) for _ in range(2)]
    until(published.exists, seconds=300, what="nothing was published")
    before = contents(published)
    # the older one may find that its successor has cleaned up after it
    statuses = [process.wait(300) for process, _ in copies]
    assert statuses[-1] == 0, (copies[-1][1] / "log.txt").read_text()
    assert contents(published) == before
    assert {"splits_final.json", "dataset.json", "nnUNetPlans.json"} <= {*before}
    assert run.arm_plans == {"scratch": "nnUNetPlans"}
    assert (run.plans / "nnUNetPlans.json").read_bytes() == before["nnUNetPlans.json"]
    for name, content in before.items():
        assert b"attempts" not in content, f"{name} names the folder that it was made in"
    assert list(run.path.glob("tasks/preprocess/attempts/*/preprocessed")) == []

    again, attempt = started(run)
    assert again.wait(60) == 0
    assert (attempt / "log.txt").read_text() == f"{published} is there already\n"
    assert contents(published) == before
