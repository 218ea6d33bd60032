"""Test sets of a real run: predicted as stock nnU-Net does, never trained on, scored."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ca_hpc.core.model import INTERRUPTED_STATUS
from ca_hpc.errors import CaHpcError, TaskFailed
from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.report.model import VALIDATION
from ca_hpc.report.scores import read_scores
from ca_hpc.steps.entry import StepCall
from ca_hpc.steps.evaluate import evaluate
from ca_hpc.steps.predict import predict
from ca_hpc.store.run_folder import RunFolder
from tests.local_runs import status, submit, until

JOB = """
kind: train
name: held-out
cluster: local
data:
  - {type: bids, path: data, label_suffix: _label-SC_seg}
  - {type: bids, path: far, label_suffix: _label-SC_seg, test_set: clinic}
model: demo
splits: {folds: 2, test: 0.3}
arms: {train: {weights: random, plans: model}}
plans: {patch_size: {RL: 16, AP: 24, SI: 32}}
training: {epochs: 1, iterations_per_epoch: 1, validation_iterations_per_epoch: 1}
validation: {tile_step: 1.0, mirroring: false}
threads: 1
"""


@dataclass(frozen=True, slots=True)
class Interrupted(StepCall):
    """Gets the signal that SLURM sends before the time limit after its first case."""

    def emit(self, event: Mapping[str, object]) -> None:
        StepCall.emit(self, event)
        if event["done"] == 1:
            os.kill(os.getpid(), signal.SIGUSR2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    here = tmp_path_factory.mktemp("held-out")
    write_dataset(here / "data", people=6, seed=9, contrasts=("T2starw",))
    write_dataset(here / "far", people=2, seed=10, contrasts=("T2starw",))
    path = submit(here, JOB)
    until(lambda: status(path)["ended"], seconds=600, what="the run did not end")
    return RunFolder.open(path)


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> Iterator[RunFolder]:
    """A copy to be changed. The steps set nnU-Net's environment, which ends with the test."""
    shutil.copytree(finished.path, tmp_path / finished.path.name, symlinks=True)
    before = dict(os.environ)
    yield RunFolder(tmp_path / finished.path.name)
    os.environ.clear()
    os.environ.update(before)


def step(run: RunFolder, *, kind: type[StepCall] = StepCall) -> StepCall:
    _, attempt = run.new_attempt("predict-train", job="test", restart=0)
    return kind(run, attempt, cpus=1, threads=1, device="cpu", arm="train", fold=0)


def predictions(run: RunFolder) -> dict[str, bytes]:
    folder = run.file("test", "train")
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.nii.gz")}


def reused(call: StepCall) -> list[bool]:
    lines = (call.attempt / "progress.jsonl").read_text().splitlines()
    return [event["reused"] for event in map(json.loads, lines) if event["event"] == "case"]


def test_training_never_sees_the_people_of_test_sets(finished: RunFolder) -> None:
    person = {case.id: (case.source, case.person) for case in finished.cases.cases}
    held_out = {name: {person[c] for c in cases} for name, cases in finished.test_sets.items()}
    assert {name: len(people) for name, people in held_out.items()} == {"test": 2, "clinic": 2}
    raw = finished.raw / finished.cases.dataset
    seen = {file.name.removesuffix(".nii.gz") for file in (raw / "labelsTr").iterdir()}
    people = {person[case] for case in seen}
    assert len(people) == 4 and not people & (held_out["test"] | held_out["clinic"])
    for fold in json.loads(finished.file("splits.json").read_text()):
        assert {*fold["train"], *fold["val"]} == seen


def test_both_folds_together_predict_what_stock_nnunets_command_does(
    finished: RunFolder, tmp_path: Path
) -> None:
    (_, fold), _ = finished.folds("train")
    trainer, plans, configuration = fold.parent.name.split("__")
    dataset = finished.cases.dataset
    program = str(Path(sys.executable).with_name("nnUNetv2_predict"))
    results = str(finished.results("train"))
    environment = {**os.environ, "nnUNet_results": results, "OMP_NUM_THREADS": "1"}
    output = tmp_path / "stock"
    argv = [program, "-i", str(finished.raw / dataset / "imagesTs"), "-o", str(output)]
    argv += ["-d", dataset, "-tr", trainer, "-p", plans, "-c", configuration]
    argv += ["-f", "0", "1", "-device", "cpu", "--disable_tta", "-step_size", "1.0"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for case in finished.test_sets["test"]:
        wanted = nib.load(output / f"{case}.nii.gz")
        found = nib.load(finished.file("test", "train", "test", f"{case}.nii.gz"))
        assert np.asanyarray(wanted.dataobj).any()
        np.testing.assert_array_equal(found.dataobj, wanted.dataobj)
        np.testing.assert_array_equal(found.affine, wanted.affine)


def test_the_scores_of_test_sets_are_those_of_the_files(finished: RunFolder) -> None:
    scores = {(score.split, score.case): score for score in read_scores(finished.path)}
    raw = finished.raw / finished.cases.dataset
    for test_set, labels in (("test", "labelsTs"), ("clinic", "labelsTs_clinic")):
        for case in finished.test_sets[test_set]:
            score = scores.pop((test_set, case))
            found, wanted = (
                np.asanyarray(nib.load(folder / f"{case}.nii.gz").dataobj) == 1
                for folder in (finished.file("test", "train", test_set), raw / labels)
            )
            dice = 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
            assert (score.fold, score.dice) == ("ensemble", pytest.approx(dice))
            assert score.source == {"test": "s1", "clinic": "s2"}[test_set]
    assert {split for split, _ in scores} == {"validation"}


def test_interrupted_the_stage_is_queued_again_and_ends_with_the_same_files(
    run: RunFolder,
) -> None:
    wanted = predictions(run)
    shutil.rmtree(run.file("test"))
    first = step(run, kind=Interrupted)
    assert predict(first) == INTERRUPTED_STATUS
    second = step(run)
    assert predict(second) == 0
    others = [False] * (len(wanted) - 1)
    assert (reused(first), reused(second)) == ([False], [True, *others])
    assert predictions(run) == wanted
    third = step(run)
    assert predict(third) == 0
    assert reused(third) == [True] * len(wanted)


def test_folds_that_are_missing_are_left_out_and_told(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = predictions(run)
    folds = dict(run.folds("train"))
    away = folds["1"].rename(run.file("fold_1"))
    call = step(run)
    assert predict(call) == 0
    assert "test sets by 1 of 2 folds together; missing: 1" in capsys.readouterr().out
    assert reused(call) == [False] * len(before)  # those of both folds are not taken for it
    assert predictions(run) == before  # which stay: a copy of the task that is late has fewer
    shutil.rmtree(run.file("test"))
    assert predict(step(run)) == 0
    after = predictions(run)
    assert after.keys() == before.keys() and after != before
    away.rename(folds["1"])
    assert predict(step(run)) == 0
    assert predictions(run) == before
    for fold in folds.values():
        shutil.rmtree(fold)
    with pytest.raises(TaskFailed, match="no fold of train has finished"):
        predict(step(run))


def test_one_image_that_cannot_be_read_leaves_the_others_published_until_all_are(
    run: RunFolder,
) -> None:
    before = predictions(run)
    shutil.rmtree(run.file("test"))
    last = run.test_sets["clinic"][-1]
    (image,) = run.raw.glob(f"*/imagesTs_clinic/{last}_0000.nii.gz")
    away = image.rename(run.file("image"))
    with pytest.raises(CaHpcError, match=f"There is no .*{last}_0000"):
        predict(step(run))
    assert 0 < len(predictions(run)) < len(before)
    away.rename(image)
    assert predict(step(run)) == 0
    assert predictions(run) == before


def test_test_sets_are_scored_also_where_their_prediction_failed_halfway(run: RunFolder) -> None:
    gone, *others = run.test_sets["test"]
    run.file("test", "train", "test", f"{gone}.nii.gz").unlink()
    evaluate(step(run))
    scored = {score.case for score in read_scores(run.path) if score.split != VALIDATION}
    assert scored == {*others, *run.test_sets["clinic"]}
