"""A pack: the files of a job's data and all that is known of them, in one sealed tar.

See ``store/sealed_tar.py``. Its first member is ``ca-hpc-pack.json``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from ca_hpc.core.record import Case, Cases
from ca_hpc.store.sealed_tar import (
    Kind,
    Member,
    Progress,
    SealedTar,
    begins,
    file_problems,
    read_head,
    short,
    text_problems,
)

__all__ = ["FORMAT", "KIND", "MANIFEST", "Manifest", "Pack", "Progress", "is_pack", "problems"]

MANIFEST: Final = "ca-hpc-pack.json"
FORMAT: Final = 1
KIND: Final = Kind("pack", MANIFEST, writer="ca-hpc data pack", format=FORMAT)

# what becomes part of file names where the pack is used
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,180}")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first member. ``cases``: with members as paths, and no archive."""

    format: int
    ca_hpc: str
    cases: Cases
    files: Mapping[str, Member]


@dataclass(frozen=True, slots=True)
class Pack(SealedTar):
    """A pack on disk, of which only the manifest was read."""

    KIND: ClassVar[Kind] = KIND

    cases: Cases

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Read and check the manifest. Raises CaHpcError."""
        head = read_head(path, KIND, Manifest, problems=problems)
        return cls(path, head.manifest.files, head.sha256, head.start, head.manifest.cases)


def is_pack(path: Path) -> bool:
    """Whether a file begins as a pack does; the rest of it may be damaged. Raises CaHpcError."""
    return begins(path, KIND)


def problems(manifest: Manifest) -> Iterator[str]:
    """What a pack of somebody else's could do harm with where it is used."""
    yield from file_problems(manifest.files, KIND)
    cases = manifest.cases.cases
    if not cases:
        yield "it has no cases"
    if len({case.id for case in cases}) < len(cases):
        yield "two of its cases have one id"
    for case in cases:
        yield from _of_case(case, manifest.files)
    yield from text_problems(msgspec.to_builtins(manifest.cases))


def _of_case(case: Case, files: Mapping[str, Member]) -> Iterator[str]:
    named = {"id": _ID.fullmatch(case.id), "source": _NAME.fullmatch(case.source)}
    named["split"] = _NAME.fullmatch("train" if case.split is None else case.split)
    for what, fine in named.items():
        if not fine:
            yield f"case {short(case.id)}: its {what} is none"
    if case.archive is not None:
        yield f"case {case.id}: lies in another archive"
    if not case.images or not case.labels:
        yield f"case {case.id}: has no image or no label"
    for image, count in Counter(case.images).items():
        if count > 1:
            yield f"case {case.id}: has {short(image)} as an image more than once"
    for file in case.files:
        if file not in files:
            yield f"case {case.id}: {short(file)} is not in it"
