"""The files about a run for others: its record, and what is made of the record alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, Final

from ca_hpc.core.codec import encode
from ca_hpc.core.run_record import RunRecord
from ca_hpc.errors import CaHpcError
from ca_hpc.report.bids_description import description
from ca_hpc.report.run_crate import METADATA, crate
from ca_hpc.report.run_record import RECORD, compose, record_file
from ca_hpc.store import atomic
from ca_hpc.store.run_folder import RunFolder

DESCRIPTION: Final = "dataset_description.json"


def write_run_files(run: RunFolder) -> RunRecord:
    """Write ``run.json`` and, as soon as a task has ended, ``ro-crate-metadata.json``.

    Both, since the one has the other's digest. Folders of predictions get a BIDS description.
    Raises CaHpcError, OSError.
    """
    record = compose(run)
    atomic.write_text(run.file(RECORD), encode(record))
    if any(attempt.ended for attempt in record.attempts):
        _write_json(run, METADATA, crate(record, own=record_file(run)))
    for arm in record.arms:
        if run.file("test", arm).is_dir():
            described = description(record, arm=arm, origins=run.cases.origins)
            _write_json(run, f"test/{arm}/{DESCRIPTION}", described)
    return record


def refresh(run: RunFolder) -> None:
    """The same where it is possible: a full disk or a damaged record stop nothing else.

    For commands that change a run. What is missing is made anew by the next one.
    """
    with contextlib.suppress(OSError, CaHpcError):
        write_run_files(run)


def _write_json(run: RunFolder, name: str, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False)
    atomic.write_text(run.file(name), text + "\n")
