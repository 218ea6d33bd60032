"""What a training leaves in its attempt's folder, and when it goes.

Only earlier attempts' files are ever touched: a copy of the task that still runs on a lost node,
being one of these, can be harmed by its successor, but never the other way round.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

PARTIAL = ".partial-"  # of a file that is being written


def resume_folder(attempt: Path) -> Path:
    """Where an attempt keeps its resume files."""
    return attempt / "resume"


def discard_checkpoints(attempts: Iterable[Path]) -> None:
    """Remove the checkpoints of attempts that a later one has superseded; logs stay."""
    for attempt in attempts:
        shutil.rmtree(resume_folder(attempt), ignore_errors=True)
        for checkpoint in (attempt / "results").glob("*/*/fold_*/checkpoint_*.pth"):
            checkpoint.unlink(missing_ok=True)


def discard_partials(attempts: Iterable[Path]) -> None:
    """Remove what killed attempts were writing."""
    for attempt in attempts:
        for folder, _, names in os.walk(attempt):
            for name in names:
                if name.startswith(PARTIAL):
                    Path(folder, name).unlink(missing_ok=True)
