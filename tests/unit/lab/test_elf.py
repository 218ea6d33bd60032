import sys
from pathlib import Path

import pytest

from tests.lab.elf import CannotRemap, elf_hash, remap
from tests.lab.repack import glibc_here

PROGRAM = Path(sys.executable).resolve()


@pytest.mark.parametrize(
    ("name", "value"), [(b"GLIBC_2.2.5", 0x09691A75), (b"GLIBC_2.17", 0x06969197)]
)
def test_the_hash_is_the_one_that_readelf_shows(name: bytes, value: int) -> None:
    assert elf_hash(name) == value


def test_a_program_that_runs_here_stays_as_it_is() -> None:
    image = PROGRAM.read_bytes()
    assert image.startswith(b"\x7fELF")
    assert remap(image, glibc=glibc_here()) == image


def test_a_program_that_needs_more_than_renaming_is_refused() -> None:
    with pytest.raises(CannotRemap, match=r"is newer than glibc 2\.0"):
        remap(PROGRAM.read_bytes(), glibc=(2, 0))


def test_what_is_no_program_stays_as_it_is() -> None:
    assert remap(b"#!/bin/sh\n", glibc=(2, 0)) == b"#!/bin/sh\n"
