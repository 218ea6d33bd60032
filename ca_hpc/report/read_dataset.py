"""From a run folder to what is said of its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ca_hpc.errors import CaHpcError
from ca_hpc.report.case_rows import read_rows
from ca_hpc.report.contact_sheet import contact_sheet
from ca_hpc.report.dataset import DatasetContent
from ca_hpc.report.dataset_tables import Fold, dataset_content
from ca_hpc.store.run_folder import RunFolder


def read_dataset(run: RunFolder) -> DatasetContent | None:
    """What is known of the run's data; None before they are a data set. Raises CaHpcError."""
    cases = run.cases
    rows = read_rows(run.file("cases.tsv"), cases.cases)
    if not rows:
        return None
    pictures = tuple(contact_sheet(run, rows, cases=cases))
    return dataset_content(rows, cases, folds=_folds(run.file("splits.json")), pictures=pictures)


def read_test_sets(run: RunFolder) -> Mapping[str, tuple[str, ...]]:
    """Case ids by test set; nothing before the data are divided. Raises CaHpcError."""
    return run.test_sets if run.file("test_sets.json").is_file() else {}


def _folds(file: Path) -> tuple[Fold, ...]:
    """nnU-Net's folds; () while there are none."""
    try:
        return tuple(json.loads(file.read_text())) if file.is_file() else ()
    except (OSError, ValueError) as error:
        raise CaHpcError(f"{file} cannot be read: {error}", hint="it is damaged") from error
