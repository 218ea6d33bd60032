"""A base that is built again, on the same Debian layer, holds the same."""

from __future__ import annotations

import shutil
from pathlib import Path

from ca_hpc.images.record import read_image, record_path
from tests.lab.image import image_build_argv
from tests.lab.machine import must
from tests.lab.places import cache_root


def test_two_builds_of_a_base_hold_the_same(image: Path, weights: Path, work: Path) -> None:
    origin = read_image(image).origin
    assert origin is not None
    kept = [read_image(file) for file in (cache_root() / "images").glob("*-cpu-*.sif")]
    (base,) = [found for found in kept if found.sha256 == origin.base_sha256]
    assert base.origin is not None
    (debian,) = [found for found in kept if found.sha256 == base.origin.base_sha256]
    bases = work / "bases"
    bases.mkdir()
    for file in (debian.path, record_path(debian.path)):
        shutil.copy(file, bases)

    must(image_build_argv(work / "again.sif", bases=bases, weights=weights), timeout=3600)
    again = read_image(bases / base.path.name)
    assert again.sha256 != base.sha256
    assert again.content_sha256 == base.content_sha256
    assert read_image(work / "again.sif").content_sha256 == read_image(image).content_sha256
