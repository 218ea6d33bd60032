"""An archive of a run: one file that another site can rerun (``store/sealed_tar.py``).

::

    ca-hpc-archive.json                     the manifest: place and digest of every other member
    README.txt                              what to do with it
    run.json  spec.json  cluster.json       the record; the spec, as resolved; the cluster's names
    cases.json  model.json                  cases, their files named by sha256; the network
    given/splits.json  given/test_sets.json  given/plans/ARM.json
    trainers/  weights/  image.sif  image.sif.json  wheels/  evaluation/scores.json
    images/SHA256.nii.gz                    images and labels, only where they were asked for
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from ca_hpc.errors import CaHpcError
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.sealed_tar import (
    Kind,
    Member,
    SealedTar,
    begins,
    file_problems,
    read_head,
    text_problems,
)
from ca_hpc.store.shared import ENTRY, READABLE, is_own, is_shared, make, not_writable, owner

MANIFEST: Final = "ca-hpc-archive.json"
FORMAT: Final = 1
KIND: Final = Kind("archive", MANIFEST, writer="ca-hpc archive", format=FORMAT)

README: Final = "README.txt"
RECORD: Final = "run.json"
SPEC: Final = "spec.json"
CLUSTER: Final = "cluster.json"
CASES: Final = "cases.json"
MODEL: Final = "model.json"
SCORES: Final = "evaluation/scores.json"
IMAGE: Final = "image.sif"
IMAGE_RECORD: Final = f"{IMAGE}.json"
# folders
GIVEN: Final = "given"
TRAINERS: Final = "trainers"
WEIGHTS: Final = "weights"
WHEELS: Final = "wheels"
IMAGES: Final = "images"

Names = Literal["replaced", "kept"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first member. ``name``: of the run; ``names``: what became of those of its subjects."""

    format: int
    ca_hpc: str
    name: str
    names: Names
    files: Mapping[str, Member]


@dataclass(frozen=True, slots=True)
class Archive(SealedTar):
    """An archive on disk, of which only the manifest was read."""

    KIND: ClassVar[Kind] = KIND

    name: str

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Read and check the manifest. Raises CaHpcError."""
        head = read_head(path, KIND, Manifest, problems=_problems)
        return cls(path, head.manifest.files, head.sha256, head.start, head.manifest.name)

    def below(self, folder: str) -> tuple[str, ...]:
        """The members in a folder of it, in order."""
        return tuple(sorted(name for name in self.files if name.startswith(f"{folder}/")))

    def text(self, member: str) -> str:
        """A small member. Raises CaHpcError, DigestMismatch where it is another one."""
        try:
            return b"".join(self.chunks(member)).decode()
        except UnicodeDecodeError as error:
            raise CaHpcError(f"{self.path}: {member} is no text", hint=KIND.again) from error

    def unpack(self, members: Iterable[str], *, into: Path, cache: DigestCache) -> None:
        """Lay members below ``into``, each whole or not at all; what is there is not made again.

        As shared as the folder that ``into`` is in. Raises CaHpcError, DigestMismatch where a
        member is another one.
        """
        try:
            for name in members:
                target = into / name
                if target.is_file() and cache.sealed(target).sha256 == self.member(name).sha256:
                    continue
                self._lay(name, into=into, shared=is_shared(into.parent))
        except OSError as error:
            raise not_writable(into, error) from error

    def _lay(self, name: str, *, into: Path, shared: bool) -> None:
        make(into, shared=shared, mode=ENTRY)
        if shared and not is_own(into):
            raise CaHpcError(
                f"{into} is somebody else's, and has no {name} as it is in {self.path}",
                hint=f"let {owner(into)} rerun it first, or remove that folder",
            )
        draft = into / f".unpacking-{uuid.uuid4().hex}"
        try:
            taken = self.take(name, draft)
            for folder in reversed(Path(name).parents[:-1]):
                make(into / folder, shared=shared, mode=ENTRY)
            if shared:
                taken.chmod(READABLE)
            taken.replace(into / name)
        finally:
            _remove(draft, name)


def is_archive(path: Path) -> bool:
    """Whether a file begins as an archive does. Raises CaHpcError where it cannot be read."""
    return begins(path, KIND)


def _problems(manifest: Manifest) -> Iterator[str]:
    yield from file_problems(manifest.files, KIND)
    yield from text_problems(manifest.name)
    for name in (RECORD, SPEC, CLUSTER, CASES):
        if name not in manifest.files:
            yield f"it has no {name}"


def _remove(draft: Path, name: str) -> None:
    """The empty folders that a member was taken through."""
    for folder in [draft / name, *(draft / name).parents]:
        if folder == draft.parent:
            return
        if folder.is_dir():
            folder.rmdir()
