"""A small training that can be watched from outside, and what its attempts tell of its course."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.nnunet.checkpoints import weights_sha256
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.weights.checkpoint import read_checkpoint
from tests.checkpoints import write_checkpoint
from tests.integration.jobs import QUICK, Site
from tests.lab.cluster import Cluster

TRAINERS = Path(__file__).parent / "trainers"
EPOCHS, ITERATIONS = 4, 10


@dataclass(frozen=True)
class Scene:
    """A cluster, and the ordinary user's command line on it."""

    cluster: Cluster
    site: Site
    image: Path

    def job(
        self, name: str, *, folds: int, of: int = 0, trainer: str = "Watched"
    ) -> dict[str, Any]:
        """``folds`` trainings, of ``of`` folds (as many), of a small network from given weights."""
        splits = max(2, of or folds)
        return {
            "kind": "finetune",
            "name": name,
            "cluster": "lab",
            "image": str(self.image),
            "data": [
                {
                    "type": "bids",
                    "path": str(data_set(self.site, people=3 * splits)),
                    "label_suffix": "_label-SC_seg",
                }
            ],
            "weights": str(weights(self.site)),
            "model": "demo",
            "splits": {"folds": splits},
            "folds": list(range(folds)),
            "arms": {"finetune": {"weights": "pretrained", "plans": "model"}},
            "trainers": str(trainers(self.site)),
            **QUICK,
            "training": {
                "epochs": EPOCHS,
                "iterations_per_epoch": ITERATIONS,
                "validation_iterations_per_epoch": 1,
                "workers": 0,
                "trainer": f"nnUNetTrainer{trainer}",
            },
            "validation": {"tile_step": 1.0, "mirroring": True},
        }


def data_set(site: Site, *, people: int) -> Path:
    folder = site.folder / f"data-{people}"
    if not folder.exists():
        write_dataset(folder, people=people, seed=5, contrasts=("T2starw",))
        readable(folder)
    return folder


def weights(site: Site) -> Path:
    file = site.folder / "demo.pth"
    if not file.exists():
        write_checkpoint(file, model="demo")
    return file


def trainers(site: Site) -> Path:
    folder = site.folder / "trainers"
    if not folder.exists():
        shutil.copytree(TRAINERS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        readable(folder)
    return folder


def readable(folder: Path) -> None:
    """For the ordinary user, who must not be able to change it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def own_image(image: Path, folder: Path) -> Path:
    """The image under a name of its own: what still serves it afterwards can be found by that."""
    own = folder / "image.sif"
    for suffix in ("", ".json"):
        os.link(f"{image}{suffix}", f"{own}{suffix}")
    return own


def copied_image(image: Path, copy: Path) -> Path:
    """To be changed: the image itself is a link to what other tests run."""
    for suffix in ("", ".json"):
        shutil.copy(f"{image}{suffix}", f"{copy}{suffix}")
    return copy


def tell_pace(scene: Scene, task: Path, seconds: float) -> None:
    """How long an iteration takes, told to a task that has not begun."""
    task.mkdir(parents=True, exist_ok=True)
    scene.site.own(task.parent, task)
    (task / "pace").write_text(str(seconds))


def final_weights(run: Path, fold: int) -> str:
    """Digest of the trained network's."""
    (final,) = (run / "results").glob(f"*/*/*/fold_{fold}/checkpoint_final.pth")
    return weights_sha256(as_torch(read_checkpoint(final).tensors))


@dataclass(frozen=True)
class Lived:
    """One attempt: its events, and the finished iterations as (epoch, time)."""

    name: str
    events: Sequence[dict[str, Any]]
    iterations: Sequence[tuple[int, float]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def start(self) -> dict[str, Any] | None:
        return next(iter(self.of("start")), None)

    def begun_at(self, *, per_epoch: int) -> int:
        """Iterations of the whole training that were done before.

        Behind those of an epoch's training the trainer counts those of its validation.
        """
        start = self.start
        if start is None:
            return 0
        return int(start["epoch"] * per_epoch + min(start["iteration"], per_epoch))


def attempts(run: Path, task: str) -> list[Lived]:
    """The task's attempts, oldest first."""
    return [
        Lived(
            folder.name,
            list(_lines(folder / "progress.jsonl")),
            [(line["epoch"], line["time"]) for line in _lines(folder / "iterations.jsonl")],
        )
        for folder in sorted((run / "tasks" / task / "attempts").glob("[0-9]*-*"))
    ]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.exists():
        return
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # the last one may be half written
            yield json.loads(line)


def complaints(
    lived: Sequence[Lived], *, pretrained: str, epochs: int, per_epoch: int
) -> list[str]:
    """What was lost or done twice in the course of a finished training; nothing, if all is well.

    ``pretrained``: digest of the weights that it must have started from.
    """
    wrong: list[str] = []
    begun = [one for one in lived if one.start is not None]
    if not begun:
        wrong.append("it never began")
    done = 0  # finished iterations of the whole training, by the trainer's own word
    trained: list[int] = []
    cases: dict[str, str] = {}
    for one in begun:
        start, first = one.start or {}, one.begun_at(per_epoch=per_epoch)
        if start["pretrained_sha256"] != pretrained:
            wrong.append(f"{one.name}: started with {start['pretrained_sha256']}")
        if start["resumed_from"] is None and first:
            wrong.append(f"{one.name}: at {first} though it resumed from nothing")
        if first != done:
            wrong.append(f"{one.name}: began at iteration {first}, {done} were finished")
        done = first + len(one.iterations)
        trained += [event["epoch"] for event in one.of("epoch")]
        for event in one.of("validation"):
            if event["case"] in cases and not event["reused"]:
                wrong.append(f"{one.name}: {event['case']} again, {cases[event['case']]} had it")
            cases.setdefault(event["case"], one.name)
    if trained != list(range(epochs)):
        wrong.append(f"epochs {trained}")
    return wrong
