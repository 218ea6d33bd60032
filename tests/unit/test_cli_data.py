"""``ca-hpc data``: what a user sees of packing, comparing and checking."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.store.pack import Pack
from tests.command_line import Call, called

JOB = """
kind: train
name: small
cluster: local
splits: {folds: 2}
data: [{type: bids, name: demo, path: data, label_suffix: _label-SC_seg}]
"""


@pytest.fixture
def ca_hpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """The command line, in a folder with a job of four people."""
    write_dataset(tmp_path / "data", people=4, seed=5, contrasts=("T2starw",))
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("CA_HPC_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return partial(called, monkeypatch=monkeypatch, capsys=capsys)


def images(folder: Path) -> list[Path]:
    return sorted(folder.glob("data/sub-*/**/*.nii.gz"))


def label_of(image: Path) -> Path:
    name = image.name.replace(".nii.gz", "_label-SC_seg.nii.gz")
    (label,) = Path("data/derivatives/labels").glob(f"**/{name}")
    return label


def test_what_pack_prints_is_what_a_job_says(tmp_path: Path, ca_hpc: Call) -> None:
    shown = ca_hpc("data", "pack", "job.yaml", "-o", "study.tar")
    assert (shown.code, shown.err) == (0, "")
    (line,) = (line for line in shown.out.splitlines() if "type: pack" in line)
    (source,) = yaml.safe_load(line)["data"]
    assert source["sha256"] == Pack.open(tmp_path / "study.tar").sha256
    (tmp_path / "there").mkdir()
    (tmp_path / "study.tar").rename(tmp_path / "there/study.tar")
    shutil.rmtree(tmp_path / "data")
    job = "kind: train\nname: small\ncluster: local\nsplits: {folds: 2}\n" + line.strip()
    (tmp_path / "there/job.yaml").write_text(job)
    found = ca_hpc("data", "fetch", "there/job.yaml", "--json")
    assert found.code == 0
    (origin,) = json.loads(found.out)["origins"]
    assert origin["sha256"] == source["sha256"]
    assert ca_hpc("data", "check", "there/job.yaml").code == 0


def test_json_tells_the_same(tmp_path: Path, ca_hpc: Call) -> None:
    packed = json.loads(ca_hpc("data", "pack", "job.yaml", "-o", "study.tar", "--json").out)
    verified = json.loads(ca_hpc("data", "verify", "study.tar", "--json").out)
    count = len(images(tmp_path))
    for told in (packed, verified):
        assert (told["cases"], told["files"]) == (count, 2 * count)
    assert packed["sha256"] == verified["sha256"]
    assert packed["bytes"] == (tmp_path / "study.tar").stat().st_size
    assert packed["file"] == str(tmp_path / "study.tar")


def test_verify_names_the_file_and_both_digests(tmp_path: Path, ca_hpc: Call) -> None:
    ca_hpc("data", "pack", "job.yaml", "-o", "study.tar")
    fine = ca_hpc("data", "verify", "study.tar")
    assert fine.code == 0 and "as written" in fine.out
    pack = Pack.open(tmp_path / "study.tar")
    member, known = list(pack.files.items())[1]
    with pack.path.open("r+b") as stream:
        stream.seek(pack.start + known.at + known.bytes // 2)
        stream.write(b"\0\1\2\3")
    damaged = ca_hpc("data", "verify", "study.tar")
    assert damaged.code == 3
    assert member in damaged.err and f"says sha256:{known.sha256}" in damaged.err
    assert damaged.err.count("sha256:") == 2
    assert "hint: copy it again" in damaged.err


def test_pack_refuses_a_folder_as_its_file(ca_hpc: Call) -> None:
    shown = ca_hpc("data", "pack", "job.yaml", "-o", "data")
    assert shown.code == 2 and "data is a folder" in shown.err


def test_pack_overwrites_neither_what_it_packs_nor_the_job(tmp_path: Path, ca_hpc: Call) -> None:
    for file in (images(tmp_path)[0], tmp_path / "job.yaml"):
        before = file.read_bytes()
        shown = ca_hpc("data", "pack", "job.yaml", "-o", str(file))
        assert shown.code == 2 and f"{file} is no pack, and would be overwritten" in shown.err
        assert file.read_bytes() == before


def test_pack_overwrites_an_older_pack_unless_it_is_an_input(tmp_path: Path, ca_hpc: Call) -> None:
    for _ in range(2):
        assert ca_hpc("data", "pack", "job.yaml", "-o", "study.tar").code == 0
    before = (tmp_path / "study.tar").read_bytes()
    again = "kind: train\nname: again\ncluster: local\ndata: [{type: pack, path: study.tar}]\n"
    (tmp_path / "again.yaml").write_text(again)
    (tmp_path / "same.tar").hardlink_to(tmp_path / "study.tar")
    for name in ("study.tar", "same.tar"):
        shown = ca_hpc("data", "pack", "again.yaml", "-o", name)
        assert shown.code == 2 and f"{name} is what the job reads" in shown.err
    assert (tmp_path / "study.tar").read_bytes() == before


def test_pack_refuses_its_file_before_anything_is_fetched(tmp_path: Path, ca_hpc: Call) -> None:
    source = "{type: git, url: 'file:///nowhere', label_suffix: _seg}"
    (tmp_path / "job.yaml").write_text(
        f"kind: train\nname: far\ncluster: local\ndata: [{source}]\n"
    )
    shown = ca_hpc("data", "pack", "job.yaml", "-o", "job.yaml")
    assert shown.code == 2 and "would be overwritten" in shown.err and "nowhere" not in shown.err


def test_verify_refuses_what_no_job_can_use(tmp_path: Path, ca_hpc: Call) -> None:
    ca_hpc("data", "pack", "job.yaml", "-o", "study.tar")
    raw = (tmp_path / "study.tar").read_bytes()
    (tmp_path / "study.tar").write_bytes(
        raw.replace(b'"Dataset501_small"', b'"../../../xx/small"', 1)
    )
    shown = ca_hpc("data", "verify", "study.tar")
    assert shown.code == 2 and "no name of a data set" in shown.err


def test_check_goes_on_after_a_damaged_member(tmp_path: Path, ca_hpc: Call) -> None:
    first, second, *_ = images(tmp_path)
    second.write_bytes(second.read_bytes()[:2000])
    ca_hpc("data", "pack", "job.yaml", "-o", "study.tar")
    pack = Pack.open(tmp_path / "study.tar")
    (member,) = (name for name in pack.files if name.endswith(f"/{first.name}"))
    with pack.path.open("r+b") as stream:
        stream.seek(pack.start + pack.member(member).at + 100)
        stream.write(b"\0\1\2\3")
    source = "{type: pack, path: study.tar}"
    job = f"kind: train\nname: again\ncluster: local\nsplits: {{folds: 2}}\ndata: [{source}]\n"
    (tmp_path / "again.yaml").write_text(job)
    shown = ca_hpc("data", "check", "again.yaml", "--workers", "1")
    assert shown.code == 3
    damaged, cut, last = shown.out.splitlines()
    assert damaged.startswith(f"{pack.path}: {member} is sha256:")
    assert second.name in cut and "cut off" in cut
    assert last == f"{len(images(tmp_path))} images: 2 cannot be used"
    assert not list((tmp_path / "tmp").iterdir())
    told = json.loads(ca_hpc("data", "check", "again.yaml", "--json").out)
    assert (told["damaged"], told["problems"]) == (1, [damaged, cut])


def test_check_finds_nothing_wrong_and_leaves_nothing(tmp_path: Path, ca_hpc: Call) -> None:
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    shown = ca_hpc("data", "check", "job.yaml", "--workers", "2")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == f"{len(images(tmp_path))} images: all can be used\n"
    after = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    before.pop(tmp_path / "tmp")
    after.pop(tmp_path / "tmp")
    assert after == before


def test_check_lists_everything_that_is_wrong(tmp_path: Path, ca_hpc: Call) -> None:
    first, second, third, fourth, *_ = images(tmp_path)
    first.write_bytes(first.read_bytes()[:2000])
    broken = nib.load(second)
    values = np.asanyarray(broken.dataobj).astype(np.float32)
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, broken.affine), second)
    for old, new in ((third, fourth), (label_of(third), label_of(fourth))):
        shutil.copy(old, new)
    shown = ca_hpc("data", "check", "job.yaml", "--workers", "1")
    assert shown.code == 2
    *lines, last = shown.out.splitlines()
    assert len(lines) == 3 and last.endswith("3 cannot be used")
    for line, file, reason in zip(
        lines,
        (first, second, fourth),
        ("cut off", "NaN", "holds the same image as"),
        strict=True,
    ):
        assert line.startswith(f"{file}: ") and reason in line
    told = json.loads(ca_hpc("data", "check", "job.yaml", "--json").out)
    assert told["problems"] == lines
    assert not list((tmp_path / "tmp").iterdir())


def test_check_names_what_a_rule_leaves_out(tmp_path: Path, ca_hpc: Call) -> None:
    (label,) = tmp_path.glob("data/derivatives/labels/sub-01/**/*.nii.gz")
    there = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(there.shape, np.uint8), there.affine), label)
    rule = "labels: {cord: {value: 1, empty: skip}}\n"
    (tmp_path / "job.yaml").write_text(JOB + rule)
    shown = ca_hpc("data", "check", "job.yaml")
    assert shown.code == 0
    assert f"left out: {label}: no voxel of cord" in shown.out
    assert "1 of them left out" in shown.out


def test_a_job_that_is_wrong_is_told_as_everywhere(tmp_path: Path, ca_hpc: Call) -> None:
    (tmp_path / "job.yaml").write_text(JOB.replace("path: data", "path: nowhere"))
    for command in (("fetch",), ("check",), ("pack", "-o", "x.tar")):
        shown = ca_hpc("data", command[0], "job.yaml", *command[1:])
        assert shown.code == 2 and "nowhere does not exist" in shown.err
    assert not (tmp_path / "x.tar").exists()
