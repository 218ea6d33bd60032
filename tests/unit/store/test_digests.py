"""SHA-256 of files, and when the cache may answer."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ca_hpc.store.digests import (
    DigestCache,
    cached_sha256,
    identity_of,
    reread_sha256,
    sealed_now,
    sha256_file,
)

CONTENTS = b"spinal cord" * 200_000  # more than one chunk


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / 'an "image", 1\n.sif'
    path.write_bytes(CONTENTS)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "store" / "digests.json"


def planted(cache: Path) -> str:
    """Replace the remembered digest, so that an answer from the cache can be told."""
    entries = json.loads(cache.read_text())
    for entry in entries["files"]:
        entry["sha256"] = "planted"
    cache.write_text(json.dumps(entries))
    return "planted"


def test_the_digest_is_sha256_and_progress_ends_at_the_size(file: Path) -> None:
    seen: list[int] = []
    assert sha256_file(file, progress=seen.append) == hashlib.sha256(CONTENTS).hexdigest()
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENTS)


def test_an_unchanged_file_is_not_read_again(file: Path, cache: Path) -> None:
    assert cached_sha256(file, cache=cache) == sha256_file(file)
    assert cached_sha256(file, cache=cache.parent / "digests.json") == sha256_file(file)
    assert planted(cache) == cached_sha256(file, cache=cache)


def test_a_byte_flipped_behind_a_restored_mtime_is_seen(file: Path, cache: Path) -> None:
    cached_sha256(file, cache=cache)
    before = file.stat()
    flipped = bytes([CONTENTS[0] ^ 1]) + CONTENTS[1:]
    with file.open("r+b") as stream:
        stream.write(flipped[:1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.stat().st_size == before.st_size
    assert cached_sha256(file, cache=cache) == hashlib.sha256(flipped).hexdigest()


def test_another_file_moved_into_the_place_is_seen(file: Path, cache: Path) -> None:
    cached_sha256(file, cache=cache)
    other = file.with_name("other")
    other.write_bytes(CONTENTS[::-1])
    other.replace(file)
    assert cached_sha256(file, cache=cache) == hashlib.sha256(CONTENTS[::-1]).hexdigest()


def test_two_files_are_remembered_side_by_side(file: Path, cache: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"")
    cached_sha256(file, cache=cache)
    cached_sha256(other, cache=cache)
    planted(cache)
    assert cached_sha256(file, cache=cache) == cached_sha256(other, cache=cache) == "planted"


def test_reading_again_puts_right_what_was_remembered(file: Path, cache: Path) -> None:
    true = cached_sha256(file, cache=cache)
    planted(cache)
    assert reread_sha256(file, cache=cache) == true == cached_sha256(file, cache=cache)


@pytest.mark.parametrize(
    "broken",
    ["", "{", "[]", "null", '{"files": 3}', '{"files": [{"path": "/x", "sha256": 5}]}', "\xff"],
)
def test_a_broken_cache_is_ignored_and_mended(file: Path, cache: Path, broken: str) -> None:
    cache.parent.mkdir()
    cache.write_bytes(broken.encode("latin-1"))
    assert cached_sha256(file, cache=cache) == sha256_file(file)
    assert planted(cache) == cached_sha256(file, cache=cache)


def test_what_others_have_written_meanwhile_stays(file: Path, cache: Path) -> None:
    (other := file.with_name("other")).write_bytes(b"")
    ours = DigestCache(cache)
    assert not ours.knows(file)
    ours.sealed(file)
    cached_sha256(other, cache=cache)
    ours.save()
    assert all(DigestCache(cache).knows(each) for each in (file, other))


def test_what_changes_while_it_is_read_is_not_remembered(file: Path, cache: Path) -> None:
    def read(path: Path) -> str:
        path.write_bytes(b"another")
        return "0" * 64

    digests = DigestCache(cache)
    digests.sealed(file, digest=read)
    assert not digests.knows(file)
    assert digests.sealed(file).sha256 == hashlib.sha256(b"another").hexdigest()


def test_a_file_is_known_as_it_was_before_it_was_read(file: Path) -> None:
    def read(path: Path) -> str:
        path.write_bytes(b"another")
        return "0" * 64

    assert sealed_now(file, name="f", digest=read).identity != identity_of(file)


def test_a_name_that_is_no_text_costs_the_cache_only(tmp_path: Path, cache: Path) -> None:
    (file := tmp_path / "caf\udce9").write_bytes(CONTENTS)
    assert cached_sha256(file, cache=cache) == hashlib.sha256(CONTENTS).hexdigest()


def test_a_cache_that_cannot_be_written_costs_only_time(file: Path) -> None:
    assert cached_sha256(file, cache=file / "digests.json") == sha256_file(file)


def test_writing_the_cache_leaves_nothing_beside_it(file: Path, cache: Path) -> None:
    cached_sha256(file, cache=cache)
    assert [path.name for path in cache.parent.iterdir()] == ["digests.json"]
