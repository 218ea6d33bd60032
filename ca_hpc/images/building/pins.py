"""Requirement files as the image's are: exact versions, and the sha256 of the file to take.

``name==1.0 --hash=sha256:…``, one package a line; ``-r FILE`` and comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError

_PIN: Final = re.compile(r"([\w.-]+)(={2,3})([^\s=]+)(?: --hash=sha256:([0-9a-f]{64}))?")


@dataclass(frozen=True, slots=True)
class Pin:
    """A package. ``operator``: ``==``, or ``===`` for this version and no local one of it."""

    name: str
    operator: str
    version: str
    sha256: str | None = None

    @property
    def requirement(self) -> str:
        """Without the hash."""
        return f"{self.name}{self.operator}{self.version}"

    def __str__(self) -> str:
        return self.requirement + (f" --hash=sha256:{self.sha256}" if self.sha256 else "")


def read_pins(file: Path) -> tuple[Pin, ...]:
    """The packages of a requirement file and of those that it includes, in their order.

    Raises CaHpcError for a line that is no pin.
    """
    found: list[Pin] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("-r "):
            found += read_pins(file.parent / line.removeprefix("-r "))
        elif pin := parse_pin(line):
            found.append(pin)
        elif line and not line.startswith("#"):
            raise CaHpcError(
                f"{file}:{number}: {line!r} is not a pinned package",
                hint="one package a line: NAME==VERSION --hash=sha256:HEX",
            )
    return tuple(found)


def parse_pin(line: str) -> Pin | None:
    """The package that a line pins, if any."""
    found = _PIN.fullmatch(line)
    return Pin(*found.groups()) if found else None


def canonical(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
