"""What a page says of a data set, as values. Nothing here reads files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ca_hpc.core.record import Origin

ByAxis = tuple[float, float, float]  # RL, AP, SI


@dataclass(frozen=True)
class CountRow:
    """Images and people of a source's contrast; None: of all of them.

    ``by_split``: images, in the order of ``DatasetContent.splits``.
    """

    source: str | None
    contrast: str | None
    images: int
    people: int
    by_split: tuple[int, ...]


@dataclass(frozen=True)
class GridRow:
    """How a source's images of a contrast are stored.

    ``spacing_mm`` and ``shape``: least and most along right-left, anterior-posterior and
    superior-inferior. ``orientations``: codes and how many images have them, most frequent first.
    """

    source: str
    contrast: str
    orientations: tuple[tuple[str, int], ...]
    spacing_mm: tuple[tuple[float, float], ...]
    shape: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class LabelRow:
    """A label in a source's images: in how many it is, is ``empty``, or was ``cut`` by the crop.

    ``volume_mm3``: least, median and most where it is not empty; None if it nowhere is.
    """

    label: str
    source: str
    images: int
    empty: int
    cut: int
    volume_mm3: tuple[float, float, float] | None


@dataclass(frozen=True)
class PathologyRow:
    """How many images and people of a source have a pathology; None: not known."""

    source: str
    pathology: str | None
    images: int
    people: int


@dataclass(frozen=True)
class FoldRow:
    """A fold: ``train`` and ``val`` are images and people; ``by_group``: images of ``val``."""

    fold: int
    train: tuple[int, int]
    val: tuple[int, int]
    by_group: tuple[int, ...]


@dataclass(frozen=True)
class FoldTable:
    """How folds are balanced over ``groups``, which are sources or contrasts (``kind``)."""

    kind: str
    groups: tuple[str, ...]
    rows: tuple[FoldRow, ...]


@dataclass(frozen=True)
class SkippedRow:
    """A case that is not in the data set, and why."""

    case: str
    source: str
    person: str
    reason: str


@dataclass(frozen=True)
class CasePicture:
    """The image and label that stand for a source's contrast.

    ``target``: whose median volume it has; "" where no image has any.
    """

    case: str
    source: str
    contrast: str
    target: str
    png: bytes


@dataclass(frozen=True)
class DatasetContent:
    """Everything about the data of a run. ``counts`` ends with the total.

    ``splits``: folds, train, val, then test sets. ``spacings`` (mm) by source and ``volumes``
    (mm3, of labels that are not empty) by label and source, each with one value per image.
    """

    splits: tuple[str, ...]
    counts: tuple[CountRow, ...]
    grids: tuple[GridRow, ...] = ()
    labels: tuple[LabelRow, ...] = ()
    pathologies: tuple[PathologyRow, ...] = ()
    folds: tuple[FoldTable, ...] = ()
    skipped: tuple[SkippedRow, ...] = ()
    origins: tuple[Origin, ...] = ()
    remarks: tuple[str, ...] = ()
    spacings: Mapping[str, tuple[ByAxis, ...]] = field(default_factory=dict)
    volumes: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    pictures: tuple[CasePicture, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.source for row in self.counts if row.source is not None))
