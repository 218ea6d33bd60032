"""The recipes in ``containers/``: which files make which image.

``python -m ca_hpc.images.recipes`` prints what ``containers/images.lock.yaml`` shall hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ca_hpc.store.digests import sha256_file
from ca_hpc.store.shipped import shipped

Variant = Literal["cpu", "cuda"]

#: Debian packages beyond Python: Triton, behind torch.compile, needs a C compiler at run time
_DEBIAN_PACKAGES: Final[Mapping[Variant, str]] = {
    "cpu": "",
    "cuda": "gcc libc6-dev python3-dev",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A definition file, the files that it reads, and what it asks Debian and pip for."""

    definition: Path
    files: tuple[Path, ...]
    debian_packages: str = ""
    requirements: str | None = None

    @property
    def sha256(self) -> str:
        """Digest of all of it."""
        contents = {file.name: sha256_file(file) for file in (self.definition, *self.files)}
        return digest(contents | {"debian_packages": self.debian_packages})

    @property
    def pins(self) -> tuple[str, ...]:
        """The Python packages with their versions, ``name==version``, sorted."""
        lists = [file for file in self.files if file.suffix == ".txt"]
        return tuple(sorted(pin for file in lists for pin in _pins(file)))


def base(variant: Variant) -> Recipe:
    """Debian, Python, torch and nnU-Net."""
    own = f"requirements-{variant}.txt"
    files = _files("requirements.txt", own, "describe.py", "selftest.py")
    return Recipe(shipped("containers", "base.def"), files, _DEBIAN_PACKAGES[variant], own)


def package() -> Recipe:
    """This package, on a base."""
    return Recipe(shipped("containers", "ca-hpc.def"), _files("describe.py", "selftest.py"))


def lock() -> str:
    """The text of ``images.lock.yaml``: per image the digests of its recipe and package list."""
    images = {"base-cpu": base("cpu"), "base-cuda": base("cuda"), "ca-hpc": package()}
    lines = ["# made by: python -m ca_hpc.images.recipes", "images:"]
    for name, recipe in images.items():
        lines += [
            f"  {name}:",
            f"    recipe: {recipe.definition.name}",
            f"    recipe_sha256: {recipe.sha256}",
        ]
        if recipe.requirements is not None:
            lines += [
                f"    packages: {recipe.requirements}",
                f"    packages_sha256: {digest(recipe.pins)}",
            ]
    return "\n".join(lines) + "\n"


def digest(parts: object) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _files(*names: str) -> tuple[Path, ...]:
    return tuple(shipped("containers", name) for name in names)


def _pins(file: Path) -> Iterator[str]:
    return (line for line in file.read_text().splitlines() if "==" in line and line[0] != "#")


if __name__ == "__main__":
    print(lock(), end="")
