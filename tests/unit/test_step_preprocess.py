"""Stage preprocess, as far as it needs no network: tests/local has the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

from ca_hpc.steps.preprocess import preprocess
from ca_hpc.store.seal import SEALS, read_seals
from tests.prepare_runs import call
from tests.recorded_run import DATASET, finished, sha256


def test_plans_are_kept_outside_of_the_folder_that_may_go(tmp_path: Path) -> None:
    """Also by the attempt after one that was killed just before that."""
    run = finished(tmp_path)
    published = run.preprocessed / DATASET
    (published / "nnUNetPlans.json").write_text('{"plans_name": "nnUNetPlans"}')
    (published / "nnUNetPlannedOtherwise.json").write_text("{}")  # by none of the arms
    for folder in (run.path, published):
        (folder / "assembled.json").write_text("the same")
    shutil.rmtree(run.plans)
    for _ in range(2):
        preprocess(call(run))
        kept = {file.name for file in run.plans.iterdir()}
        assert kept == {"nnUNetPlans.json", SEALS}
        (sealed,) = read_seals(run.plans / SEALS).files
        assert (sealed.path, sealed.sha256) == (
            "nnUNetPlans.json",
            sha256(published / "nnUNetPlans.json"),
        )
