"""What a report shows, as values. Whoever writes a report fills these; nothing here reads files."""

from __future__ import annotations

from dataclasses import dataclass

Fold = int | str  # nnU-Net's folds: 0, 1, ... or "all"


@dataclass(frozen=True)
class CaseScore:
    """How one arm did on one image that it was validated on, for one label.

    ``dice``, ``precision`` and ``sensitivity`` are fractions, NaN where undefined (nothing in the
    reference and nothing predicted). ``relative_volume_difference`` is (predicted - reference) /
    reference.
    """

    arm: str
    fold: Fold
    case: str
    person: str
    session: str | None
    contrast: str
    source: str
    label: str
    dice: float
    precision: float
    sensitivity: float
    relative_volume_difference: float


@dataclass(frozen=True)
class Curve:
    """The training of one fold of one arm: one value per entry of ``epochs``, NaN where unknown."""

    arm: str
    fold: Fold
    epochs: tuple[int, ...]
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    pseudo_dice: tuple[float, ...]


@dataclass(frozen=True)
class TaskRow:
    """The last attempt of one task. ``started`` is ISO 8601."""

    task: str
    state: str
    attempts: int
    node: str | None = None
    started: str | None = None
    seconds: float | None = None
    cause: str | None = None


@dataclass(frozen=True)
class Overlay:
    """A quality control picture of one case; ``rank`` says why this one (worst, median, best)."""

    arm: str
    rank: str
    case: str
    dice: float
    png: bytes


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page. ``arms`` and ``folds`` are those planned, finished or not.

    The first sentence of ``summary`` states the outcome. ``created`` is ISO 8601; ``facts`` are
    name and value pairs (digests, versions, the spec).
    """

    run_name: str
    kind: str
    created: str
    summary: tuple[str, ...]
    arms: tuple[str, ...]
    folds: tuple[Fold, ...]
    scores: tuple[CaseScore, ...] = ()
    curves: tuple[Curve, ...] = ()
    tasks: tuple[TaskRow, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
