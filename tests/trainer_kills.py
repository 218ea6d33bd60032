"""A trainer killed by SIGKILL again and again; how often and by what seed is the caller's."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ca_hpc.nnunet.calls import FoldCall, Start
from ca_hpc.nnunet.checkpoints import weights_sha256
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.progress import read_events
from ca_hpc.weights.checkpoint import read_checkpoint
from tests.blobs import Preprocessed, fold_call

REPOSITORY = Path(__file__).parents[1]
WRITE_S = 0.2  # a checkpoint takes that long, so that a kill can find it half written
LIMIT_S = 120.0
# Events go into the attempt's progress.jsonl, with their time. torch.save is slowed: it writes the
# file in ten pieces.
PROGRAM = """
import io, json, time
from pathlib import Path, PosixPath
import torch
from ca_hpc.nnunet.calls import FoldCall, Start, TrainingSettings
from ca_hpc.nnunet.fold_training import train_fold

save = torch.save

def slowly(state, target):
    whole = io.BytesIO()
    save(state, whole)
    content = whole.getvalue()
    piece = len(content) // 10 + 1
    with open(target, "wb", buffering=0) as stream:
        for at in range(0, len(content), piece):
            stream.write(content[at : at + piece])
            time.sleep({write_s} / 10)

torch.save = slowly
call = {call!r}

def emit(event):
    with open(call.attempt_folder / "progress.jsonl", "a") as stream:
        stream.write(json.dumps({{**event, "time": time.time()}}) + "\\n")

assert train_fold(call, emit=emit, clock=time.time).finished
"""
Kill = Callable[["Trainer"], bool]


@dataclass
class Trainer:
    """A process that trains one attempt."""

    call: FoldCall
    process: subprocess.Popen[bytes]

    @classmethod
    def started(cls, call: FoldCall) -> Trainer:
        attempt = call.attempt_folder
        attempt.mkdir(parents=True)
        program = PROGRAM.format(call=call, write_s=WRITE_S)
        with (attempt / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdout=log, stderr=log, cwd=REPOSITORY
            )
        return cls(call, process)

    @property
    def events(self) -> list[dict[str, Any]]:
        return read_events(self.call.attempt_folder)

    @property
    def log(self) -> str:
        return (self.call.attempt_folder / "log.txt").read_text()

    def partials(self) -> list[Path]:
        """Checkpoints that are being written, or were when it died."""
        attempt = self.call.attempt_folder
        return [*attempt.glob("resume/.partial-*"), *attempt.glob("results/*/*/*/.partial-*.pth")]

    def until(self, true: Callable[[], object]) -> bool:
        """Wait; whether it came true while the process lived."""
        end = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            if true():
                return True
            assert time.monotonic() < end, "it neither started nor ended"
            time.sleep(0.002)
        return False

    def kill(self) -> bool:
        """Whether that was what ended it."""
        self.process.kill()
        return self.process.wait() == -9


@dataclass
class Trainings:
    """One training after the other, each in as many attempts as it takes."""

    data: Preprocessed
    folder: Path
    start: Start
    task: int = 0
    attempts: list[Path] = field(default_factory=list)  # of the training that is under way
    finished: list[str] = field(default_factory=list)  # the final weights of those before it

    def attempt(self, kill: Kill | None = None) -> tuple[Trainer, bool]:
        """The next attempt: started, killed, checked. Also whether the kill came as was meant."""
        furthest = max(map(place, self._resume_files()), default=None)
        folder = self.folder / f"task-{self.task}" / f"{len(self.attempts):04}"
        trainer = Trainer.started(
            fold_call(
                self.data,
                folder,
                earlier_attempts=tuple(self.attempts),
                start=self.start,
                epochs=3,
                validation_iterations_per_epoch=2,
                checkpoint_every_s=0.0,
            )
        )
        self.attempts.append(folder)
        killed = kill is not None and kill(trainer)
        status = trainer.process.wait(LIMIT_S)
        assert status in (0, -9), trainer.log
        self._check(trainer, furthest=furthest)
        if status == 0:
            (final,) = folder.glob("results/*/*/fold_0/checkpoint_final.pth")
            self.finished.append(weights_sha256(as_torch(read_checkpoint(final).tensors)))
            self.task, self.attempts = self.task + 1, []
        return trainer, killed

    def _resume_files(self) -> list[Path]:
        return [file for attempt in self.attempts for file in attempt.glob("resume/resume-*.pt")]

    def _check(self, trainer: Trainer, *, furthest: tuple[int, int] | None) -> None:
        """It began where the furthest attempt had saved, from these weights, and only got on."""
        events = trainer.events
        assert not [event for event in events if event["event"] == "checkpoint-skipped"], events
        for start in (event for event in events if event["event"] == "start"):
            assert start["pretrained_sha256"] == self.start.sha256
            assert f"weights sha256:{self.start.sha256}" in trainer.log
            if Path(start["resumed_from"] or "").name == "checkpoint_final.pth":
                continue
            assert (start["epoch"], start["iteration"]) == (furthest or (0, 0))
            assert (start["resumed_from"] is None) == (furthest is None)
        places = [
            (event["epoch"], event["iteration"])
            for event in events
            if event["event"] in ("start", "checkpoint") and "iteration" in event
        ]
        assert places == sorted(places)
        # Those of this attempt and of the one before it; attempts that died before their first
        # checkpoint hold further links to the same files.
        contents = {file.stat().st_ino for file in self._resume_files()}
        assert len(contents) <= 4


def place(file: Path) -> tuple[int, int]:
    """Epoch and iteration in a resume file's name."""
    epoch, iteration = map(int, re.findall(r"\d+", file.name))
    return epoch, iteration


def survives_kills(
    data: Preprocessed, folder: Path, *, anywhere: int, writing: int, seed: int
) -> None:
    """Kill a trainer at random instants, and others while it writes; compare the weights."""
    chance = random.Random(seed)
    trainings = Trainings(data, folder, start=pretrained(data, folder))
    calm, _ = trainings.attempt()
    duration = calm.events[-1]["time"] - calm.events[0]["time"]

    def at_random(trainer: Trainer) -> bool:
        if chance.random() < 0.2:  # while it starts
            time.sleep(chance.uniform(0.1, 5.0))
        elif trainer.until(lambda: trainer.events):
            time.sleep(chance.uniform(0.0, 0.5 * duration))
        return trainer.kill()

    def while_writing(trainer: Trainer) -> bool:
        for _ in range(chance.randint(1, 4)):  # which of the writes
            trainer.until(lambda: not trainer.partials())
            if not trainer.until(trainer.partials):
                return False
        time.sleep(chance.uniform(0.0, 0.8 * WRITE_S))
        return trainer.kill() and bool(trainer.partials())

    counts: dict[Kill, int] = {at_random: 0, while_writing: 0}
    wanted: dict[Kill, int] = {at_random: anywhere, while_writing: writing}
    while left := [kind for kind in counts if counts[kind] < wanted[kind]]:
        kind = chance.choice(left)
        _, as_meant = trainings.attempt(kind)
        counts[kind] += as_meant
    trainings.attempt()
    print(
        f"{sum(counts.values())} kills, {counts[while_writing]} of them while a checkpoint was "
        f"being written, in {len(trainings.finished)} trainings"
    )
    assert counts == wanted
    assert len(trainings.finished) > 1 and len(set(trainings.finished)) == 1


def pretrained(data: Preprocessed, folder: Path) -> Start:
    """Weights to start from: those of a training without epochs."""
    call = fold_call(data, folder / "pretraining", epochs=0, fold=1, seed=99)
    trainer = Trainer.started(call)
    assert trainer.process.wait(LIMIT_S) == 0, trainer.log
    (file,) = call.attempt_folder.glob("results/*/*/fold_1/checkpoint_final.pth")
    return Start("pretrained", file=file, sha256=sha256_file(file))


def seed_of_this_run() -> int:
    """A new one, printed; CA_HPC_TEST_SEED repeats an earlier one."""
    seed = int(os.environ.get("CA_HPC_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed} (CA_HPC_TEST_SEED repeats it)")
    return seed
