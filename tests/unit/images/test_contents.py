"""What an image holds, apart from the file that it lies in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ca_hpc.errors import CaHpcError
from ca_hpc.images.contents import content_sha256
from tests.sif import (
    DATA,
    EXT3,
    OFFSET,
    PARTITION,
    PRIMARY,
    SIZE,
    add_part,
    descriptor,
    write_sif,
)


def test_it_is_the_digest_of_the_file_system_alone(tmp_path: Path) -> None:
    file = write_sif(tmp_path / "x.sif", contents=b"hsqs")
    expected = hashlib.sha256(b"hsqs".ljust(SIZE, b"\0")).hexdigest()
    assert content_sha256(file) == expected
    with file.open("r+b") as stream:
        stream.seek(60)
        stream.write(b"another id")
        stream.seek(0, 2)
        stream.write(b"a signature")
    assert content_sha256(file) == expected


def test_a_file_system_that_was_laid_over_it_is_refused(tmp_path: Path) -> None:
    file = write_sif(tmp_path / "x.sif", contents=b"hsqs")
    with pytest.raises(CaHpcError, match="holds 2 file systems"):
        content_sha256(add_part(file, PARTITION, role=DATA))


@pytest.mark.parametrize("place", [OFFSET, OFFSET + SIZE - 1])
def test_every_byte_in_it_counts(tmp_path: Path, place: int) -> None:
    file = write_sif(tmp_path / "x.sif", contents=b"hsqs")
    before = content_sha256(file)
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"x")
    assert content_sha256(file) != before


def test_another_file_system_is_refused(tmp_path: Path) -> None:
    part = descriptor(PARTITION, offset=OFFSET, size=SIZE, filesystem=EXT3, role=PRIMARY)
    with pytest.raises(CaHpcError, match="holds no squashfs"):
        content_sha256(write_sif(tmp_path / "x.sif", part))
