"""What determines the course of a training, recorded beside what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ca_hpc.errors import CaHpcError, DigestMismatch


@dataclass(frozen=True, slots=True)
class Course:
    """What determines the course of a training: a continuation must agree in all of it."""

    trainer: str
    configuration: str
    fold: str
    plans_sha256: str
    epochs: int
    iterations_per_epoch: int
    validation_iterations_per_epoch: int
    seed: int
    initial_learning_rate: float | None
    warmup_epochs: int
    frozen_encoder_epochs: int
    weights: str  # random, pretrained or shuffled; of random ones the next three are None
    pretrained_sha256: str | None
    stem: str | None
    head: str | None

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Course:
        """The course that a file names. Raises KeyError where a field is missing."""
        return cls(**{field.name: record[field.name] for field in fields(cls)})

    def must_equal(self, other: Course, *, place: Path) -> None:
        """Raise CaHpcError, naming every difference, unless ``other`` (from ``place``) agrees.

        DigestMismatch, where plans or weights are not those that it began with.
        """
        ours, theirs = asdict(self), asdict(other)
        differing = [name for name in ours if ours[name] != theirs[name]]
        if differing:
            files = any(name.endswith("_sha256") for name in differing)
            raise (DigestMismatch if files else CaHpcError)(
                f"The training in {place} cannot be continued with other settings:\n"
                + "\n".join(
                    f"  {name}: {theirs[name]} there, {ours[name]} asked for" for name in differing
                ),
                hint="Set them back, or submit a new run: the learning rate schedule and the "
                "order of the batches depend on them.",
            )

    @property
    def start(self) -> str:
        """What the training started from, in words."""
        if self.pretrained_sha256 is None:
            return "random weights"
        shuffled = ", shuffled" if self.weights == "shuffled" else ""
        return f"weights sha256:{self.pretrained_sha256}{shuffled}"
