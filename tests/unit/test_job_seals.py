"""What a submission writes down of its source files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ca_hpc.actions import job_seals
from ca_hpc.actions.job_data import silent
from ca_hpc.actions.job_seals import seal_sources
from ca_hpc.core.data_spec import PackSource
from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError
from ca_hpc.sources.annex import key_sha256
from ca_hpc.sources.pack import packed_cases
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.pack import Pack
from ca_hpc.store.pack_writer import write_pack
from tests.prepare_runs import pair

KEY = f"SHA256E-s4--{hashlib.sha256(b'true').hexdigest()}.nii.gz"


@pytest.fixture
def cases(tmp_path: Path) -> Cases:
    found = tuple(pair(tmp_path / "data", f"sub-{index}", seed=index) for index in range(3))
    return Cases("Dataset501_small", {"cord": 1}, found)


def annexed(folder: Path, key: str, content: bytes) -> Path:
    """A file as git-annex keeps it: a link to its contents, which are named after their digest."""
    held = folder / ".git/annex/objects/a1/b2" / key / key
    held.parent.mkdir(parents=True)
    held.write_bytes(content)
    link = folder / "sub-1_T2w.nii.gz"
    link.symlink_to(held.relative_to(folder))
    return link


def test_what_git_annex_has_compared_is_not_read_again(tmp_path: Path) -> None:
    file = annexed(tmp_path, KEY, b"flip")  # since: which its reader will see
    assert key_sha256(file) == hashlib.sha256(b"true").hexdigest()
    case = Case("a", "s1", (str(file),), (), "a", "a", None, "T2w")
    found = seal_sources(Cases("D", {}, (case,)), cache=tmp_path / "c.json", say=silent)
    assert found.files[0].sha256 == hashlib.sha256(b"true").hexdigest()
    assert not DigestCache(tmp_path / "c.json").knows(file)


@pytest.mark.parametrize("key", ["MD5E-s4--0cc175b9c0f1b6a831c399e269772661.nii.gz", "SHA256-s4"])
def test_other_keys_tell_no_sha256(tmp_path: Path, key: str) -> None:
    assert key_sha256(annexed(tmp_path, key, b"true")) is None


def test_a_name_alone_is_no_key(tmp_path: Path) -> None:
    (tmp_path / KEY).write_bytes(b"other")
    assert key_sha256(tmp_path / KEY) is None


def test_a_pack_stands_for_its_files(tmp_path: Path, cases: Cases) -> None:
    archive = tmp_path / "data.tar"
    write_pack(cases, archive, ca_hpc="1", progress=lambda done, total: None)
    packed = packed_cases(PackSource(type="pack", path=str(archive)))
    (found,) = seal_sources(packed, cache=tmp_path / "c.json", say=silent).files
    assert (found.path, found.sha256) == (str(archive), Pack.open(archive).sha256)


def test_reading_that_takes_a_while_is_told_once(
    tmp_path: Path, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_seals, "TOLD_BYTES", 100)
    told: list[str] = []
    for _ in range(2):
        seal_sources(cases, cache=tmp_path / "c.json", say=told.append)
    assert len(told) == 1 and told[0].startswith("reading 0.0 GB of the data")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, cases: Cases) -> None:
    Path(cases.cases[1].images[0]).unlink()
    with pytest.raises(CaHpcError, match=f"{cases.cases[1].images[0]} cannot be read"):
        seal_sources(cases, cache=tmp_path / "c.json", say=silent)
