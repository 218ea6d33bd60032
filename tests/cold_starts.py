"""Five folds of one arm started at the same moment, with nothing cached and nothing published."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from ca_hpc.core.data_spec import Folds
from ca_hpc.core.environment import task_environment
from ca_hpc.core.spec import Arm, Training, Validation
from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.store.run_folder import RunFolder
from tests.blobs import shrink
from tests.local_runs import JOB, shell_environment, states, status, submit, until
from tests.prepare_runs import DATASET, contents, make, pair, run_of

FOLDS = 5
ARM = "scratch"
REPOSITORY = Path(__file__).parents[1]
PLANS = "nnUNetPlans"


def preprocessed_run(folder: Path) -> RunFolder:
    """A run whose next tasks are five trainings of one iteration each, of a tiny network."""
    cases = [
        pair(folder / "images", f"sub-{index:02}", seed=index, shape=(24, 26, 20))
        for index in range(2 * FOLDS)
    ]
    run = run_of(
        folder / "small",
        cases,
        splits=Folds(FOLDS),
        arms={ARM: Arm(weights="random", plans="planner")},
        training=Training(epochs=1, iterations_per_epoch=1, validation_iterations_per_epoch=1),
        validation=Validation(tile_step=1.0, mirroring=False),
    )
    make(run)
    assert step(run, "preprocess", task="preprocess").wait() == 0
    plans = run.preprocessed / DATASET / f"{PLANS}.json"
    content = json.loads(plans.read_text())
    shrink(content["configurations"]["3d_fullres"])
    plans.write_text(json.dumps(content))
    return run


def step(run: RunFolder, name: str, *more: str, task: str) -> subprocess.Popen[bytes]:
    """Start a step as the worker does, with a work folder that nothing was cached in."""
    _, attempt = run.new_attempt(task, job="local", restart=0)
    work = attempt / "work"
    (work / "home").mkdir(parents=True)
    environment = task_environment(threads=1, cpus=1, work_folder=str(work), visible_gpus="")
    argv = (sys.executable, "-u", "-m", f"ca_hpc.steps.{name}", *more)
    with (attempt / "log.txt").open("wb") as log:
        return subprocess.Popen(
            (*argv, "--run", str(run.path), "--attempt", str(attempt), "--cpus", "1"),
            env={**shell_environment(), **environment, "HOME": str(work / "home")},
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,
        )


def race(calm: RunFolder, folder: Path) -> None:
    """Train all folds at once in a copy of ``calm``; check what is published."""
    shutil.copytree(calm.path, folder)
    run = RunFolder(folder)
    before = contents(run.preprocessed)
    steps = [
        step(run, "train", "--arm", ARM, "--fold", str(fold), task=task_of(ARM, fold))
        for fold in range(FOLDS)
    ]
    statuses = [started.wait(300) for started in steps]
    assert statuses == [0] * FOLDS, [
        log(run, arm=ARM, fold=fold) for fold in range(FOLDS) if statuses[fold]
    ]
    assert contents(run.preprocessed) == before
    assert_whole(run, arm=ARM)


def assert_whole(run: RunFolder, *, arm: str) -> None:
    """No error, the same splits for all folds, each validated on its own part; plans intact."""
    splits = json.loads(run.file("splits.json").read_text())
    (dataset,) = run.preprocessed.iterdir()
    assert json.loads((dataset / "splits_final.json").read_text()) == splits
    folds = dict(run.folds(arm))
    assert sorted(folds) == [str(fold) for fold in range(FOLDS)]
    for fold, split in enumerate(splits):
        told = log(run, arm=arm, fold=fold)
        assert "Traceback" not in told and "error" not in told.lower(), told
        assert f"This split has {len(split['train'])} training and {len(split['val'])}" in told
        validated = {
            file.name.removesuffix(".nii.gz")
            for file in (folds[str(fold)] / "validation").glob("*.nii.gz")
        }
        assert validated == set(split["val"])
    model = folds["0"].parent
    _, plans, _ = model.name.split("__")
    for name, of in {"plans": plans, "dataset": "dataset"}.items():
        published = json.loads((model / f"{name}.json").read_text())
        assert published == json.loads((dataset / f"{of}.json").read_text())
    drafts = {path.name for path in model.iterdir()} - {f"fold_{fold}" for fold in folds}
    assert drafts == {"plans.json", "dataset.json", "dataset_fingerprint.json"}


def task_of(arm: str, fold: int) -> str:
    return f"train-{arm}-fold{fold}"


def log(run: RunFolder, *, arm: str, fold: int) -> str:
    (attempt,) = run.attempts(task_of(arm, fold))
    return (attempt / "log.txt").read_text()


def train_for_real(folder: Path) -> None:
    """A job of five folds by the command line, with a CPU for each, so that all run at once."""
    write_dataset(folder / "data", people=FOLDS, seed=9, contrasts=("T2starw",))
    (folder / "wide.yaml").write_text(WIDE)
    text = JOB.replace("cluster: local", "cluster: wide.yaml").replace("folds: [0]\n", "")
    text = text.replace("{folds: 3}", f"{{folds: {FOLDS}}}") + "threads: 1\n"
    run = RunFolder(submit(folder, text))
    until(lambda: status(run.path)["ended"], seconds=900, what="the run did not end")
    assert set(states(run.path).values()) == {"COMPLETED"}
    assert_at_once(run, arm=ARM)
    assert_whole(run, arm=ARM)


WIDE = f"""
name: wide
executor: local
runtime: none
node: {{cpus: {FOLDS}}}
resources:
  prepare: {{cpus: 1}}
  preprocess: {{cpus: 1}}
  train: {{cpus: 1, gpus: 0}}
"""


def assert_at_once(run: RunFolder, *, arm: str) -> None:
    """The last fold had begun before the first one ended."""
    spans = [span(run, arm=arm, fold=fold) for fold in range(FOLDS)]
    assert max(began for began, _ in spans) < min(ended for _, ended in spans)


def span(run: RunFolder, *, arm: str, fold: int) -> tuple[float, float]:
    """When a fold's step was started, and when it wrote its last line."""
    (attempt,) = run.attempts(task_of(arm, fold))
    record = attempt / "attempt.json"
    return record.stat().st_mtime, (attempt / "log.txt").stat().st_mtime
