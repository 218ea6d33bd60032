"""What a report shows, as values. Whoever writes a report fills these; nothing here reads files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from typing import Final

from ca_hpc.report.dataset import DatasetContent

Fold = int | str  # nnU-Net's folds: 0, 1, ... or "all"; of test sets ENSEMBLE

VALIDATION: Final = "validation"
ENSEMBLE: Final = "ensemble"
NOT_RUN: Final = "not run"


@dataclass(frozen=True)
class CaseScore:
    """How one arm did on one image that it was not trained on, for one label.

    ``split``: ``validation``, or the test set that the image belongs to, which all folds together
    have predicted (then ``fold`` is ``ensemble``). ``people``: within which names of persons mean
    the same person; within the source, if empty.
    ``dice``, ``precision`` and ``sensitivity`` are fractions. With nothing in the reference
    ``sensitivity`` and ``relative_volume_difference``, (predicted - reference) / reference, are
    NaN; with nothing predicted ``precision`` is; with neither ``dice`` is, too.
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
    split: str = VALIDATION
    people: str = ""

    @property
    def owner(self) -> tuple[str, str]:
        """Whose image it is: two data sets may both have a sub-01."""
        return self.people or self.source, self.person

    @property
    def reference_empty(self) -> bool:
        return isnan(self.sensitivity)

    @property
    def prediction_empty(self) -> bool:
        return isnan(self.precision)


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
    """The last attempt of one task; ``state`` is NOT_RUN where there is none.

    ``started`` is ISO 8601. ``cause`` may have many lines. ``failure``: its class; ``lines``: those
    of the log that show it.
    """

    task: str
    state: str
    attempts: int
    node: str | None = None
    started: str | None = None
    seconds: float | None = None
    cause: str | None = None
    hint: str | None = None
    failure: str | None = None
    lines: tuple[str, ...] = ()

    @property
    def cause_lines(self) -> tuple[str, ...]:
        return tuple((self.cause or "").splitlines())


@dataclass(frozen=True)
class Overlay:
    """A quality control picture of one case.

    ``rank`` says why this one: worst, median or best in Dice of ``label`` within ``split``.
    """

    arm: str
    rank: str
    case: str
    dice: float
    png: bytes
    split: str = VALIDATION
    label: str = ""


@dataclass(frozen=True)
class Comparison:
    """``arm`` minus ``baseline`` in Dice of one label; ``differences`` has one value per person.

    ``left_out``: people whom only one of the two has scored, or whose Dice is undefined.
    ``interval``: 95 %, of the mean. ``effect``: matched-pairs rank-biserial correlation. ``p``:
    signed-rank test, corrected for the comparisons of the label in this ``split``. None: too few
    people for it, or nobody differs. ``too_few``: whatever the scores, p could not have fallen
    below 0.05.
    """

    label: str
    arm: str
    baseline: str
    differences: tuple[float, ...]
    left_out: int
    mean: float | None
    interval: tuple[float, float] | None
    effect: float | None
    p: float | None
    too_few: bool
    split: str = VALIDATION

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def higher(self) -> int:
        return sum(difference > 0 for difference in self.differences)

    @property
    def lower(self) -> int:
        return sum(difference < 0 for difference in self.differences)


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page. ``arms`` and ``folds`` are those planned, finished or not.

    ``summary`` states the outcome first, but for a sentence on images that were left out.
    ``weights``: what each arm starts from (pretrained, random, shuffled). ``created`` is ISO 8601;
    ``facts`` are name and value pairs (digests, versions, the spec). ``dataset``: None before
    there is one.
    """

    run_name: str
    kind: str
    created: str
    summary: tuple[str, ...]
    arms: tuple[str, ...]
    folds: tuple[Fold, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    scores: tuple[CaseScore, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    curves: tuple[Curve, ...] = ()
    tasks: tuple[TaskRow, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    dataset: DatasetContent | None = None
