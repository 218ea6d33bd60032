"""Finding the file system in a SIF, and refusing what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca_hpc.errors import CaHpcError
from ca_hpc.store.sif import Partition, system_partition
from tests.sif import (
    DATA,
    DEFINITION,
    EXT3,
    OFFSET,
    PARTITION,
    PRIMARY,
    SIZE,
    SQUASHFS,
    SYSTEM,
    TABLE,
    descriptor,
    write_sif,
)

BEFORE_IT = (
    descriptor(DEFINITION, offset=8000, size=10),
    descriptor(PARTITION, offset=1, size=1, used=False, filesystem=SQUASHFS, role=PRIMARY),
    descriptor(PARTITION, offset=9000, size=10, filesystem=EXT3, role=DATA),
)


def sif(folder: Path, *descriptors: bytes) -> Path:
    return write_sif(folder / "image.sif", *descriptors)


def test_the_system_partition_is_found_behind_other_parts(tmp_path: Path) -> None:
    file = sif(tmp_path, *BEFORE_IT, SYSTEM)
    assert system_partition(file) == Partition(OFFSET, SIZE, squashfs=True)


def test_another_file_system_is_told_from_squashfs(tmp_path: Path) -> None:
    ext3 = descriptor(PARTITION, offset=OFFSET, size=SIZE, filesystem=EXT3, role=PRIMARY)
    assert not system_partition(sif(tmp_path, ext3)).squashfs


@pytest.mark.parametrize("length", [100, TABLE + 10, OFFSET, OFFSET + SIZE - 1])
def test_a_file_that_is_cut_off_is_refused_with_both_lengths(tmp_path: Path, length: int) -> None:
    file = sif(tmp_path, SYSTEM)
    with file.open("r+b") as stream:
        stream.truncate(length)
    with pytest.raises(CaHpcError, match=rf"image\.sif is cut off: {length} bytes"):
        system_partition(file)


def test_a_partition_that_lies_past_the_end_is_refused(tmp_path: Path) -> None:
    beyond = descriptor(PARTITION, offset=OFFSET, size=SIZE + 1, filesystem=1, role=PRIMARY)
    with pytest.raises(CaHpcError, match="cut off"):
        system_partition(sif(tmp_path, beyond))


@pytest.mark.parametrize("content", [b"", b"hsqs" + bytes(200), b"SIF_MAGIC\0" + bytes(200)])
def test_a_file_that_is_no_sif_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "image.sif"
    file.write_bytes(content)
    with pytest.raises(CaHpcError, match="is not a SIF"):
        system_partition(file)


def test_a_sif_without_a_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match="no system partition"):
        system_partition(sif(tmp_path, *BEFORE_IT))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match=r"gone\.sif: No such file"):
        system_partition(tmp_path / "gone.sif")
