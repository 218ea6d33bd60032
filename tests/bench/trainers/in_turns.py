"""A trainer that waits for its turn, for ``tests/bench/turns.py``. It is copied into the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerInTurns(nnUNetTrainer):
    """Tells when it has ended an iteration, and begins the next when it is told to.

    By the pipes ``done`` and ``go`` in the attempt's folder; without them it just trains.
    """

    _done: BinaryIO | None = None
    _go: BinaryIO | None = None

    def on_train_start(self) -> None:
        super().on_train_start()
        attempt = next(f for f in Path(self.output_folder).parents if f.parent.name == "attempts")
        if (attempt / "go").exists():
            self._done = (attempt / "done").open("wb", buffering=0)
            self._go = (attempt / "go").open("rb", buffering=0)

    def train_step(self, batch: Any) -> Any:
        outcome = super().train_step(batch)
        if self._done and self._go:
            self._done.write(b".")
            self._go.read(1)
        return outcome
