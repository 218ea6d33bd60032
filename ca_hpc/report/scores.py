"""What a run came to, as files: JSON for programs, CSV for people and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from ca_hpc.core.codec import convert, decode
from ca_hpc.errors import CaHpcError
from ca_hpc.report.model import CaseScore, Comparison
from ca_hpc.store import atomic

FOLDER = "evaluation"
FILE = "scores.json"
#: what each number can be; NaN, of what is not defined, too
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "dice": (0, 1),
    "precision": (0, 1),
    "sensitivity": (0, 1),
    "relative_volume_difference": (-1, 1e12),  # an image has fewer voxels
}


def write_scores(scores: Sequence[CaseScore], run_folder: Path) -> None:
    """``evaluation/scores.json`` and ``.csv``."""
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    atomic.write_text(folder / FILE, scores_text(scores))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [f.name for f in fields(CaseScore)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(score) for score in scores)
    atomic.write_text(folder / "scores.csv", stream.getvalue())


def scores_text(scores: Sequence[CaseScore]) -> str:
    """Scores as JSON. NaN becomes null: JSON has no word for it."""
    return json.dumps([_plain(score) for score in scores], indent=1) + "\n"


def read_scores(run_folder: Path) -> tuple[CaseScore, ...]:
    """What ``write_scores`` wrote; empty before the evaluation. Raises CaHpcError."""
    file = run_folder / FOLDER / FILE
    if not file.is_file():
        return ()
    try:
        return scores_of(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaHpcError(
            f"{file} cannot be read: {error}",
            hint="it is damaged; the folds' own predictions and summaries are below results/",
        ) from error


def scores_of(text: str) -> tuple[CaseScore, ...]:
    """Read back what ``scores_text`` wrote. Raises ValueError for what no evaluation can say."""
    rows = decode(list[dict[str, float | int | str | None]], text)
    undefined = dict.fromkeys(RANGES, math.nan)
    plain = [
        {**undefined, **{k: v for k, v in row.items() if v is not None or k not in RANGES}}
        for row in rows
    ]
    found = convert(tuple[CaseScore, ...], plain)
    if (problem := next(_problems(found), None)) is not None:
        raise ValueError(problem)
    return found


def _problems(scores: Sequence[CaseScore]) -> Iterator[str]:
    for position, score in enumerate(scores):
        for name, (least, most) in RANGES.items():
            value: float = getattr(score, name)
            if not (math.isnan(value) or least <= value <= most):
                yield f"{name} of score {position + 1} is {value:g}"


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


def _plain(score: CaseScore) -> dict[str, object]:
    """A line of a table; None for NaN."""
    values = asdict(score).items()
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values}
