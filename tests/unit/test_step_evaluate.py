"""Stage evaluate: scores of labels and regions, of folds and of test sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ca_hpc.core.data_spec import BidsSource, Folds
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.spec import Arm, JobSpec
from ca_hpc.errors import TaskFailed
from ca_hpc.report.model import CaseScore
from ca_hpc.report.scores import read_scores
from ca_hpc.steps.entry import StepCall
from ca_hpc.steps.evaluate import evaluate
from ca_hpc.store.run_folder import RunFolder

DATASET = "Dataset501_small"
MODEL = f"{DATASET}/nnUNetTrainer__nnUNetPlans__3d_fullres"


def case(name: str, *, source: str = "s1") -> Case:
    return Case(
        id=name,
        source=source,
        images=(f"/{name}.nii.gz",),
        labels=(),
        subject=name,
        person=name,
        session=None,
        contrast="T2w",
        people="cohort",
    )


def run_of(folder: Path, data: Cases, *, arms: tuple[str, ...] = ("one",)) -> RunFolder:
    run = RunFolder(folder)
    spec = JobSpec(
        kind="train",
        name="small",
        cluster="local",
        data=(BidsSource(type="bids", path="/data"),),
        splits=Folds(folds=2),
        arms={arm: Arm(weights="random", plans="planner") for arm in arms},
    )
    run.write_spec("spec.json", spec)
    run.write("cases.json", data)
    return run


def save(file: Path, *values: int) -> None:
    """A label map of these voxels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.array([[values]], dtype=np.uint8), np.eye(4)), file)


def write(run: RunFolder, name: str, *, reference: Any, fold: int, prediction: Any) -> None:
    save(run.raw / DATASET / f"labelsTr/{name}.nii.gz", *reference)
    save(run.results("one") / MODEL / f"fold_{fold}/validation/{name}.nii.gz", *prediction)


def scored(run: RunFolder) -> dict[tuple[str, str], CaseScore]:
    """By case and label."""
    attempt = run.file("attempt")
    attempt.mkdir()
    evaluate(StepCall(run, attempt, cpus=1, threads=1, device="cpu", arm="", fold=0))
    events = [json.loads(e) for e in (attempt / "progress.jsonl").read_text().splitlines()]
    assert events[-1]["done"] == events[-1]["total"] == len(events)
    return {(score.case, score.label): score for score in read_scores(run.path)}


LABELS: Mapping[str, int] = {"cord": 1, "lesion": 2}


def test_labels_are_scored_by_their_values(tmp_path: Path) -> None:
    run = run_of(tmp_path, Cases(DATASET, LABELS, cases=(case("a"), case("skipped"))))
    write(run, "a", reference=(0, 1, 1, 2), fold=0, prediction=(1, 1, 1, 0))
    scores = scored(run)
    assert set(scores) == {("a", "cord"), ("a", "lesion")}
    assert scores["a", "cord"].dice == pytest.approx(0.8)
    assert scores["a", "lesion"].dice == 0
    one = scores["a", "cord"]
    assert (one.arm, one.fold, one.split, one.people) == ("one", 0, "validation", "cohort")


def test_regions_are_scored_by_all_values_that_belong_to_them(tmp_path: Path) -> None:
    regions = {"cord": (1, 2), "lesion": (2,)}
    run = run_of(tmp_path, Cases(DATASET, LABELS, cases=(case("a"), case("b")), regions=regions))
    write(run, "a", reference=(0, 1, 1, 2), fold=0, prediction=(0, 1, 2, 2))
    write(run, "b", reference=(0, 1, 1, 0), fold=1, prediction=(0, 1, 1, 0))
    scores = scored(run)
    assert scores["a", "cord"].dice == 1
    assert scores["a", "lesion"].dice == pytest.approx(2 / 3)
    assert scores["a", "lesion"].relative_volume_difference == 1
    assert scores["b", "cord"].dice == 1
    assert isnan(scores["b", "lesion"].dice)  # no lesion, and none found
    assert scores["b", "cord"].fold == 1


def test_test_sets_are_scored_as_far_as_they_are_predicted(tmp_path: Path) -> None:
    cases = tuple(case(name) for name in ("a", "b", "c", "d"))
    run = run_of(tmp_path, Cases(DATASET, LABELS, cases=cases), arms=("one", "two"))
    write(run, "a", reference=(0, 1), fold=0, prediction=(0, 1))
    run.write("test_sets.json", {"test": ["b"], "clinic": ["c", "d"]})
    for folder, name in (("labelsTs", "b"), ("labelsTs_clinic", "c"), ("labelsTs_clinic", "d")):
        save(run.raw / DATASET / folder / f"{name}.nii.gz", 1, 1, 0)
    save(run.file("test/one/test/b.nii.gz"), 1, 0, 0)
    save(run.file("test/one/clinic/c.nii.gz"), 1, 1, 0)
    found = {name: score for (name, label), score in scored(run).items() if label == "cord"}
    assert {name: (s.arm, s.split, s.fold) for name, s in found.items()} == {
        "a": ("one", "validation", 0),
        "b": ("one", "test", "ensemble"),
        "c": ("one", "clinic", "ensemble"),
    }
    assert (found["b"].dice, found["c"].dice) == (pytest.approx(2 / 3), 1)


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, Cases(DATASET, LABELS, cases=(case("a"), case("b"))))
    write(run, "a", reference=(0, 1), fold=0, prediction=(0, 1))
    run.write("test_sets.json", {"test": ["b"]})
    scored(run)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "2 scores of 1 folds; 1 folds missing",
        "images of test sets not predicted: 1",
    ]


def test_without_any_prediction_there_is_nothing_to_evaluate(tmp_path: Path) -> None:
    run = run_of(tmp_path, Cases(DATASET, LABELS, cases=(case("a"),)))
    with pytest.raises(TaskFailed, match="no fold has finished"):
        scored(run)
    assert not run.file("evaluation").exists()
