"""A timed training by stock nnU-Net: what ``nnUNetv2_train`` runs, with its arguments.

``python -m tests.gpu.stock ARGUMENTS-OF-nnUNetv2_train``. Only the search for the trainer's class
is answered by us: nnU-Net's own imports every trainer that it has on the way, and fails where one
of them needs what does not fit the torch at hand (timm, torchvision).
"""

from __future__ import annotations

import sys

from ca_hpc.nnunet.folders import CONFIGURATION
from tests.gpu.timed_training import TRAINER, Command, TimedTraining


def command(training: TimedTraining) -> Command:
    argv = (
        sys.executable, "-m", "tests.gpu.stock",
        training.dataset, CONFIGURATION, str(training.fold),
        "-tr", TRAINER, "-p", training.plans, "-device", training.device,
    )  # fmt: skip
    environment = {
        **training.environment(),
        "nnUNet_raw": training.preprocessed,  # never read in training
        "nnUNet_preprocessed": training.preprocessed,
        "nnUNet_results": f"{training.folder}/results",
        "nnUNet_n_proc_DA": str(training.workers),
    }
    return Command(argv, environment)


def main() -> None:
    from nnunetv2.run import run_training

    from ca_hpc.nnunet.trainer_search import resolve_trainer

    run_training.recursive_find_trainer_class_by_name = resolve_trainer
    run_training.run_training_entry()


if __name__ == "__main__":
    main()
