"""A run is run again: here from its folder, elsewhere from an archive, and only as it was.

On this machine, without SLURM and without an image, with real nnU-Net.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.store.digests import sha256_file
from tests.checkpoints import write_checkpoint
from tests.local_runs import JOB, ca_hpc, status, submit, until
from tests.reruns import NOT_YET, NOT_YET_THERE, PLACES, differing

# two arms, by plans of their own, one of which starts from weights
TEXT = JOB.replace("weights: null", "weights: own.pth").replace(
    "{scratch: {weights: random, plans: model}}",
    "{scratch: {weights: random, plans: planner}, finetune: {weights: pretrained}}",
)
FOLDS = {"scratch fold 0": True, "finetune fold 0": True}
CLUSTER = """
name: elsewhere
executor: local
runtime: none
partition: fast
folders: {{runs: {here}/runs, store: {here}/store}}
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended."""
    folder = tmp_path_factory.mktemp("first")
    write_dataset(folder / "data", people=4, seed=9, contrasts=("T2starw",))
    write_checkpoint(folder / "own.pth", model="demo")
    run = submit(folder, TEXT)
    until(lambda: status(run)["ended"], seconds=500, what="the run did not end")
    assert json.loads(ca_hpc("compare", "--json", run, run, cwd=folder).stdout)["within"]
    return run


def rerun(source: Path, *options: str | Path, code: int = 0) -> dict[str, Any]:
    done = ca_hpc("rerun", source, *options, "--json", cwd=source.parent)
    assert done.returncode == code, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def ended(told: dict[str, Any]) -> Path:
    run = Path(told["run"])
    until(lambda: status(run)["ended"], seconds=500, what="the rerun did not end")
    return run


def test_a_rerun_of_a_run_folder_gives_the_same_weights(first: Path) -> None:
    told = rerun(first, "--detach")
    assert differing(told["drift"]) == {"folder": "expected", **NOT_YET}
    again = ended(told)
    done = ca_hpc("compare", first, again, "--json", cwd=first)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["identical"] == FOLDS
    record = json.loads((again / "run.json").read_text())
    assert record["rerun"]["of"]["path"] == first.name
    assert record["rerun"]["of"]["sha256"] == sha256_file(first / "run.json")
    assert record["rerun"]["allowed"] == []
    for name in ("splits.json", "test_sets.json", "arms.json"):
        assert (again / name).read_bytes() == (first / name).read_bytes()


def test_an_archive_is_rerun_elsewhere_when_nothing_else_is_left(
    first: Path, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/cluster.yaml").write_text(CLUSTER.format(here=tmp_path / "site"))
    shutil.rmtree(first / "nnunet")  # of a run that has ended, as docs/run-folder.md says
    study = tmp_path / "site/study.tar"
    made = ca_hpc("archive", first, "-o", study, "--without", "wheels", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    for name in ("sub-01", "ses-01", str(first.parents[1])):
        assert name.encode() not in study.read_bytes()
    # the images have other names there, and the site that archived is gone
    (tmp_path / "site/images").mkdir()
    for number, file in enumerate(sorted(first.parents[1].glob("data/**/*.nii.gz"))):
        shutil.copyfile(file, tmp_path / f"site/images/x{number}.nii.gz")
    home = first.parents[1]
    hidden = home.with_name("gone")
    home.rename(hidden)
    try:
        there = ("--cluster", tmp_path / "site/cluster.yaml", "--data", "images", "--detach")
        told = rerun(study, *there)
        assert differing(told["drift"]) == {**PLACES, **NOT_YET_THERE}
        again = ended(told)
        assert again.parent == tmp_path / "site/runs"
        done = ca_hpc("compare", study, again, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["identical"] == FOLDS
    finally:
        hidden.rename(home)


def test_a_changed_image_refuses_and_is_on_record_where_it_is_allowed(first: Path) -> None:
    image = next(first.parents[1].glob("data/sub-01/**/*T2starw.nii.gz"))
    before, seen = image.read_bytes(), image.stat()
    changed = bytearray(before)
    changed[4] ^= 1  # gzip's time, which no voxel depends on
    image.write_bytes(changed)
    os.utime(image, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    try:
        done = ca_hpc("rerun", first, "--detach", cwd=first)
        assert done.returncode == 3
        assert "drift: data\n" in done.stdout
        assert f"file {image} is sha256:" in done.stderr
        assert "recorded is sha256:" in done.stderr and "--allow data" in done.stderr
        told = rerun(first, "--allow", "data", "--detach")
        run = Path(told["run"])
        assert json.loads((run / "rerun.json").read_text())["allowed"] == ["data"]
        ca_hpc("cancel", run, cwd=run)
    finally:
        image.write_bytes(before)


def test_what_cannot_be_compared_or_rerun_is_said(first: Path, tmp_path: Path) -> None:
    for command, why in (
        (("compare", first), "compares to nothing"),
        (("rerun", tmp_path), "is not a run folder"),
        (("rerun", first, "--allow", "dta"), "no such aspect"),
        (("rerun", first / "run.json", "--cluster", "local"), "is not an archive"),
        (("archive", first, "-o", first / "run.json"), "would be overwritten"),
    ):
        done = ca_hpc(*command, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert why in done.stderr
