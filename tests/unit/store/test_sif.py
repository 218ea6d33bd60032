"""Finding the file system in a SIF, and refusing what is none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ca_hpc.errors import CaHpcError
from ca_hpc.images.contents import content_sha256
from ca_hpc.images.signed_since import signed_since
from ca_hpc.store.sif import Partition, system_partition
from tests.sif import (
    DATA,
    DEFINITION,
    EXT3,
    OFFSET,
    PARTITION,
    PRIMARY,
    SIGNATURE,
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


@pytest.mark.parametrize(
    "numbers", [{"offset": -5, "size": 10}, {"offset": OFFSET, "size": -1}, {"offset": -(1 << 62),
                "size": -(1 << 62)}],
)  # fmt: skip
@pytest.mark.parametrize("kind", [PARTITION, SIGNATURE])
def test_a_part_that_can_lie_nowhere_is_a_damaged_header(
    tmp_path: Path, kind: int, numbers: dict[str, int]
) -> None:
    nowhere = descriptor(kind, filesystem=SQUASHFS, role=PRIMARY, **numbers)
    file = sif(tmp_path, nowhere, SYSTEM)
    for look in (system_partition, content_sha256):
        with pytest.raises(CaHpcError, match="damaged header"):
            look(file)
    assert not signed_since(file, sha256="0" * 64, size_bytes=OFFSET + SIZE)


@pytest.mark.parametrize(
    ("at", "numbers"),
    [(80, (-1, 1)), (80, (2, 1)), (80, (1 << 62, (1 << 63) - 1)), (96, (0, 0)), (96, (1 << 40, 0)),
     (96, (TABLE, -1)), (112, (OFFSET, -1))],
)  # fmt: skip
def test_numbers_that_cannot_be_are_a_damaged_header(
    tmp_path: Path, at: int, numbers: tuple[int, int]
) -> None:
    """Pairs of the header: rows free, and all; place and size of the table, and of the rest."""
    file = sif(tmp_path, SYSTEM)
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(struct.pack("<2q", *numbers))
    with pytest.raises(CaHpcError, match="damaged header"):
        system_partition(file)
    assert not signed_since(file, sha256="0" * 64, size_bytes=file.stat().st_size)


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
