"""What a run came to, as files: JSON for programs, CSV for people and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ca_hpc.errors import CaHpcError
from ca_hpc.report.model import CaseScore, Comparison
from ca_hpc.store import atomic

FOLDER = "evaluation"


def write_scores(scores: Sequence[CaseScore], run_folder: Path) -> None:
    """``evaluation/scores.json`` and ``.csv``. NaN becomes null: JSON has no word for it."""
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    rows = [asdict(score) for score in scores]
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    atomic.write_text(folder / "scores.json", json.dumps(plain, indent=1) + "\n")
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [f.name for f in fields(CaseScore)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    atomic.write_text(folder / "scores.csv", stream.getvalue())


def read_scores(run_folder: Path) -> tuple[CaseScore, ...]:
    """What ``write_scores`` wrote; empty before the evaluation. Raises CaHpcError."""
    file = run_folder / FOLDER / "scores.json"
    if not file.is_file():
        return ()
    numbers = {f.name for f in fields(CaseScore) if f.type == "float"}
    missing = dict.fromkeys(numbers, math.nan)
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_text())
        return tuple(
            CaseScore(
                **missing | {k: v for k, v in row.items() if v is not None or k not in numbers}
            )
            for row in rows
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CaHpcError(
            f"{file} cannot be read: {error}",
            hint="it is damaged; the folds' own predictions and summaries are below results/",
        ) from error


def write_comparison(
    comparisons: Sequence[Comparison], run_folder: Path, *, summary: Sequence[str]
) -> None:
    """``evaluation/comparison.json``: the comparisons and the sentences that say what they mean."""
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    rows = [{**asdict(c), "n": c.n, "higher": c.higher, "lower": c.lower} for c in comparisons]
    document = {"summary": list(summary), "comparisons": rows}
    atomic.write_text(folder / "comparison.json", json.dumps(document, indent=1) + "\n")


def read_summary(run_folder: Path) -> tuple[str, ...]:
    """The sentences that ``write_comparison`` wrote; empty before the report. Raises CaHpcError."""
    file = run_folder / FOLDER / "comparison.json"
    if not file.is_file():
        return ()
    try:
        return tuple(str(sentence) for sentence in json.loads(file.read_text())["summary"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CaHpcError(
            f"{file} cannot be read: {error}", hint="it is damaged; report.html says the same"
        ) from error


def _plain(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value
