"""``data.html``: what a careful person wants to see of the data before anything is trained."""

from __future__ import annotations

from pathlib import Path

from ca_hpc.errors import CaHpcError
from ca_hpc.report.html import render_data
from ca_hpc.report.read_dataset import read_dataset
from ca_hpc.store import atomic
from ca_hpc.store.run_folder import RunFolder


def write_data_page(run: RunFolder) -> Path:
    """Write and return ``RUN/data.html``. Needs ``cases.tsv`` and ``splits.json``.

    Raises CaHpcError while there is no data set.
    """
    dataset = read_dataset(run)
    if dataset is None:
        raise CaHpcError(
            f"{run.path} has no data set yet", hint="the task assemble makes it: cases.tsv"
        )
    page = run.file("data.html")
    atomic.write_text(page, render_data(dataset, run_name=run.path.name))
    return page
