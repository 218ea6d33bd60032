"""Files that must not change: when they are read, and what is said when they have."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc.core.record import Case, Cases, LabelFile
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.pack import Pack
from ca_hpc.store.pack_writer import write_pack
from ca_hpc.store.seal import (
    contents_sha256,
    read_seals,
    refuse_changed,
    refuse_other,
    seal,
    write_seals,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "planned").mkdir()
    for name in ("plans.json", "splits.json"):
        (tmp_path / "planned" / name).write_text(name)
    return tmp_path / "planned"


@pytest.fixture
def cache(tmp_path: Path) -> DigestCache:
    return DigestCache(tmp_path / "digests.json")


def flip(file: Path, *, at: int = 0) -> None:
    """Change one byte and nothing else that a user can set."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


NAMES = ("plans.json", "splits.json")


def changed(folder: Path, cache: DigestCache) -> tuple[Path, ...]:
    return refuse_changed(
        read_seals(folder / "sealed.json"), what="file", folder=folder, cache=cache
    )


def test_what_is_as_it_was_is_not_read(folder: Path, cache: DigestCache) -> None:
    untrue = replace(seal(folder, ["plans.json"]).files[0], sha256="0" * 64)
    seals = replace(seal(folder, ["splits.json"]), files=(untrue,))
    assert refuse_changed(seals, what="file", folder=folder, cache=cache) == ()


def test_one_byte_behind_a_restored_mtime_is_refused_with_both_digests(
    folder: Path, cache: DigestCache
) -> None:
    write_seals(folder / "sealed.json", seal(folder, NAMES))
    before = sha256(folder / "plans.json")
    flip(folder / "plans.json")
    with pytest.raises(DigestMismatch) as refused:
        changed(folder, cache)
    assert refused.value.message == (
        f"file {folder / 'plans.json'} is sha256:{sha256(folder / 'plans.json')}, "
        f"recorded is sha256:{before}"
    )
    assert int(refused.value.exit_code) == 3
    flip(folder / "plans.json")
    assert changed(folder, cache) == ()


def test_the_folder_may_move_and_files_be_copied_or_touched(
    folder: Path, cache: DigestCache
) -> None:
    write_seals(folder / "sealed.json", seal(folder, NAMES))
    moved = folder.rename(folder.with_name("moved"))
    (moved / "plans.json").write_text("plans.json")
    os.utime(moved / "splits.json")
    (moved / "splits.json").chmod(0o600)
    assert changed(moved, cache) == ()


def test_what_is_gone_is_told_and_not_refused(folder: Path, cache: DigestCache) -> None:
    write_seals(folder / "sealed.json", seal(folder, NAMES))
    (folder / "splits.json").unlink()
    assert changed(folder, cache) == (folder / "splits.json",)


def test_of_many_changed_files_some_are_named_and_all_are_counted(
    tmp_path: Path, cache: DigestCache
) -> None:
    names = [f"{number}.json" for number in range(9)]
    for name in names:
        (tmp_path / name).write_text(name)
    write_seals(tmp_path / "sealed.json", seal(tmp_path, names))
    for name in names:
        flip(tmp_path / name)
    with pytest.raises(DigestMismatch) as refused:
        changed(tmp_path, cache)
    assert refused.value.message.count("recorded is") == 5
    assert refused.value.message.endswith("… and 4 more")


def test_without_a_record_nothing_is_sealed_and_a_damaged_one_is_no_record(tmp_path: Path) -> None:
    assert read_seals(tmp_path / "sealed.json").files == ()
    (tmp_path / "sealed.json").write_text("{")
    with pytest.raises(CaHpcError, match=r"sealed\.json cannot be read"):
        read_seals(tmp_path / "sealed.json")


def test_a_file_of_which_only_the_digest_is_known(folder: Path, cache: DigestCache) -> None:
    file, before = folder / "plans.json", sha256(folder / "plans.json")
    refuse_other(file, before, what="weights", cache=cache)
    flip(file)
    with pytest.raises(DigestMismatch, match=f"weights {file} is sha256:.*, recorded .*{before}"):
        refuse_other(file, before, what="weights", cache=cache)


def test_a_pack_is_its_manifest_and_all_that_it_tells_of(tmp_path: Path) -> None:
    for name in ("a.nii", "a_seg.nii"):
        (tmp_path / name).write_bytes(name.encode() * 300)
    case = Case(
        "a", "s1", (str(tmp_path / "a.nii"),), (LabelFile(str(tmp_path / "a_seg.nii")),),
        subject="a", person="a", session=None, contrast="T2w",
    )  # fmt: skip
    archive = tmp_path / "data.tar"
    cases = Cases("Dataset501_neck", {"cord": 1}, (case,))
    write_pack(cases, archive, ca_hpc="1", progress=lambda done, total: None)
    assert contents_sha256(archive) == Pack.open(archive).sha256
    pack = Pack.open(archive)
    flip(archive, at=pack.start + next(iter(pack.files.values())).at)
    with pytest.raises(DigestMismatch, match="its manifest says sha256"):
        contents_sha256(archive)
