"""For who changes a version in ``containers/``: put the hashes into the requirement files.

``python -m ca_hpc.images.pin_hashes`` asks pip which file it would take for each package, and for
that file's sha256. Of what an index tells, no archive is downloaded.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.errors import CaHpcError
from ca_hpc.images.building.pins import Pin, canonical, parse_pin, read_pins
from ca_hpc.images.building.python_wheels import call_pip, target
from ca_hpc.processes import Run
from ca_hpc.store import atomic
from ca_hpc.store.shipped import shipped

#: each installed in one pip command
_LISTS: Final = ("requirements-cpu.txt", "requirements-cuda.txt", "requirements-sbom.txt")


def chosen_files(pins: Iterable[Pin], *, run: Run) -> dict[str, str]:
    """Of each requirement, the sha256 of the file that pip takes. Raises CaHpcError."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted, report = Path(scratch, "wanted.txt"), Path(scratch, "report.json")
        wanted.write_text("".join(f"{pin.requirement}\n" for pin in pins))
        nowhere = ("--dry-run", "--ignore-installed", "--target", scratch)
        call_pip(
            ("install", *nowhere, *target(), "--report", str(report), "--requirement", str(wanted)),
            run=run,
        )
        return hashes_in(report.read_text(encoding="utf-8"))


def hashes_in(report: str) -> dict[str, str]:
    """sha256 by "name==version", in pip's installation report (its format 1)."""
    found = {}
    for package in json.loads(report)["install"]:
        known = package["metadata"]
        # pip before 23.1 does not hash a local file
        hashes = package["download_info"]["archive_info"].get("hashes", {})
        found[f"{canonical(known['name'])}=={known['version']}"] = hashes.get("sha256")
    return {requirement: sha256 for requirement, sha256 in found.items() if sha256}


def with_hashes(text: str, sha256_of: Mapping[str, str]) -> str:
    """A requirement file's text with these hashes; comments and order stay. Raises CaHpcError."""
    return "".join(f"{_with_hash(line, sha256_of)}\n" for line in text.splitlines())


def _with_hash(line: str, sha256_of: Mapping[str, str]) -> str:
    pin = parse_pin(line)
    if pin is None:
        return line
    sha256 = sha256_of.get(f"{canonical(pin.name)}=={pin.version}")
    if sha256 is None:
        raise CaHpcError(
            f"pip did not tell the hash of the file that it takes for {pin.requirement}",
            hint="try a newer pip: python -m pip install --upgrade pip",
        )
    return str(Pin(pin.name, pin.operator, pin.version, sha256))


def main() -> None:
    """Write the files in ``containers/`` anew."""
    known: dict[str, str] = {}
    for name in _LISTS:
        known |= chosen_files(read_pins(shipped("containers", name)), run=processes.run)
    for file in sorted(shipped("containers").glob("requirements*.txt")):
        atomic.write_text(file, with_hashes(file.read_text(encoding="utf-8"), known))


if __name__ == "__main__":
    try:
        main()
    except CaHpcError as error:
        sys.exit(f"{error.message}\n{error.hint or ''}")
