"""The recipes in ``containers/``: which files make which image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ca_hpc.images.building.pins import Pin, read_pins
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.shipped import shipped

Variant = Literal["cpu", "cuda"]

#: Debian packages beyond Python: Triton, behind torch.compile, needs a C compiler at run time
_DEBIAN_PACKAGES: Final[Mapping[Variant, str]] = {
    "cpu": "",
    "cuda": "gcc libc6-dev python3-dev",
}

#: what tells what is in an image, and whether it works
_DESCRIBING: Final = ("describe.py", "licences.py", "sbom.py", "selftest.py")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A definition file, the files that it reads, and what it asks Debian and pip for.

    ``below``: the recipe of the image that it builds on. ``requirements``: what goes into the
    image, ``tools``: what is needed to build it; both are among ``files``.
    """

    definition: Path
    files: tuple[Path, ...]
    below: Recipe | None = None
    debian_packages: str = ""
    requirements: Path | None = None
    tools: Path | None = None

    @property
    def sha256(self) -> str:
        """Digest of all of it."""
        contents = {file.name: sha256_file(file) for file in (self.definition, *self.files)}
        below = self.below.sha256 if self.below else ""
        return digest(contents | {"debian_packages": self.debian_packages, "below": below})

    @property
    def pins(self) -> tuple[Pin, ...]:
        """The Python packages in the image, by name."""
        found = read_pins(self.requirements) if self.requirements else ()
        return tuple(sorted(found, key=lambda pin: pin.name))


def debian(variant: Variant) -> Recipe:
    """Debian and Python."""
    files = _files("describe.py")
    return Recipe(_file("debian.def"), files, debian_packages=_DEBIAN_PACKAGES[variant])


def base(variant: Variant) -> Recipe:
    """torch and nnU-Net, on Debian."""
    requirements, tools = _file(f"requirements-{variant}.txt"), _file("requirements-sbom.txt")
    shared = _files("requirements.txt", "requirements-build.txt", *_DESCRIBING)
    return Recipe(
        _file("base.def"),
        (requirements, tools, *shared),
        below=debian(variant),
        requirements=requirements,
        tools=tools,
    )


def package() -> Recipe:
    """This package, on a base."""
    return Recipe(_file("ca-hpc.def"), _files(*_DESCRIBING))


def digest(parts: object) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file(name: str) -> Path:
    return shipped("containers", name)


def _files(*names: str) -> tuple[Path, ...]:
    return tuple(_file(name) for name in names)
