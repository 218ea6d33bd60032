"""A user's own trainer for the tests: slow on purpose, and it tells of each iteration it finished.

It is copied into the run and imported in the image, where the tests are not.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

# Per iteration, and per forward pass of a validation: interruptions can aim, and several
# trainings share two cores. A file "pace" in the task's folder holds another number, or "hold":
# then it goes on when it is told otherwise.
SECONDS = 0.3
SECONDS_PER_PASS = 0.8

FAULTY_ITERATION = 3
WRITING_S = 0.2  # of a checkpoint by the slow writer, in pieces
PIECES = 10


def raise_exception() -> None:
    raise FloatingPointError("the loss is not a number")


def use_memory() -> None:
    """More than the job has, for long enough that SLURM's accounting sees it."""
    much = bytearray(1_700_000_000)
    much[::4096] = b"x" * len(much[::4096])
    time.sleep(8)


# What goes wrong where a file "fault" in the task's folder names it. It is removed first, so that
# it happens once, but for the one that depends on what the job has.
FAULTS: dict[str, Callable[[], object]] = {
    "exception": raise_exception,
    "exit": lambda: os._exit(7),
    "segfault": lambda: ctypes.string_at(0),
    "memory": use_memory,
    "hang": lambda: time.sleep(3600),
}
LASTING = {"memory"}


class nnUNetTrainerWatched(nnUNetTrainer):
    """What nnU-Net trains, with a line in ATTEMPT/iterations.jsonl per finished iteration."""

    _steps = 0

    def initialize(self) -> None:
        super().initialize()
        self.network.register_forward_pre_hook(self._validating)

    def train_step(self, batch: Any) -> Any:
        self._steps += 1
        if self._steps == FAULTY_ITERATION:
            self._go_wrong()
        self._take_time(SECONDS)
        outcome = super().train_step(batch)
        line = json.dumps({"epoch": self.current_epoch, "time": time.time()}) + "\n"
        target = self._attempt() / "iterations.jsonl"
        # one write of one line: a kill leaves none of it or all
        file = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)
        return outcome

    def _go_wrong(self) -> None:
        file = self._attempt().parents[1] / "fault"
        if file.exists():
            name = file.read_text()
            if name not in LASTING:
                file.unlink()
            FAULTS[name]()

    def _validating(self, network: Any, inputs: Any) -> None:
        if not network.training:
            self._take_time(SECONDS_PER_PASS)

    def _take_time(self, usual: float) -> None:
        while self._told() == "hold":
            time.sleep(0.1)
        time.sleep(float(self._told() or usual))

    def _told(self) -> str:
        try:
            return (self._attempt().parents[1] / "pace").read_text()
        except OSError:
            return ""

    def _attempt(self) -> Path:
        """The folder of the attempt, which nnU-Net's output folder is in."""
        folder = Path(self.output_folder)
        return next(f for f in (folder, *folder.parents) if f.parent.name == "attempts")


class nnUNetTrainerSlowWriter(nnUNetTrainerWatched):
    """Its checkpoints take a while, so that a kill can find one half written."""

    def initialize(self) -> None:
        super().initialize()
        save = torch.save

        def slowly(state: Any, target: Any) -> None:
            whole = io.BytesIO()
            save(state, whole)
            content = whole.getvalue()
            piece = len(content) // PIECES + 1
            with Path(target).open("wb", buffering=0) as stream:
                for at in range(0, len(content), piece):
                    stream.write(content[at : at + piece])
                    time.sleep(WRITING_S / PIECES)

        torch.save = slowly
