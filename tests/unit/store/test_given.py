"""What a rerun is given comes back as it was, or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc.core.run_record import File, Rerun
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store.given import Given, given_division, given_plans, read_given, write_given
from ca_hpc.store.run_folder import RunFolder

GIVEN = Given(
    splits='[{"train": ["a"], "val": ["b"]}]\n',
    test_sets='{"test": ["c"]}\n',
    plans={"scratch": '{"plans_name": "nnUNetPlans"}', "finetune": '{"plans_name": "x"}'},
    rerun=Rerun(File("neck-001", "a" * 64, 3), ("data",)),
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    found = RunFolder.create(tmp_path, "neck")
    write_given(found, GIVEN)
    return found


def test_what_is_given_comes_back(run: RunFolder) -> None:
    assert read_given(run) == GIVEN
    division = given_division(run)
    assert division is not None
    assert division.folds == ({"train": ["a"], "val": ["b"]},)
    assert division.tests == {"test": ("c",)}
    assert given_plans(run)["finetune"] == {"plans_name": "x"}


def test_a_first_run_is_given_nothing(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "neck")
    assert read_given(run) is None
    assert given_division(run) is None
    assert given_plans(run) == {}


@pytest.mark.parametrize("name", ["splits.json", "test_sets.json", "plans/scratch.json"])
def test_a_file_that_changed_is_refused_by_both_digests(run: RunFolder, name: str) -> None:
    file = run.file("given", name)
    file.write_text(file.read_text().replace('"', '" ', 1))
    with pytest.raises(DigestMismatch) as refused:
        given_plans(run)
    assert refused.value.message.count("sha256:") == 2


@pytest.mark.parametrize("name", ["", "sealed.json", "plans", "plans/scratch.json"])
def test_of_what_was_given_nothing_may_be_gone(run: RunFolder, name: str) -> None:
    place = run.file("given", name)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(CaHpcError, match="is gone"):
        given_plans(run)
    with pytest.raises(CaHpcError, match="is gone"):
        given_division(run)


def test_what_is_no_division_is_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "neck")
    write_given(run, replace(GIVEN, splits="[1]"))
    with pytest.raises(CaHpcError, match="cannot be read"):
        given_division(run)
