"""Weights on disk: ``STORE/weights/SHA256/{weights.safetensors,manifest.json}``.

The name is the sha256 of the tensors' file, whose bytes depend on the tensors alone: the same
weights, from whatever release or file name, are stored once.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store import atomic
from ca_hpc.store.digests import cached_sha256, sha256_file
from ca_hpc.store.lock import held
from ca_hpc.weights import manifest as manifests
from ca_hpc.weights import safetensors_file
from ca_hpc.weights.manifest import Manifest
from ca_hpc.weights.tensors import Tensors

TENSORS: Final = "weights.safetensors"
MANIFEST: Final = "manifest.json"
SHORTEST: Final = 8  # hex digits of a sha256 that name an entry


@dataclass(frozen=True, slots=True)
class Entry:
    """Stored weights: the file of their tensors, and what is known about them."""

    file: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class WeightStore:
    """The weights of a user or a group. Many may read, one at a time adds."""

    root: Path

    @property
    def folder(self) -> Path:
        """Where the entries are."""
        return self.root / "weights"

    def entries(self) -> Iterator[Entry]:
        """All of them, oldest first. Raises CaHpcError for a damaged manifest."""
        found = []
        if self.folder.is_dir():
            for file in self.folder.glob(f"[0-9a-f]*/{MANIFEST}"):
                text = file.read_text(encoding="utf-8")
                found.append(Entry(file.parent / TENSORS, manifests.load(text, place=str(file))))
        yield from sorted(found, key=lambda e: (e.manifest.added or "", e.manifest.sha256))

    def find(self, name: str) -> Entry | None:
        """By profile, or by the sha256 (or its beginning) of the tensors or of their source."""
        digits = name.removeprefix("sha256:").lower()
        by_digest = len(digits) >= SHORTEST and set(digits) <= set("0123456789abcdef")

        def meant(known: Manifest) -> bool:
            shas = (known.sha256, known.source.sha256)
            return known.profile == name or (by_digest and any(s.startswith(digits) for s in shas))

        found = [entry for entry in self.entries() if meant(entry.manifest)]
        if len(found) > 1:
            told = ", ".join(f"{e.manifest.sha256[:12]} ({e.manifest.source.name})" for e in found)
            raise CaHpcError(
                f"{name} names {len(found)} weights in {self.folder}: {told}",
                hint="name one by its sha256",
            )
        return found[0] if found else None

    def add(
        self,
        tensors: Tensors,
        manifest: Manifest,
        *,
        waiting: Callable[[], None],
        replace: bool = False,
    ) -> Entry:
        """Store weights, or find them stored already. ``manifest.sha256`` is set here.

        ``waiting`` is called if another process adds. Raises DigestMismatch where the profile names
        other weights by now; with ``replace`` those lose the name and keep their sha256.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.folder / ".lock"
            lock.touch()
        except OSError as error:
            raise CaHpcError(
                f"cannot write to {self.folder}: {error.strerror}",
                hint="choose a folder that you may write to: --store FOLDER",
            ) from error
        with held(lock, waiting=waiting):
            for left in self.folder.glob(f"{_DRAFT}*"):  # by one that was killed: it had the lock
                shutil.rmtree(left, ignore_errors=True)
            return self._add(tensors, manifest, replace=replace)

    def _add(self, tensors: Tensors, manifest: Manifest, *, replace: bool) -> Entry:
        with tempfile.TemporaryDirectory(prefix=_DRAFT, dir=self.folder) as folder:
            draft = Path(folder) / TENSORS
            safetensors_file.write(draft, tensors)
            manifest = dataclasses.replace(manifest, sha256=sha256_file(draft))
            self._free_the_name(manifest, replace=replace)
            target = self.folder / manifest.sha256
            if not target.exists():
                staged = Path(folder) / "entry"
                staged.mkdir()
                draft.replace(staged / TENSORS)
                atomic.write_text(staged / MANIFEST, manifests.dump(manifest))
                staged.chmod(0o755)
                for file in staged.iterdir():
                    file.chmod(0o644)  # not secret, and a group's store is read by others
                staged.replace(target)
            else:
                atomic.write_text(target / MANIFEST, manifests.dump(manifest))
        return Entry(target / TENSORS, manifest)

    def verify(self, entry: Entry, *, cache: Path | None) -> None:
        """Compare an entry's bytes with its manifest. Raises DigestMismatch.

        ``cache`` as in ``cached_sha256``; None: read them in any case.
        """
        try:
            found = cached_sha256(entry.file, cache=cache) if cache else sha256_file(entry.file)
        except OSError as error:
            raise DigestMismatch(
                f"{entry.file} cannot be read: {error.strerror}", hint=_AGAIN
            ) from error
        if found != entry.manifest.sha256:
            raise DigestMismatch(
                f"{entry.file} is sha256:{found}, its manifest says sha256:{entry.manifest.sha256}",
                hint=_AGAIN,
            )

    def _free_the_name(self, manifest: Manifest, *, replace: bool) -> None:
        for entry in self.entries():
            other = entry.manifest
            if manifest.profile is None or other.profile != manifest.profile:
                continue
            if other.sha256 == manifest.sha256:
                continue
            if not replace:
                raise DigestMismatch(
                    f"{manifest.profile} is stored from {other.source.name} "
                    f"(sha256:{other.source.sha256}); {manifest.source.name} "
                    f"(sha256:{manifest.source.sha256}) holds other weights",
                    hint="was the release replaced? --replace gives the name to the new ones, the "
                    "old ones keep their sha256",
                )
            nameless = dataclasses.replace(other, profile=None)
            atomic.write_text(entry.file.with_name(MANIFEST), manifests.dump(nameless))


_AGAIN: Final = "delete its folder and add the weights again: ca-hpc weights add"
_DRAFT: Final = ".adding-"
