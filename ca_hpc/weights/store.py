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

FOLDER: Final = "weights"
TENSORS: Final = "weights.safetensors"
MANIFEST: Final = "manifest.json"


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
        return self.root / FOLDER

    def entries(self) -> Iterator[Entry]:
        """All of them, oldest first. Raises CaHpcError for a damaged manifest."""
        found = []
        for folder in self._folders():
            file = folder / MANIFEST
            text = file.read_text(encoding="utf-8", errors="replace")
            found.append(Entry(folder / TENSORS, manifests.load(text, place=str(file))))
        yield from sorted(found, key=lambda e: (e.manifest.added or "", e.manifest.sha256))

    def _folders(self) -> list[Path]:
        """Of the entries. Raises CaHpcError where they may not be seen: that is not "none"."""
        try:
            inside = list(self.folder.iterdir())
            return [path for path in inside if (path / MANIFEST).is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CaHpcError(
                f"{self.folder} cannot be read: {error.strerror}",
                hint="ask its owner, or name a store of your own: --store FOLDER, CA_HPC_STORE",
            ) from error

    def find(self, name: str) -> Entry | None:
        """By profile, or by the sha256 (or its beginning) of the tensors or of their source."""
        found = [entry for entry in self.entries() if entry.manifest.goes_by(name)]
        if len(found) > 1:
            told = ", ".join(f"{e.manifest.sha256[:12]} ({e.manifest.source.name})" for e in found)
            raise CaHpcError(
                f"{name} names {len(found)} weights in {self.folder}: {told}",
                hint="name one by more digits of its sha256",
            )
        return found[0] if found else None

    def folder_for(self, name: str) -> Path:
        """The folder ``name`` of the store, made if need be. Raises CaHpcError."""
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".lock").open("a").close()  # a folder of others exists, and takes no files
        except OSError as error:
            raise CaHpcError(
                f"cannot write to {folder}: {error.strerror}",
                hint="choose a folder that you may write to: --store FOLDER",
            ) from error
        return folder

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
        other weights by now, or these weights another profile; with ``replace`` the name moves.
        What loses its name keeps its sha256.
        """
        with held(self.folder_for(FOLDER) / ".lock", waiting=waiting):
            for left in self.folder.glob(f"{_DRAFT}*"):  # by one that was killed: it had the lock
                shutil.rmtree(left, ignore_errors=True)
            return self._add(tensors, manifest, replace=replace)

    def _add(self, tensors: Tensors, manifest: Manifest, *, replace: bool) -> Entry:
        with tempfile.TemporaryDirectory(prefix=_DRAFT, dir=self.folder) as folder:
            draft = Path(folder) / TENSORS
            safetensors_file.write(draft, tensors)
            manifest = dataclasses.replace(manifest, sha256=sha256_file(draft))
            draft.chmod(_READABLE)
            for other in (e.manifest for e in self.entries()):
                if other.sha256 == manifest.sha256:
                    manifest = _merged(other, manifest, replace=replace)
            self._free_the_name(manifest, replace=replace)
            target = self.folder / manifest.sha256
            if target.exists():
                draft.replace(target / TENSORS)  # the same bytes, unless those there are damaged
                _write(manifest, target)
            else:
                staged = Path(folder) / "entry"
                staged.mkdir()
                draft.replace(staged / TENSORS)
                _write(manifest, staged)
                staged.chmod(0o755)
                staged.replace(target)
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
            same_name = manifest.profile is not None and other.profile == manifest.profile
            if not same_name or other.sha256 == manifest.sha256:
                continue
            if not replace:
                raise DigestMismatch(
                    f"{manifest.profile} is stored from {other.source.name} "
                    f"(sha256:{other.source.sha256}); {manifest.source.name} "
                    f"(sha256:{manifest.source.sha256}) holds other weights",
                    hint="was the release replaced? --replace gives the name to the new ones, the "
                    "old ones keep their sha256",
                )
            _write(dataclasses.replace(other, profile=None), entry.file.parent)


def _merged(stored: Manifest, given: Manifest, *, replace: bool) -> Manifest:
    """What is known of tensors that were stored before: no name or source is forgotten."""
    if given.profile is not None and stored.profile not in (None, given.profile) and not replace:
        raise DigestMismatch(
            f"{given.source.name} holds the weights that are stored as {stored.profile}, not other "
            f"ones for {given.profile}",
            hint=f"name them {stored.profile}, or give them the other name with --replace",
        )
    told = _contradiction(stored, given)
    if told is not None and not replace:
        raise CaHpcError(
            f"the weights of {given.source.name} are stored from {stored.source.name} with other "
            f"{told}",
            hint="jobs that name them rely on what is stored; --replace takes the new description",
        )
    main = stored if given.profile is None and (stored.profile or not given.network) else given
    sources = (given.source, stored.source, *stored.also_from)
    others = {s.sha256: s for s in sources if s.sha256 != main.source.sha256}
    described = main if main.network or not stored.network else stored
    if told is not None:
        described = given
    return dataclasses.replace(
        main,
        network=described.network,
        trained_on=described.trained_on,
        also_from=tuple(others.values()),
    )


def _contradiction(stored: Manifest, given: Manifest) -> str | None:
    """What two descriptions of the same tensors say differently, if both say it."""
    if stored.network and given.network and stored.network.axes != given.network.axes:
        return f"axes: {', '.join(stored.network.axes)}, not {', '.join(given.network.axes)}"
    ours, theirs = stored.trained_on, given.trained_on
    for name in ("spacing", "orientation", "crop"):
        if (
            None not in (known := (getattr(ours, name), getattr(theirs, name)))
            and len(set(map(repr, known))) > 1
        ):
            return f"{name}: {known[0]}, not {known[1]}"
    return None


def _write(manifest: Manifest, folder: Path) -> None:
    atomic.write_text(folder / MANIFEST, manifests.dump(manifest))
    (folder / MANIFEST).chmod(_READABLE)


_AGAIN: Final = "add the weights again: ca-hpc weights add"
_READABLE: Final = 0o644  # weights are not secret, and a group's store is read by others
_DRAFT: Final = ".adding-"
