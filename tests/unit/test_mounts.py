"""What tasks may see of the data: no more folders than needed, and not thousands of them."""

from __future__ import annotations

import os
from pathlib import Path

from ca_hpc.actions.mounts import MOST_FOLDERS, data_folders, mounts
from ca_hpc.core import door
from ca_hpc.core.record import Case, Cases, LabelFile
from ca_hpc.core.spec import JobSpec

JOB = "kind: train\nname: x\ncluster: local\ndata: [%s]\n"


def spec(source: str) -> JobSpec:
    return door.read(JobSpec, JOB % source, file="job.yaml")


def cases(*files: Path, archive: str | None = None) -> Cases:
    return Cases(
        "D",
        {"cord": 1},
        tuple(
            Case(
                id=str(i),
                source="s1",
                images=(str(file),),
                labels=(LabelFile(str(file)),),
                subject="s",
                person="s",
                session=None,
                contrast="T2w",
                archive=archive,
            )
            for i, file in enumerate(files)
        ),
    )


def test_a_bids_folder_is_one_and_links_out_of_it_are_followed(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "annex" / "objects"
    data.mkdir()
    elsewhere.mkdir(parents=True)
    (elsewhere / "content").touch()
    (data / "image").symlink_to(elsewhere / "content")
    (data / "plain").touch()
    job = spec(f"{{type: bids, path: '{data}', label_suffix: _s}}")
    found = data_folders(
        job, cases(data / "image", data / "plain"), repositories=tmp_path / "store"
    )
    assert found == {str(data), os.path.realpath(elsewhere)}


def test_a_repository_is_seen_whole_with_its_annex(tmp_path: Path) -> None:
    store = tmp_path / "datasets"
    job = spec("{type: git, url: u, label_suffix: _s}")
    inside = [store / "ab12" / "commits" / "c" / f"{n}.nii.gz" for n in range(3)]
    assert data_folders(job, cases(*inside), repositories=store) == {str(store / "ab12")}


def test_a_pack_is_one_file(tmp_path: Path) -> None:
    job = spec(f"{{type: pack, path: '{tmp_path}/x.tar'}}")
    found = data_folders(
        job, cases(Path("s/a.nii"), archive=f"{tmp_path}/x.tar"), repositories=tmp_path
    )
    assert found == {f"{tmp_path}/x.tar"}


def test_a_folder_per_subject_becomes_the_folder_of_them_all(tmp_path: Path) -> None:
    files = [tmp_path / f"sub-{n:04d}" / "anat" / "T2w.nii" for n in range(MOST_FOLDERS + 1)]
    job = spec(f"{{type: pairs, path: '{tmp_path}/t.csv'}}")
    few = data_folders(job, cases(*files[:3]), repositories=tmp_path / "store")
    assert len(few) == 3
    many = data_folders(job, cases(*files), repositories=tmp_path / "store")
    assert many == {str(tmp_path)}


def test_nothing_is_mounted_twice_and_outer_folders_come_first() -> None:
    found = mounts(run_folder=Path("/data/runs/x"), read={"/data", "/data/a/b", "/other"})
    assert [(m.path, m.writable) for m in found] == [
        ("/data", False),
        ("/data/runs/x", True),
        ("/other", False),
    ]
