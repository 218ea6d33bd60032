"""Stage evaluate: every published fold's predictions against the reference, into one table."""

from __future__ import annotations

from dataclasses import asdict

import nibabel as nib
import numpy as np

from ca_hpc.errors import TaskFailed
from ca_hpc.imaging.metrics import overlap
from ca_hpc.report.model import CaseScore
from ca_hpc.report.scores import write_scores
from ca_hpc.steps.entry import StepCall, main


def evaluate(call: StepCall) -> None:
    """Write ``evaluation/scores.json`` and ``.csv``. Folds that are missing are left out."""
    run, spec, data = call.run, call.run.spec, call.run.cases
    cases = {case.id: case for case in data.cases}
    references = run.raw / data.dataset / "labelsTr"
    folds = [(arm, fold, folder) for arm in spec.arms for fold, folder in run.folds(arm)]
    scores: list[CaseScore] = []
    for done, (arm, fold, folder) in enumerate(folds, start=1):
        for prediction in sorted((folder / "validation").glob("*.nii.gz")):
            case = cases[prediction.name.removesuffix(".nii.gz")]
            wanted = np.asanyarray(nib.load(references / prediction.name).dataobj)
            found = np.asanyarray(nib.load(prediction).dataobj)
            for label, value in data.labels.items():
                measured = overlap(wanted == value, found == value)
                scores.append(
                    CaseScore(
                        arm=arm,
                        fold=int(fold) if fold.isdigit() else fold,
                        case=case.id,
                        person=case.person,
                        session=case.session,
                        contrast=case.contrast,
                        source=case.source,
                        label=label,
                        **asdict(measured),
                    )
                )
        call.emit({"event": "fold", "done": done, "total": len(folds)})
    if not scores:
        raise TaskFailed(
            "no fold has finished: there is nothing to evaluate",
            hint="`ca-hpc status` tells why the folds did not finish",
        )
    write_scores(scores, run.path)
    missing = len(spec.arms) * len(spec.fold_indices) - len(folds)
    call.say(f"{len(scores)} scores of {len(folds)} folds; {missing} folds missing")


if __name__ == "__main__":
    main(evaluate)
