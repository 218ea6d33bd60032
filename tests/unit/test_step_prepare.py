"""Stage prepare: a shard converts its cases once, and what is wrong with one is written down."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ca_hpc.core.data_spec import Crop, Prepare
from ca_hpc.core.record import Case
from ca_hpc.core.sealed import Seals
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.imaging.conversion import conversion_of
from ca_hpc.imaging.prepared import PreparedFolder, Record
from ca_hpc.steps.prepare import prepare, shard_of
from ca_hpc.store.digests import DigestCache, sha256_file
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import write_seals
from tests.prepare_runs import call, image, make, pair, run_of, save


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return [pair(tmp_path / "data", f"sub-{index}", seed=index) for index in range(4)]


@pytest.fixture
def run(tmp_path: Path, cases: list[Case]) -> RunFolder:
    return run_of(tmp_path / "run", cases)


def records(run: RunFolder) -> dict[str, Record | None]:
    conversion = conversion_of(run.spec, run.cases)
    folder = PreparedFolder(run.prepared)
    return {case.id: folder.record(case, conversion) for case in run.cases.cases}


def done(run: RunFolder) -> set[str]:
    """Cases that are there."""
    return {case for case, record in records(run).items() if record is not None}


def times(run: RunFolder) -> dict[str, int]:
    """When the prepared images were written."""
    return {file.name: file.stat().st_mtime_ns for file in run.prepared.glob("images/*")}


def rewritten(run: RunFolder) -> set[str]:
    """Images that another attempt writes anew."""
    before = times(run)
    prepare(call(run))
    return {name for name, time in times(run).items() if before.get(name) != time}


def test_each_case_is_in_one_shard_and_stays_there(cases: list[Case], tmp_path: Path) -> None:
    run = run_of(tmp_path / "sharded", cases, prepare=Prepare(shards=3))
    there: set[str] = set()
    for shard in range(3):
        mine = {case.id for case in cases if shard_of(case, 3) == shard}
        prepare(call(run, shard=shard))
        assert done(run) == there | mine
        there |= mine
    assert there == {case.id for case in cases}


def test_progress_counts_what_was_there(run: RunFolder) -> None:
    def told() -> list[tuple[int, int]]:
        this = call(run, cpus=2)
        prepare(this)
        file = this.attempt / "progress.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(event["done"], event["total"]) for event in map(json.loads, lines)]

    assert told() == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told() == []
    (run.prepared / "records/sub-2.json").unlink()
    assert told() == [(4, 4)]


def test_what_is_there_is_not_done_again_also_of_files_that_were_only_touched(
    run: RunFolder, cases: list[Case], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(call(run))
    assert rewritten(run) == set()
    os.utime(cases[1].images[0])
    file = Path(cases[2].labels[0].path)
    file.rename(file.with_name("other"))
    file.write_bytes(file.with_name("other").read_bytes())
    assert rewritten(run) == set()
    assert "4 cases in" in capsys.readouterr().out


def test_a_case_whose_file_has_changed_is_done_again(run: RunFolder, cases: list[Case]) -> None:
    prepare(call(run))
    save(image(17), Path(cases[1].images[0]))
    assert rewritten(run) == {"sub-1_0000.nii.gz"}


@pytest.mark.parametrize("lost", ["images/sub-3_0000.nii.gz", "labels/sub-3.nii.gz"])
def test_a_case_of_which_anything_is_lost_or_changed_is_done_again(
    run: RunFolder, lost: str
) -> None:
    prepare(call(run))
    (run.prepared / lost).unlink()
    assert done(run) == {"sub-0", "sub-1", "sub-2"}
    assert rewritten(run) == {"sub-3_0000.nii.gz"}
    (run.prepared / lost).write_bytes(b"half a fi")
    assert rewritten(run) == {"sub-3_0000.nii.gz"}


@pytest.mark.parametrize("broken", ["", "{", '{"settings": 1}'])
def test_a_record_that_cannot_be_read_is_none(run: RunFolder, broken: str) -> None:
    prepare(call(run))
    (run.prepared / "records/sub-0.json").write_text(broken)
    assert rewritten(run) == {"sub-0_0000.nii.gz"}


def test_under_other_settings_all_is_done_again(run: RunFolder) -> None:
    prepare(call(run))
    run.write_spec("spec.json", replace(run.spec, crop=Crop(margin=1.0)))
    assert done(run) == set()
    assert len(rewritten(run)) == 4


def test_a_bad_case_fails_nobody_and_is_done_again_once_it_is_repaired(
    run: RunFolder, cases: list[Case]
) -> None:
    save(np.zeros_like(image(0)), file := Path(cases[2].images[0]))
    prepare(call(run))
    record = records(run)["sub-2"]
    assert record is not None and record.converted is None
    assert record.problem == f"{file}: every voxel is 0"
    assert rewritten(run) == set()
    save(image(2), file)
    assert rewritten(run) == {"sub-2_0000.nii.gz"}
    assert records(run)["sub-2"].problem is None  # type: ignore[union-attr]


def test_what_killed_attempts_left_is_removed_but_not_what_another_shard_is_writing(
    run: RunFolder,
) -> None:
    for name in (".shard0.0007-7-r0/sub-1/images", ".shard1.0003-8-r0/sub-1/images"):
        (run.prepared / name).mkdir(parents=True)
    prepare(call(run))
    assert [path.name for path in run.prepared.glob(".*")] == [".shard1.0003-8-r0"]


def test_where_the_data_set_is_assembled_there_is_nothing_to_do(
    run: RunFolder, cases: list[Case], capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_spec("spec.json", replace(run.spec, splits=replace(run.spec.splits, folds=2)))
    make(run)
    prepare(call(run))
    assert "Dataset501_small is there already" in capsys.readouterr().out
    assert not run.prepared.exists()
    save(image(17), Path(cases[1].images[0]))
    prepare(call(run))
    assert len(times(run)) == 4


def test_a_crop_to_a_label_that_the_data_do_not_have_is_named(
    tmp_path: Path, cases: list[Case]
) -> None:
    run = run_of(tmp_path / "cropped", cases, crop=Crop(to="lesion"))
    with pytest.raises(CaHpcError, match=r"crop\.to: the data have no label lesion") as refused:
        prepare(call(run))
    assert refused.value.hint == "one of cord"


def test_a_full_disk_is_no_problem_of_the_case(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    # a limit on the size of files stands in for a disk without room
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    this = call(run)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            prepare(this)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done(run) == set()
    prepare(call(run))
    assert len(done(run)) == 4


# --- files that are not those that were submitted ------------------------------------------------


def sealed(run: RunFolder) -> None:
    """As a submission does."""
    cache = DigestCache(run.digests)
    files = [Path(file) for case in run.cases.cases for file in case.files]
    write_seals(run.data_seals, Seals(tuple(map(cache.sealed, files))))


def flip(file: Path, *, at: int) -> None:
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("part", "at"),
    [("image", 4), ("image", -300), ("label", 4), ("image", -6)],
    ids=["the time in the header of gzip", "voxels", "of a label", "the checksum of gzip"],
)
@pytest.mark.parametrize("cpus", [1, 2])
def test_a_flipped_byte_is_refused_and_no_bad_case_that_may_be_skipped(
    tmp_path: Path, cases: list[Case], part: str, at: int, cpus: int
) -> None:
    run = run_of(tmp_path / "strict", cases, prepare=Prepare(on_error="skip"))
    sealed(run)
    file = Path(cases[2].images[0] if part == "image" else cases[2].labels[0].path)
    before = sha256_file(file)
    flip(file, at=at)
    with pytest.raises(DigestMismatch) as refused:
        prepare(call(run, cpus=cpus))
    told = f"source file {file} is sha256:{sha256_file(file)}, recorded is sha256:{before}"
    assert refused.value.message == told
    assert "sub-2" not in done(run)


def test_a_byte_that_is_flipped_after_its_conversion_is_seen_when_it_is_taken_up(
    run: RunFolder, cases: list[Case]
) -> None:
    sealed(run)
    prepare(call(run))
    flip(Path(cases[1].images[0]), at=4)
    with pytest.raises(DigestMismatch, match=cases[1].images[0]):
        prepare(call(run))


def test_files_that_were_bad_when_they_were_submitted_are_bad_cases(
    run: RunFolder, cases: list[Case]
) -> None:
    save(np.zeros_like(image(0)), file := Path(cases[2].images[0]))
    Path(cases[3].images[0]).write_bytes(b"no image")
    sealed(run)
    prepare(call(run))
    told = {name: record.problem for name, record in records(run).items() if record is not None}
    assert told["sub-2"] == f"{file}: every voxel is 0"
    assert "cannot be read" in str(told["sub-3"])
