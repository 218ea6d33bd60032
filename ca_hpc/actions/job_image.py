"""The image that a job names: a file, or in the store, brought there at submission if need be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ca_hpc.actions.image_pull import pull
from ca_hpc.actions.image_site import Say, Site, check_kept, digest_of, kept, trusted
from ca_hpc.core.model import Pin
from ca_hpc.errors import DigestMismatch
from ca_hpc.images.record import ImageInfo, read_image, record_path
from ca_hpc.images.reference import InFile, InRegistry, InStore, parse
from ca_hpc.images.shelf import Shelf, Use, shelf_of


def find(wanted: str, *, site: Site, runs: Path | None, fetch: bool, say: Say) -> ImageInfo | None:
    """The image, its bytes as recorded and, under a policy, signed by somebody trusted.

    ``runs``: the folder of the run to be, which keeps the image from being removed; None: no run
    is to be yet. ``fetch``: whether it is pulled and kept; else one that only its registry knows is
    None. Raises CaHpcError, DigestMismatch, UntrustedImage.
    """
    reference = parse(wanted)
    if isinstance(reference, InFile):
        file, sha256 = Path(reference.path), digest_of(reference, site=site)
        trusted(file, sha256, site=site)
        if fetch and runs is not None:
            keep(Pin(str(file), sha256), site=site, runs=runs, say=say)
        return _as_recorded(file, sha256, site=site)
    if fetch:
        use = None if runs is None else Use.here(runs)
        told = _Tenths(say)
        found = pull(reference, site=site, use=use, say=say, progress=told)
        file, sha256 = found.file, found.sha256
    else:
        entry = _there(reference, shelf=site.shelf)
        if entry is None:
            return None
        file, sha256 = entry
        check_kept(file, sha256, site=site)
        trusted(file, sha256, site=site)
    return _as_recorded(file, sha256, site=site)


def keep(image: Pin, *, site: Site, runs: Path, say: Say) -> None:
    """Keep an image of a store for a run to be in ``runs``; a file elsewhere is not ours to keep.

    Raises as ``find``, where it was removed from the site's store meanwhile, too.
    """
    file = Path(image.path)
    own = file == site.shelf.file(image.sha256)
    shelf = site.shelf if own else shelf_of(file, image.sha256)
    if shelf is not None:
        kept_for = InStore(digits=image.sha256)
        there = replace(site, shelf=shelf)
        pull(kept_for, site=there, use=Use.here(runs), say=say, progress=_Tenths(say))


def _there(reference: InStore | InRegistry, *, shelf: Shelf) -> tuple[Path, str] | None:
    """An image of the store. A tag may mean another one by now."""
    if isinstance(reference, InStore):
        entry = kept(reference, shelf=shelf)
        return entry.file, entry.sha256
    if reference.sha256 is not None and shelf.has(reference.sha256):
        return shelf.file(reference.sha256), reference.sha256
    return None


def _as_recorded(file: Path, sha256: str, *, site: Site) -> ImageInfo:
    info = read_image(file, run=site.run)
    if info.sha256 != sha256 and not record_path(file).exists():  # it was read to ask it
        raise DigestMismatch(
            f"image {file} was sha256:{sha256} a moment ago and is sha256:{info.sha256} now",
            hint="submit again when nobody writes to it",
        )
    if info.sha256 != sha256:
        raise DigestMismatch(
            f"image {file} is sha256:{sha256}, recorded is sha256:{info.sha256}",
            hint="copy the image again with its .json file, or delete a .json file that is old",
        )
    return info


class _Tenths:
    """Progress as sentences, ten at most: a submission has no bar."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._told = 0

    def __call__(self, done: int, total: int | None) -> None:
        if total and done * 10 // total > self._told:
            self._told = done * 10 // total
            self._say(f"pulled {done / 1e6:.0f} of {total / 1e6:.0f} MB")
