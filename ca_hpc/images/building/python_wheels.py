"""Python packages for the image, fetched by the pip of the machine that builds.

Its index, proxy and certificates apply as its owner set them, and never enter the image. Which
files they are is not the index's to decide: every one must have its pinned sha256.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError
from ca_hpc.images.building.pins import read_pins
from ca_hpc.images.record import last_lines
from ca_hpc.processes import Run
from ca_hpc.store.digests import sha256_file

#: the image's Python and C library (Debian 12), which need not be this machine's
_PYTHON: Final = "3.11"
_GLIBC_MINORS: Final = range(36, 16, -1)

_ARCHIVES: Final = (".whl", ".gz", ".zip")

# what pip prints -> the next move; the first that fits
_HINTS: Final = {
    "No module named pip": "install pip for this Python, or build with --wheels FOLDER",
    "DO NOT MATCH THE HASHES": "the index has another file under this name, or one for another"
    " processor (those for x86-64 are pinned): build with --wheels FOLDER",
    "+cpu": "pip must find torch's CPU build: set PIP_EXTRA_INDEX_URL to the CPU index that"
    " pytorch.org names, or build with --wheels FOLDER",
}


def fetch_wheels(requirements: Path, *, into: Path, source: Path | None, run: Run) -> None:
    """Fill the folder ``into`` with the file that each line of ``requirements`` pins.

    ``source``: a folder to take them from instead of asking an index. Raises CaHpcError.
    """
    if source is not None:
        _take(requirements, source=source, into=into)
        return
    folder = ("--dest", str(into), "--requirement", str(requirements))
    call_pip(("download", "--require-hashes", *target(), *folder), run=run)


def target() -> tuple[str, ...]:
    """Arguments by which pip chooses files that run in the image, whatever this machine runs."""
    abis = _repeat("--abi", ("cp311", "abi3", "none"))
    platforms = _repeat("--platform", _platforms(platform.machine()))
    # with --no-deps pip accepts source packages for another Python, too
    return ("--no-deps", "--python-version", _PYTHON, "--implementation", "cp", *abis, *platforms)


def call_pip(arguments: Sequence[str], *, run: Run) -> None:
    """Run this Python's pip. Raises CaHpcError with the end of what it printed."""
    done = run((sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments))
    if done.returncode == 0:
        return
    end = last_lines(done.stderr, count=4)
    hint = next((hint for text, hint in _HINTS.items() if text in done.stderr), None)
    raise CaHpcError(
        f"pip could not prepare the image's Python packages\n{end}",
        hint=hint or "check pip's settings (pip config list), or build with --wheels FOLDER",
    )


def _take(requirements: Path, *, source: Path, into: Path) -> None:
    """Link the pinned files of a folder, which may hold others. They are known by their bytes."""
    try:
        archives = [file for file in source.iterdir() if file.suffix in _ARCHIVES]
        by_sha256 = {sha256_file(file): file.absolute() for file in archives}
    except OSError as error:
        raise CaHpcError(
            f"{source} cannot be read: {error.strerror}", hint="name a folder: --wheels FOLDER"
        ) from error
    pins = read_pins(requirements)
    if lacking := [pin.requirement for pin in pins if pin.sha256 not in by_sha256]:
        raise CaHpcError(
            f"{source} lacks {len(lacking)} of {len(pins)} pinned files:"
            f" {', '.join(lacking[:5])}{', …' * (len(lacking) > 5)}",
            hint=f"fill it on a machine with Python {_PYTHON} and an index: pip download --no-deps"
            f" --requirement {requirements} --dest FOLDER",
        )
    for pin in pins:
        file = by_sha256[str(pin.sha256)]
        link = into / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)


def _platforms(machine: str) -> tuple[str, ...]:
    """Tags of wheels that run in the image, as pip wants them: every one by name."""
    legacy = ("manylinux2014", "manylinux2010", "manylinux1", "linux")
    names = (*(f"manylinux_2_{minor}" for minor in _GLIBC_MINORS), *legacy)
    return tuple(f"{name}_{machine}" for name in names)


def _repeat(option: str, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (option, value))
