"""Stage evaluate: every prediction of folds and test sets against its reference, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ca_hpc.core.record import Case
from ca_hpc.errors import TaskFailed
from ca_hpc.imaging.metrics import overlap
from ca_hpc.nnunet.raw_dataset import folders_of_test_set
from ca_hpc.report.model import ENSEMBLE, VALIDATION, CaseScore, Fold
from ca_hpc.report.scores import write_scores
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label map, and the one that it should be. ``split``: as in ``CaseScore``."""

    arm: str
    fold: Fold
    split: str
    case: str
    file: Path
    reference: Path


def evaluate(call: StepCall) -> None:
    """Write ``evaluation/scores.json`` and ``.csv``. What was not predicted is left out."""
    run, spec, data = call.run, call.run.spec, call.run.cases
    cases = {case.id: case for case in data.cases}
    expected = [*_of_folds(run), *_of_test_sets(run)]
    predictions = [one for one in expected if one.file.is_file()]
    scores: list[CaseScore] = []
    for done, one in enumerate(predictions, start=1):
        scores += _scores(one, cases[one.case], targets=data.targets)
        call.emit({"event": "case", "done": done, "total": len(predictions)})
    if not scores:
        raise TaskFailed(
            "no fold has finished: there is nothing to evaluate",
            hint="`ca-hpc status` tells why the folds did not finish",
        )
    write_scores(scores, run.path)
    folds = sum(1 for arm in spec.arms for _ in run.folds(arm))
    missing = len(spec.arms) * len(spec.fold_indices) - folds
    call.say(f"{len(scores)} scores of {folds} folds; {missing} folds missing")
    if len(predictions) < len(expected):
        call.say(f"images of test sets not predicted: {len(expected) - len(predictions)}")


def _of_folds(run: RunFolder) -> Iterator[Prediction]:
    references = run.raw / run.cases.dataset / "labelsTr"
    for arm in run.spec.arms:
        for fold, folder in run.folds(arm):
            for file in sorted((folder / "validation").glob("*.nii.gz")):
                yield Prediction(
                    arm=arm,
                    fold=int(fold) if fold.isdigit() else fold,
                    split=VALIDATION,
                    case=file.name.removesuffix(".nii.gz"),
                    file=file,
                    reference=references / file.name,
                )


def _of_test_sets(run: RunFolder) -> Iterator[Prediction]:
    """Also those that are not there."""
    if not run.file("test_sets.json").is_file():  # there is no data set
        return
    raw = run.raw / run.cases.dataset
    for arm in run.spec.arms:
        for test_set, ids in run.test_sets.items():
            _, labels = folders_of_test_set(test_set)
            for case in ids:
                name = f"{case}.nii.gz"
                yield Prediction(
                    arm=arm,
                    fold=ENSEMBLE,
                    split=test_set,
                    case=case,
                    file=run.file("test", arm, test_set, name),
                    reference=raw / labels / name,
                )


def _scores(
    prediction: Prediction, case: Case, *, targets: Mapping[str, tuple[int, ...]]
) -> Iterator[CaseScore]:
    """One of each target. nnU-Net writes label maps, also where it has learnt regions."""
    wanted = np.asanyarray(nib.load(prediction.reference).dataobj)
    found = np.asanyarray(nib.load(prediction.file).dataobj)
    for target, values in targets.items():
        yield CaseScore(
            arm=prediction.arm,
            fold=prediction.fold,
            case=case.id,
            person=case.person,
            session=case.session,
            contrast=case.contrast,
            source=case.source,
            label=target,
            **asdict(overlap(np.isin(wanted, values), np.isin(found, values))),
            split=prediction.split,
            people=case.people,
        )


if __name__ == "__main__":
    main(evaluate)
