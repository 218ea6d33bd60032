"""Stage train: one fold of one arm, trained, validated and published."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from ca_hpc.core.arms import arm_training
from ca_hpc.core.model import INTERRUPTED_STATUS
from ca_hpc.core.spec import Arm, JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.attempt_files import discard_checkpoints, resume_folder
from ca_hpc.nnunet.calls import FoldCall, Start, TrainingSettings
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.folders import CONFIGURATION, results_folder, set_trainers
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.steps.publication import publish
from ca_hpc.store import atomic


def train(call: StepCall) -> int:
    """Train and validate; 0 when published, ``INTERRUPTED_STATUS`` when there is more to do."""
    run, spec = call.run, call.run.spec
    arm = spec.arms[call.arm]
    training = arm_training(spec.training, arm)
    dataset = run.cases.dataset
    root = call.preprocessed or run.preprocessed
    preprocessed = root / dataset
    task = call.attempt.parent.parent.name
    earlier = [path for path in run.attempts(task) if path.name < call.attempt.name]
    plans = run.arm_plans[call.arm]
    published = run.results(call.arm) / results_folder(
        dataset=dataset, trainer=training.trainer, plans=plans
    )
    if (published / f"fold_{call.fold}").is_dir():
        # of an attempt that was killed after its last act, the rename, or still ran on a lost node
        discard_checkpoints(earlier)
        call.say(f"fold {call.fold} of {call.arm} is finished: {published}")
        return 0
    set_trainers(run.trainers)
    outcome = train_fold(
        FoldCall(
            trainer=training.trainer,
            plans_file=preprocessed / f"{plans}.json",
            dataset_json_file=preprocessed / "dataset.json",
            configuration=CONFIGURATION,
            fold=call.fold,
            preprocessed_root=root,
            attempt_folder=call.attempt,
            earlier_attempts=tuple(earlier),
            start=_start(call, arm),
            device=call.device,
            torch_threads=call.threads,
            settings=TrainingSettings(
                epochs=training.epochs,
                iterations_per_epoch=training.iterations_per_epoch,
                validation_iterations_per_epoch=training.validation_iterations_per_epoch,
                seed=training.seed,
                initial_learning_rate=training.initial_learning_rate,
                workers=_workers(spec, call),
                checkpoint_every_s=training.checkpoint_every,
                tile_step=spec.validation.tile_step,
                mirroring=spec.validation.mirroring,
                validation_checkpoint=spec.validation.checkpoint,
                warmup_epochs=training.warmup_epochs,
                frozen_encoder_epochs=training.frozen_encoder_epochs,
                probabilities=spec.validation.probabilities,
            ),
            ends_at_s=call.ends_at,
        ),
        emit=call.emit,
        clock=time.time,
    )  # fmt: skip
    if not outcome.finished:
        return INTERRUPTED_STATUS
    if not publish_fold(outcome.fold_folder, published):
        call.say(f"another attempt has published fold {call.fold} of {call.arm}: it stays")
    # several files of twice the network's size; the fold is whole without them
    discard_checkpoints(earlier)
    shutil.rmtree(resume_folder(call.attempt), ignore_errors=True)
    return 0


def _start(call: StepCall, arm: Arm) -> Start | None:
    """The weights that the arm starts from, None for random ones."""
    if arm.weights == "random":
        return None
    weights = call.run.pins.weights
    if weights is None:  # random ones in their place would look like a result
        raise CaHpcError(
            f"The arm {call.arm} starts from {arm.weights} weights, and the run has none.",
            hint="Give the spec weights, and submit it again.",
        )
    return Start(
        weights=arm.weights,
        file=Path(weights.path),
        sha256=weights.sha256,
        stem=call.run.spec.stem,
        head=arm.head,
    )


def publish_fold(fold: Path, target: Path) -> bool:
    """Move a finished fold into the model's folder; False where it is there already."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
        # the same content from every fold, and folds end together: each by a draft of its own
        if not (target / name).exists():
            atomic.write_text(target / name, (fold.parent / name).read_text())
    return publish(fold, target / fold.name)


def _workers(spec: JobSpec, call: StepCall) -> int:
    """Augmentation processes. On the CPU they would take the training's own cores."""
    if spec.training.workers is not None:
        return spec.training.workers
    return max(1, call.cpus - 1) if call.device == "cuda" else 0


if __name__ == "__main__":
    main(train)
