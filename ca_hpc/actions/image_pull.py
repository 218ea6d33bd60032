"""Bring images into the store: from a registry, a file or an archive."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ca_hpc.actions.image_site import Say, Site, check_kept, digest_of, kept, trusted
from ca_hpc.core.codec import decode
from ca_hpc.errors import CaHpcError
from ca_hpc.images import signatures
from ca_hpc.images.beside import check_record, recorded
from ca_hpc.images.contents import content_sha256
from ca_hpc.images.record import CannotAsk, ImageInfo, ask, write_record
from ca_hpc.images.reference import InFile, InRegistry, InStore, Reference
from ca_hpc.images.shelf import Shelf, Source, Use
from ca_hpc.images.signatures import UntrustedImage
from ca_hpc.processes import Run
from ca_hpc.store import archive as archives
from ca_hpc.store.archive import Archive
from ca_hpc.store.digests import cached_sha256

if TYPE_CHECKING:
    from ca_hpc.transfers.fetch import Progress

Welcome = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that is in the store now. ``reference``: what names it for good, where it is from.

    ``brought``: it was not there before.
    """

    file: Path
    sha256: str
    brought: bool
    reference: str | None = None


def pull(
    reference: Reference,
    *,
    site: Site,
    authfile: Path | None = None,
    use: Use | None = None,
    welcome: Welcome = lambda sha256: None,
    say: Say,
    progress: Progress,
) -> Pulled:
    """An image in the store, brought there if need be, by one of all who ask for it at once.

    ``welcome`` is told its digest before any of it is brought, and may raise. Raises CaHpcError;
    UntrustedImage and DigestMismatch before anybody can use what came.
    """
    match reference:
        case InRegistry():
            return _from_registry(
                reference,
                site=site,
                authfile=authfile,
                use=use,
                welcome=welcome,
                say=say,
                progress=progress,
            )
        case InFile():
            return _from_file(reference, site=site, use=use, welcome=welcome, say=say)
        case InStore():
            entry = kept(reference, shelf=site.shelf)
            welcome(entry.sha256)
            nowhere = _nowhere(reference, site=site)
            _ensure(entry.sha256, what=reference, site=site, use=use, bring=nowhere, say=say)
            return Pulled(entry.file, entry.sha256, brought=False)


def _from_registry(
    reference: InRegistry,
    *,
    site: Site,
    authfile: Path | None,
    use: Use | None,
    welcome: Welcome,
    say: Say,
    progress: Progress,
) -> Pulled:
    # requests takes long to import, and most commands are about images that are here
    from ca_hpc.images import credentials, registry

    login = partial(credentials.login_for, reference.host, authfile=authfile)
    remote = None
    sha256 = _sha256_here(reference, shelf=site.shelf)
    if sha256 is None:
        remote = registry.resolve(reference, login=login())
        sha256 = remote.sha256
    welcome(sha256)

    def bring(into: Path) -> Path:
        # what is here and damaged: the registry was not asked yet
        found = remote or registry.resolve(reference, login=login())
        size = f"{found.size_bytes / 1e6:.0f} MB"
        say(f"pulling {reference} ({size}) into {site.shelf.folder}")
        return registry.pull(found, into, login=login(), progress=progress)

    file, brought = _ensure(sha256, what=reference, site=site, use=use, bring=bring, say=say)
    pinned = InRegistry(reference.host, reference.name, sha256=sha256)
    return Pulled(file, sha256, brought, str(pinned))


def _sha256_here(reference: InRegistry, *, shelf: Shelf) -> str | None:
    """The sha256 of a file that is known and here, so that no registry need be asked."""
    known = reference.sha256
    return known if known is not None and shelf.has(known) else None


def _from_file(
    reference: InFile, *, site: Site, use: Use | None, welcome: Welcome, say: Say
) -> Pulled:
    given = Path(reference.path)
    sha256 = digest_of(reference, site=site)
    known = recorded(given)
    if known is not None:
        check_record(given, sha256, known=known)
    welcome(sha256)

    def bring(into: Path) -> Path:
        say(f"copying {given} into {site.shelf.folder}")
        try:
            return _copied(given, into / given.name)
        except OSError as error:
            raise CaHpcError(
                f"{given} cannot be copied: {error.strerror}", hint="mend that, and try again"
            ) from error

    file, brought = _ensure(
        sha256, what=given, site=site, use=use, bring=bring, say=say, known=known
    )
    return Pulled(file, sha256, brought)


def _copied(given: Path, target: Path) -> Path:
    """A copy; of one that was broken off nothing stays, since no next try goes on with it."""
    try:
        return Path(shutil.copyfile(given, target))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def unpack(archive: Archive, *, site: Site, say: Say) -> None:
    """Let the store have the image that an archive brings, if it brings one. Raises as ``pull``."""
    image = archive.files.get(archives.IMAGE)
    if image is None:
        return

    def bring(into: Path) -> Path:
        say(f"unpacking the image ({image.bytes / 1e6:.0f} MB) into {site.shelf.folder}")
        return archive.take(archives.IMAGE, into)

    known = None
    if archives.IMAGE_RECORD in archive.files:
        with contextlib.suppress(ValueError):
            known = decode(ImageInfo, archive.text(archives.IMAGE_RECORD))
    what = f"in {archive.path}"
    _ensure(image.sha256, what=what, site=site, use=None, bring=bring, say=say, known=known)


def _ensure(
    sha256: str,
    *,
    what: object,
    site: Site,
    use: Use | None,
    bring: Callable[[Path], Path],
    say: Say,
    known: ImageInfo | None = None,
) -> tuple[Path, bool]:
    """The image, and whether it was brought now; none of an image runs before it is trusted.

    One that is there and damaged is brought anew where this user may. ``what``: the image for
    people, since the file that is refused goes. ``known``: what was recorded of the file that it
    is, or was before it was signed.
    """

    def admit(image: Path) -> None:
        if site.policy is not None:
            try:
                signed = signatures.check(image, site.policy, run=site.run)
            except UntrustedImage as error:
                raise UntrustedImage(str(what), error.why, hint=error.hint) from error
            signatures.remember(signed, sha256, memory=site.signatures)
        # an image that was not made by ca-hpc is refused by the job that names it
        with contextlib.suppress(CaHpcError):
            write_record(_described(image, sha256, known=known, run=site.run, say=say))

    def whole(image: Path) -> bool:
        """Read it while others wait, who need not do so then."""
        with contextlib.suppress(OSError):  # told below
            return cached_sha256(image, cache=site.digests) == sha256
        return True

    file, brought = site.shelf.ensure(sha256, Source(bring, admit, whole), use=use, say=say)
    if not brought:
        check_kept(file, sha256, site=site)
        trusted(file, sha256, site=site)
    return file, brought


def _nowhere(reference: InStore, *, site: Site) -> Callable[[Path], Path]:
    def bring(into: Path) -> Path:
        entry = kept(reference, shelf=site.shelf)
        check_kept(entry.file, entry.sha256, site=site)
        raise CaHpcError(f"image {reference} changes at this moment", hint="try again")

    return bring


def _described(
    image: Path, sha256: str, *, known: ImageInfo | None, run: Run, say: Say
) -> ImageInfo:
    """What an image holds, by its own word, and how it was made. Raises CaHpcError.

    Of a record that came with it, what the image cannot tell is taken over, and that only if the
    record is of one that holds the same: a signature changes the file, not what is in it.
    """
    holds = content_sha256(image)
    if known is not None and known.content_sha256 != holds:
        known = None
    origin = known.origin if known else None
    try:
        contents, unasked = ask(image, run=run), False
    except CannotAsk:
        if known is None:
            raise
        say("the image does not start here: what it holds is taken from the record beside it")
        contents, unasked = known.contents, True
    return ImageInfo(image, sha256, image.stat().st_size, contents, origin, holds, unasked)
