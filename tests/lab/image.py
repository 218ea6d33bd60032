"""The image that tests run tasks in."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.lab.machine import LabError, run
from tests.lab.places import LOGS


def image_build_argv(image: Path, *, bases: Path, weights: Path) -> tuple[str, ...]:
    """The only place that knows how an image is built from the command line."""
    program = Path(sys.executable).with_name("ca-hpc")
    options = ("--cpu", "--bases", str(bases), "--weights", str(weights))
    return (str(program), "image", "build", str(image), *options)


def built_image(cache: Path, *, weights: Path) -> Path:
    """The SIF of this checkout with the weights; it and its base are kept in ``cache``.

    Raises ``LabError`` with the end of what the build said.
    """
    sif = cache / "ca-hpc-test.sif"
    done = run(image_build_argv(sif, bases=cache / "images", weights=weights), timeout=3600)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / "image-build.log"
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        raise LabError(f"image build: status {done.returncode}, see {log}\n{done.stderr[-3000:]}")
    for file in (sif, Path(f"{sif}.json")):  # built by root, for root and its group
        file.chmod(0o644)
    return sif
