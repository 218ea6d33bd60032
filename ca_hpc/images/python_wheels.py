"""Wheels for the image, fetched by the pip of the machine that builds.

Its index, proxy and certificates apply as its owner set them, and never enter the image.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError
from ca_hpc.images.record import last_lines
from ca_hpc.processes import Run

#: the image's Python and C library (Debian 12), which need not be this machine's
_PYTHON: Final = "3.11"
_GLIBC_MINORS: Final = range(36, 16, -1)

# what pip prints -> the next move
_HINTS: Final = {
    "No module named pip": "install pip for this Python, or build with --wheels FOLDER",
    "+cpu": "pip must find torch's CPU build: set PIP_EXTRA_INDEX_URL to the CPU index that"
    " pytorch.org names, or build with --wheels FOLDER",
}


def fetch_wheels(requirements: Path, *, into: Path, source: Path | None, run: Run) -> None:
    """Fill the folder ``into`` with a wheel for every line of ``requirements`` (exact pins).

    ``source``: a folder of wheels to take instead of asking an index. Raises CaHpcError.
    """
    found = () if source is None else ("--no-index", "--find-links", str(source.absolute()))
    # with --no-deps pip accepts source packages for another Python, too
    target = ("--no-deps", "--python-version", _PYTHON, "--implementation", "cp")
    abis = _repeat("--abi", ("cp311", "abi3", "none"))
    platforms = _repeat("--platform", _platforms(platform.machine()))
    folder = ("--dest", str(into), "--requirement", str(requirements))
    _pip(("download", *found, *target, *abis, *platforms, *folder), run=run)
    for package in sorted(path for path in into.iterdir() if path.suffix != ".whl"):
        _pip(("wheel", *found, "--no-deps", "--wheel-dir", str(into), str(package)), run=run)
        package.unlink()


def _platforms(machine: str) -> tuple[str, ...]:
    """Tags of wheels that run in the image, as pip wants them: every one by name."""
    legacy = ("manylinux2014", "manylinux2010", "manylinux1", "linux")
    names = (*(f"manylinux_2_{minor}" for minor in _GLIBC_MINORS), *legacy)
    return tuple(f"{name}_{machine}" for name in names)


def _repeat(option: str, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (option, value))


def _pip(arguments: Sequence[str], *, run: Run) -> None:
    done = run((sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments))
    if done.returncode == 0:
        return
    end = last_lines(done.stderr, count=4)
    hint = next((hint for text, hint in _HINTS.items() if text in end), None)
    raise CaHpcError(
        f"pip could not prepare the image's Python packages\n{end}",
        hint=hint or "check pip's settings (pip config list), or build with --wheels FOLDER",
    )
