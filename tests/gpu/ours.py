"""A timed training in our loop, as our train stage calls it.

``python -m tests.gpu.ours TRAINING``, the latter in JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ca_hpc.core.environment import task_environment
from ca_hpc.nnunet.calls import FoldCall, TrainingSettings
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.folders import CONFIGURATION
from tests.gpu.timed_training import TRAINER, Command, TimedTraining


def command(training: TimedTraining) -> Command:
    environment = task_environment(
        threads=training.cpus,
        cpus=training.cpus,
        work_folder=training.folder,
        visible_gpus=None,
    )
    argv = (sys.executable, "-m", "tests.gpu.ours", training.to_json())
    return Command(argv, {**environment, **training.environment()})


def fold_call(training: TimedTraining) -> FoldCall:
    dataset = Path(training.preprocessed, training.dataset)
    return FoldCall(
        trainer=TRAINER,
        plans_file=dataset / f"{training.plans}.json",
        dataset_json_file=dataset / "dataset.json",
        configuration=CONFIGURATION,
        fold=training.fold,
        preprocessed_root=Path(training.preprocessed),
        attempt_folder=Path(training.folder),
        earlier_attempts=(),
        start=None,
        device="cuda" if training.device == "cuda" else "cpu",
        torch_threads=training.cpus,
        settings=TrainingSettings(
            epochs=1,
            iterations_per_epoch=training.iterations,
            validation_iterations_per_epoch=1,
            seed=0,
            initial_learning_rate=None,
            workers=training.workers,
            checkpoint_every_s=600,
            tile_step=1.0,
            mirroring=False,
            validation_checkpoint="final",
        ),
    )


if __name__ == "__main__":
    called = fold_call(TimedTraining(**json.loads(sys.argv[1])))
    train_fold(called, emit=print, clock=time.time)
