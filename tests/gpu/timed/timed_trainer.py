"""nnU-Net's default trainer with a stopwatch: the same instrument for its own loop and for ours.

``CA_HPC_TIMED`` in the environment says how long it trains, in JSON (``TimedTraining.timing``).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from ca_hpc.nnunet.trainer import gpu_peak_mib


class TimedTrainer(nnUNetTrainer):
    """One epoch; after its last iteration a record of when each began and ended is written."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._timing = json.loads(os.environ["CA_HPC_TIMED"])
        self._steps: list[tuple[float, float]] = []
        self.num_epochs = 1
        self.num_iterations_per_epoch = self._timing["iterations"]
        self.num_val_iterations_per_epoch = 1

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        outputs: dict[str, Any] = super().train_step(batch)
        # the loss is a number on the host by now: the GPU has done the whole step
        self._steps.append((began, time.monotonic()))
        if len(self._steps) == self._timing["warm_up"]:
            for _ in range(self._timing["drawn"]):
                next(self.dataloader_train)
        return outputs

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)
        record = Path(self._timing["record"])
        draft = record.with_suffix(".draft")
        draft.write_text(json.dumps({"steps": self._steps, **gpu_peak_mib(self.device)}))
        draft.replace(record)
