"""The rows of a run's ``cases.tsv``: what is known of every image, also of those left out."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError
from ca_hpc.report.dataset import ByAxis
from ca_hpc.report.tables import Person

SKIPPED: Final = "skipped"
FOLDS: Final = "folds"
AXES: Final = ("RL", "AP", "SI")


@dataclass(frozen=True)
class CaseRow:
    """One image. ``spacing_mm`` and ``shape`` by axis (RL, AP, SI), as stored; None: not known.

    ``voxels`` and ``volume_mm3`` by label; ``lost``: label voxels that the crop has cut away.
    """

    case: str
    source: str
    owner: Person
    contrast: str
    pathology: str | None
    split: str
    orientation: str
    spacing_mm: ByAxis | None
    shape: ByAxis | None
    voxels: Mapping[str, int]
    lost: Mapping[str, int]
    volume_mm3: Mapping[str, float]
    problem: str

    @property
    def skipped(self) -> bool:
        return self.split == SKIPPED


def read_rows(file: Path, cases: tuple[Case, ...]) -> tuple[CaseRow, ...]:
    """The rows of ``file``; () while there is none. Columns that it lacks are not known.

    ``cases`` say which people of several sources are the same. Raises CaHpcError.
    """
    if not file.is_file():
        return ()
    owners = {case.id: (case.people or case.source, case.person) for case in cases}
    try:
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream, dialect="excel-tab"))
        return tuple(_row(row, owners) for row in rows)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise CaHpcError(
            f"{file} cannot be read: {error!r}", hint="it is damaged; run the job again"
        ) from error


def _row(row: Mapping[str, str | None], owners: Mapping[str, Person]) -> CaseRow:
    def text(column: str) -> str:
        return row.get(column) or ""

    case, source, orientation = text("case"), text("source"), text("orientation")
    return CaseRow(
        case=case,
        source=source,
        owner=owners.get(case, (source, text("person"))),
        contrast=text("contrast"),
        pathology=text("pathology") or None,
        split=text("split") or FOLDS,
        orientation=orientation,
        spacing_mm=_by_axis(text("spacing_mm"), orientation),
        shape=_by_axis(text("shape"), orientation),
        voxels={label: int(n) for label, n in _by_label(text("label_voxels"))},
        lost={label: int(n) for label, n in _by_label(text("label_voxels_lost"))},
        volume_mm3={label: float(n) for label, n in _by_label(text("volume_mm3"))},
        problem=text("problem"),
    )


def _by_axis(text: str, orientation: str) -> ByAxis | None:
    """``0.8x0.8x5`` of axes stored like ``AIL`` in the order RL, AP, SI."""
    numbers = dict(zip(orientation, text.split("x") if text else (), strict=False))
    found = [float(n) for pair in AXES for letter, n in numbers.items() if letter in pair]
    if len(found) != len(AXES):
        return None
    right_left, anterior_posterior, superior_inferior = found
    return right_left, anterior_posterior, superior_inferior


def _by_label(text: str) -> list[tuple[str, str]]:
    """``cord:5437,lesion:120`` in pairs; a number alone is that of all labels, named ""."""
    parts = (part.rpartition(":") for part in text.split(",") if part)
    return [(label, number) for label, _, number in parts]
