"""Which packages differ between two images, or between an image and the lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["debian", "python"]


@dataclass(frozen=True, slots=True)
class Packages:
    """Versions by name."""

    debian: Mapping[str, str] = field(default_factory=dict)
    python: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A package's version in one and in the other; None where it is missing."""

    kind: Kind
    name: str
    before: str | None
    now: str | None


def changes(before: Packages, now: Packages) -> tuple[Change, ...]:
    """What differs, by kind and name."""
    return (
        *_changes("debian", before.debian, now.debian),
        *_changes("python", before.python, now.python),
    )


def _changes(kind: Kind, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield Change(kind, name, before.get(name), now.get(name))
