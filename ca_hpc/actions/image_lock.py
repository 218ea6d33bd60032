"""The lock of what images are built from: written, or compared with a base that was built anew."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.building.lock import differences, lock_file, lock_text, read_lock
from ca_hpc.images.changes import Change
from ca_hpc.images.record import read_image
from ca_hpc.store import atomic
from ca_hpc.store.shipped import is_installed


@dataclass(frozen=True, slots=True)
class Locked:
    """The lock, whether it is another one now, and the packages of bases that are others."""

    file: Path
    changed: bool
    packages: tuple[Change, ...] = ()


def lock(bases: Collection[Path] = (), *, check: bool = False) -> Locked:
    """Write down what images are built from, and what came of it in ``bases``.

    With ``check`` nothing is written: raises DigestMismatch, with the packages that changed, where
    it would be. Raises CaHpcError where there is nothing to write: an installed package has the
    lock and what it is made from as they were released, and only bases can be compared with it.
    """
    file = lock_file()
    if is_installed() and not (check and bases):
        raise CaHpcError(
            f"this ca-hpc is installed, and its lock is the one of its release: {file}",
            hint="for the lock of a checkout, run ca-hpc from it: pip install --editable CHECKOUT; "
            "to compare a base with this one: ca-hpc image lock --check BASE.sif",
        )
    before = file.read_text(encoding="utf-8")
    built = [read_image(base) for base in bases]
    known = read_lock(before)
    packages = tuple(change for base in built for change in differences(base, known) or ())
    text = lock_text(before, built=built)
    if text == before:
        return Locked(file, changed=False, packages=packages)
    if check:
        what = "these bases" if built else "the recipes and package lists beside it"
        raise DigestMismatch(
            "\n".join([f"{file} is not what {what} would make it", *map(line, packages)]),
            hint="ca-hpc image lock writes it; commit it with them",
        )
    try:
        atomic.write_text(file, text)
    except OSError as error:
        raise CaHpcError(
            f"{file} cannot be written: {error.strerror}", hint="check its permissions"
        ) from error
    return Locked(file, changed=True, packages=packages)


def line(change: Change) -> str:
    """A row of the table of changed packages."""
    before, now = change.before or "not there", change.now or "not there"
    return f"{change.kind:<7} {change.name:<32} {before:<24} {now}"
