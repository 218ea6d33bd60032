"""Stage predict: the test sets, by all published folds of one arm together."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from ca_hpc.core.arms import arm_training
from ca_hpc.core.model import INTERRUPTED_STATUS
from ca_hpc.errors import TaskFailed
from ca_hpc.nnunet.calls import PredictionCall
from ca_hpc.nnunet.folders import set_trainers
from ca_hpc.nnunet.prediction import predict_test_sets
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.steps.publication import publish

DRAFT = "test"  # in the attempt's folder


def predict(call: StepCall) -> int:
    """Write ``test/ARM/SET/CASE.nii.gz``; ``INTERRUPTED_STATUS`` when there is more to do.

    Folds that are missing are left out; without any there is nothing to predict with.
    """
    run, spec = call.run, call.run.spec
    folds = dict(run.folds(call.arm))
    if not folds:
        raise TaskFailed(
            f"no fold of {call.arm} has finished: there is nothing to predict with",
            hint="`ca-hpc status` tells why the folds did not finish",
        )
    missing = [str(fold) for fold in spec.fold_indices if str(fold) not in folds]
    call.say(
        f"test sets by {len(folds)} of {len(folds) + len(missing)} folds together"
        + (f"; missing: {', '.join(missing)}" if missing else "")
    )
    training = arm_training(spec.training, spec.arms[call.arm])
    # where nothing was trained there is no best epoch
    kept = spec.validation.checkpoint if training.epochs else "final"
    model = next(iter(folds.values())).parent
    _, _, configuration = model.name.split("__")
    set_trainers(run.trainers)
    draft, published = call.attempt / DRAFT, run.file("test", call.arm)
    task = call.attempt.parent.parent.name
    earlier = [path / DRAFT for path in run.attempts(task) if path.name < call.attempt.name]
    prediction = PredictionCall(
        trainer=training.trainer,
        model_folder=model,
        configuration=configuration,
        checkpoints={fold: folder / f"checkpoint_{kept}.pth" for fold, folder in folds.items()},
        raw_folder=run.raw / run.cases.dataset,
        test_sets=run.test_sets,
        output_folder=draft,
        earlier_folders=(published, *reversed(earlier)),
        device=call.device,
        torch_threads=call.threads,
        tile_step=spec.validation.tile_step,
        mirroring=spec.validation.mirroring,
        probabilities=spec.validation.probabilities,
        ends_at_s=call.ends_at,
    )
    try:
        finished = predict_test_sets(prediction, emit=call.emit, clock=time.time)
    except Exception:
        _publish(draft, published)  # one image is at fault: the others can be scored
        raise
    if not finished:
        return INTERRUPTED_STATUS
    _publish(draft, published)
    for folder in earlier:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _publish(draft: Path, target: Path) -> None:
    """Publish predictions, also in the place of fewer ones or of those by fewer folds."""
    from ca_hpc.nnunet.sliding_window import outdated

    if not draft.is_dir():
        return
    if target.exists() and outdated(target, by=draft):
        target.rename(draft.with_name("former"))
    publish(draft, target)


if __name__ == "__main__":
    main(predict)
