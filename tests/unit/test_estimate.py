"""What a run will take on disk, as far as file names and sizes tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ca_hpc.actions.estimate import (
    BYTES_OF_TRAINING,
    FILES_OF_RUN,
    FILES_OF_TRAINING,
    PREPROCESSED,
    estimate,
    shortage,
)
from ca_hpc.core import door
from ca_hpc.core.record import Case, Cases, LabelFile
from ca_hpc.core.spec import JobSpec, completed

JOB = """
kind: finetune
name: neck
cluster: local
data: [{type: bids, path: data, label_suffix: _s}]
weights: x.pth
splits: {folds: 2}
"""


def job(lines: str = "") -> JobSpec:
    return completed(door.read(JobSpec, JOB + lines, file="job.yaml"))


def cases(folder: Path, count: int, *, size: int) -> Cases:
    found = []
    for number in range(count):
        image, label = folder / f"{number}.nii.gz", folder / f"{number}_s.nii.gz"
        image.write_bytes(bytes(size))
        label.write_bytes(b"")
        found.append(
            Case(str(number), "s", (str(image),), (LabelFile(str(label)),), "a", "a", None, "T2w")
        )
    return Cases("D", {"cord": 1}, tuple(found))


def test_two_arms_of_two_plans_preprocess_twice(tmp_path: Path) -> None:
    found = estimate(job(), cases(tmp_path, 3, size=1000), runs=tmp_path / "not" / "there")
    assert found.bytes == round(3000 * (1 + 2 * PREPROCESSED)) + 4 * BYTES_OF_TRAINING
    raw, preprocessed, predictions = 3 * 2, 3 * (3 * 2 + 1), 3 * 2
    assert found.files == raw + preprocessed + predictions + 4 * FILES_OF_TRAINING + FILES_OF_RUN
    assert found.free > 0


def test_arms_of_the_same_plans_share_them(tmp_path: Path) -> None:
    one = "arms: {a: {weights: random, plans: planner}, b: {weights: random, plans: planner}}\n"
    two = one.replace("b: {weights: random,", "b: {weights: random, planner: ResEncL,")
    data = cases(tmp_path, 2, size=500)
    shared, apart = (estimate(job(lines), data, runs=tmp_path) for lines in (one, two))
    assert apart.bytes - shared.bytes == round(1000 * PREPROCESSED)
    assert apart.files - shared.files == 2 * 3


def test_a_pack_counts_once_and_what_is_not_fetched_as_files(tmp_path: Path) -> None:
    data = cases(tmp_path, 2, size=0)
    (tmp_path / "x.tar").write_bytes(bytes(700))
    packed = tuple(replace(case, archive=str(tmp_path / "x.tar")) for case in data.cases)
    spec = job("arms: {a: {weights: random, plans: planner}}\n")
    found = estimate(spec, replace(data, cases=packed), runs=tmp_path)
    assert found.bytes == round(700 * (1 + PREPROCESSED)) + 2 * BYTES_OF_TRAINING
    (tmp_path / "x.tar").unlink()
    later = estimate(spec, replace(data, cases=packed), runs=tmp_path)
    assert (later.bytes, later.files) == (2 * BYTES_OF_TRAINING, found.files)


def test_a_disk_that_is_too_small_is_told(tmp_path: Path) -> None:
    found = estimate(job(), cases(tmp_path, 1, size=10), runs=tmp_path)
    assert not list(shortage(replace(found, free=found.bytes)))
    (told,) = shortage(replace(found, free=found.bytes - 1))
    assert "about 2.0 GB" in told and "--output" in told
