"""Wheels of what submits and watches runs, at the versions that are installed here.

``pip install --no-index wheels/*.whl`` then needs no network. They are for Pythons
and machines like this one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError
from ca_hpc.images.building.package_wheel import pack_wheel
from ca_hpc.images.record import last_lines
from ca_hpc.processes import Run

#: what pyproject.toml names under ``dependencies``
DIRECT: Final = (
    *("submitit", "pydantic", "msgspec", "typer", "rich", "pyyaml", "nibabel", "jinja2"),
    "requests",
)


def fetch_host_wheels(into: Path, *, run: Run) -> None:
    """Fill the folder ``into``, also with a wheel of this ca-hpc. Raises CaHpcError."""
    pins = [f"{name}=={metadata.version(name)}" for name in installed_with(DIRECT)]
    arguments = ("download", "--no-deps", "--only-binary", ":all:", "--dest", str(into))
    done = run(
        (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments, *pins)
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        told = "\n".join(errors) or done.stderr  # and not that it has tried again
        raise CaHpcError(
            f"pip could not fetch the wheels of the host side\n{last_lines(told, count=4)}",
            hint="check the network and pip's settings (pip config list), or: --without wheels",
        )
    pack_wheel(into)


def installed_with(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` and all that they need here, sorted. Raises CaHpcError for one that is missing."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    left = [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requires = metadata.requires(name) or ()
        except metadata.PackageNotFoundError as error:
            raise CaHpcError(
                f"{name} is not installed, and ca-hpc needs it", hint="install ca-hpc again"
            ) from error
        parsed = [Requirement(line) for line in requires]
        left += [
            canonicalize_name(one.name)
            for one in parsed
            if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return tuple(sorted(found))
