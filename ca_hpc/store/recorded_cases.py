"""What a run has written down of its data, for those who use it again: texts, and the cases."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError
from ca_hpc.store.run_folder import RunFolder, inside

#: the next move where a file is not what a run writes
DAMAGED: Final = "its record is damaged: nothing can be rerun from it"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def text_of(run: RunFolder, file: Path) -> str:
    """A text of the run's own. Raises CaHpcError."""
    try:
        return inside(run.path, file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> CaHpcError:
    """The error for a file of a run or an archive. Of several lines the first is told."""
    reason = error.strerror if isinstance(error, OSError) else str(error).split("\n")[0]
    return CaHpcError(f"{file} cannot be read: {reason}", hint=DAMAGED)


def recorded_cases(run: RunFolder) -> Cases:
    """The cases that the run used, whose files go by the sha256 that they had when they were read.

    Raises OSError, and CaHpcError where it is damaged.
    """
    file = inside(run.path, run.file("cases.tsv"))
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = {row.get("case"): row for row in csv.DictReader(stream, dialect="excel-tab")}
        told = [(case, rows.get(case.id, {})) for case in run.cases.cases]
        used = [_by_content(case, row) for case, row in told if not _cell(case, row, "problem")]
    except (ValueError, csv.Error) as error:
        raise unreadable(file, error) from error
    return replace(run.cases, cases=tuple(used))


def _cell(case: Case, row: Mapping[str, str | None], column: str) -> str:
    """Raises ValueError for a table that was cut off."""
    if (value := row.get(column)) is None:
        raise ValueError(f"it does not tell {column} of {case.id}")
    return value


def _by_content(case: Case, row: Mapping[str, str | None]) -> Case:
    pictures, labels = (
        _cell(case, row, f"{kind}_sha256").split(",") for kind in ("image", "label")
    )
    count = len(case.images)
    counted = len(pictures) == count + len(case.masks) and len(labels) == len(case.labels)
    if not counted or not all(map(_DIGEST.fullmatch, (*pictures, *labels))):
        raise ValueError(f"it does not tell the digests of {case.id}")
    return replace(
        case,
        images=tuple(pictures[:count]),
        masks=tuple(pictures[count:]),
        labels=tuple(
            replace(label, path=digest) for label, digest in zip(case.labels, labels, strict=True)
        ),
        archive=None,
    )
