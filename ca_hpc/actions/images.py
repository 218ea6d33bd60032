"""Images of a user or a group: pulled, kept, named, verified, pushed, removed when unneeded."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ca_hpc import processes
from ca_hpc.core.codec import decode
from ca_hpc.core.profile import Cluster
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images import signatures
from ca_hpc.images.contents import content_sha256
from ca_hpc.images.record import ImageInfo, describe_image, record_path, write_record
from ca_hpc.images.reference import InFile, InRegistry, InStore, Reference
from ca_hpc.images.shelf import Entry, Shelf, Use
from ca_hpc.images.signatures import Policy, Signed
from ca_hpc.processes import Run
from ca_hpc.store import archive as archives
from ca_hpc.store.archive import Archive
from ca_hpc.store.digests import cached_sha256, sha256_file

if TYPE_CHECKING:
    from ca_hpc.transfers.fetch import Progress

Say = Callable[[str], None]

WHAT_THERE_IS = "what there is: ca-hpc image list; from elsewhere: ca-hpc image pull"


@dataclass(frozen=True, slots=True)
class Site:
    """Where images are kept, whose are let in, and where what was found out is remembered."""

    shelf: Shelf
    policy: Policy | None
    cache: Path
    run: Run = processes.run

    @property
    def digests(self) -> Path:
        """As in ``cached_sha256``."""
        return self.cache / "digests.json"

    @property
    def signatures(self) -> Path:
        """As in ``signatures.check_once``."""
        return self.cache / "signatures.json"


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that is in the store now. ``reference``: what names it for good, where it is from.

    ``brought``: it was not there before.
    """

    file: Path
    sha256: str
    brought: bool
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """An image that is not other than ``recorded`` (False: nothing is recorded of it).

    ``signed``: None where nobody asked, or unsigned is allowed.
    """

    file: Path
    sha256: str
    recorded: bool
    signed: Signed | None = None


@dataclass(frozen=True, slots=True)
class Pushed:
    """``reference`` is what a job names, ``tagged`` what Apptainer pulls."""

    reference: str
    tagged: str
    sha256: str
    manifest: str


def policy_of(cluster: Cluster | None, *, keys: Iterable[Path] = ()) -> Policy | None:
    """What a profile says about signatures, unless other keys are given."""
    if given := tuple(keys):
        return Policy(given)
    asked = cluster.images.signatures if cluster else None
    if asked is None:
        return None
    return Policy(tuple(Path(key).expanduser() for key in asked.keys), asked.required)


# --- into the store ------------------------------------------------------------------------------


def pull(
    reference: Reference,
    *,
    site: Site,
    authfile: Path | None = None,
    use: Use | None = None,
    say: Say,
    progress: Progress,
) -> Pulled:
    """An image in the store, brought there if need be, by one of all who ask for it at once.

    Raises CaHpcError; UntrustedImage and DigestMismatch before anybody can use what came.
    """
    match reference:
        case InRegistry():
            return _from_registry(
                reference, site=site, authfile=authfile, use=use, say=say, progress=progress
            )
        case InFile():
            return _from_file(reference, site=site, use=use, say=say)
        case InStore():
            entry = kept(reference, shelf=site.shelf)
            _ensure(entry.sha256, site=site, use=use, bring=_nowhere(reference), say=say)
            return Pulled(entry.file, entry.sha256, brought=False)


def _from_registry(
    reference: InRegistry,
    *,
    site: Site,
    authfile: Path | None,
    use: Use | None,
    say: Say,
    progress: Progress,
) -> Pulled:
    # requests takes long to import, and most commands are about images that are here
    from ca_hpc.images import registry
    from ca_hpc.images.credentials import Login, login_for

    def resolve() -> tuple[registry.Remote, Login | None]:
        login = login_for(reference.host, authfile=authfile)
        return registry.resolve(reference, login=login), login

    asked = None if _is_there(reference, shelf=site.shelf) else resolve()

    def bring(into: Path) -> Path:
        remote, login = asked or resolve()
        size = f"{remote.size_bytes / 1e6:.0f} MB"
        say(f"pulling {reference} ({size}) into {site.shelf.folder}")
        return registry.pull(remote, into, login=login, progress=progress)

    sha256 = asked[0].sha256 if asked else reference.sha256
    assert sha256 is not None
    file, brought = _ensure(sha256, site=site, use=use, bring=bring, say=say)
    pinned = InRegistry(reference.host, reference.name, sha256=sha256)
    return Pulled(file, sha256, brought, str(pinned))


def _is_there(reference: InRegistry, *, shelf: Shelf) -> bool:
    """Whether its file is known and here, so that no registry need be asked."""
    return reference.sha256 is not None and shelf.has(reference.sha256)


def _from_file(reference: InFile, *, site: Site, use: Use | None, say: Say) -> Pulled:
    given = Path(reference.path)
    sha256 = digest_of(reference, site=site)

    def bring(into: Path) -> Path:
        say(f"copying {given} into {site.shelf.folder}")
        try:
            return Path(shutil.copyfile(given, into / given.name))
        except OSError as error:
            raise CaHpcError(
                f"{given} cannot be copied: {error.strerror}", hint="mend that, and try again"
            ) from error

    known = _recorded(given)
    file, brought = _ensure(sha256, site=site, use=use, bring=bring, say=say, known=known)
    return Pulled(file, sha256, brought)


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
    _ensure(image.sha256, site=site, use=None, bring=bring, say=say, known=known)


def _ensure(
    sha256: str,
    *,
    site: Site,
    use: Use | None,
    bring: Callable[[Path], Path],
    say: Say,
    known: ImageInfo | None = None,
) -> tuple[Path, bool]:
    """The image, and whether it was brought now; none of an image runs before it is trusted.

    ``known``: what was recorded of the file that it is, or was before it was signed.
    """
    brought: list[Path] = []

    def admit(image: Path) -> None:
        brought.append(image)
        if site.policy is not None:
            signed = signatures.check(image, site.policy, run=site.run)
            signatures.remember(signed, sha256, memory=site.signatures)
        # an image that was not made by ca-hpc is refused by the job that names it
        with contextlib.suppress(CaHpcError):
            write_record(_described(image, sha256, known=known, run=site.run))

    def there(image: Path) -> None:
        """Read it while others wait, who need not do so then."""
        with contextlib.suppress(OSError):
            cached_sha256(image, cache=site.digests)

    file = site.shelf.ensure(
        sha256,
        use=use,
        bring=bring,
        admit=admit,
        there=there,
        waiting=lambda: say("another process brings the image: waiting"),
    )
    if not brought:
        trusted(file, sha256, site=site)
    return file, bool(brought)


def _nowhere(reference: InStore) -> Callable[[Path], Path]:
    def bring(into: Path) -> Path:
        raise CaHpcError(f"image {reference} was removed a moment ago", hint="pull it again")

    return bring


def _described(image: Path, sha256: str, *, known: ImageInfo | None, run: Run) -> ImageInfo:
    """What an image holds and how it was made. Raises CaHpcError."""
    if known is not None and known.sha256 == sha256:
        return replace(known, path=image)
    made = describe_image(image, origin=None, run=run)
    if known is None or known.content_sha256 != made.content_sha256:
        return made
    return replace(made, origin=known.origin)  # a signature changes the file, not what is in it


def _recorded(file: Path) -> ImageInfo | None:
    """The record beside a file, whether it fits it or not."""
    try:
        return decode(ImageInfo, record_path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _recorded_sha256(file: Path) -> str | None:
    """What the record beside it says; nothing of a file that was signed since: it has grown."""
    known = _recorded(file)
    if known is None:
        return None
    with contextlib.suppress(OSError, CaHpcError):  # whoever reads it next tells of that
        grown = file.stat().st_size > known.size_bytes
        if grown and content_sha256(file) == known.content_sha256:
            return None
    return known.sha256


# --- looking -------------------------------------------------------------------------------------


def kept(reference: InStore, *, shelf: Shelf) -> Entry:
    """An image of the store. Raises CaHpcError where there is none."""
    entry = shelf.find(reference)
    if entry is None:
        raise CaHpcError(f"no image {reference} in {shelf.folder}", hint=WHAT_THERE_IS)
    return entry


def digest_of(reference: InFile, *, site: Site) -> str:
    """The sha256 of a file. Raises CaHpcError, and DigestMismatch for another one than it says."""
    path = Path(reference.path)
    if not path.is_file():
        raise DigestMismatch(
            f"image {path} does not exist",
            hint="build it: ca-hpc image build, or correct its name",
        )
    try:
        found = cached_sha256(path, cache=site.digests)
    except OSError as error:
        raise CaHpcError(
            f"image {path} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    if reference.sha256 not in (None, found):
        raise DigestMismatch(
            f"image {path} is sha256:{found}, recorded is sha256:{reference.sha256}",
            hint="use the recorded image, or build a new one: ca-hpc image build",
        )
    return found


def trusted(file: Path, sha256: str, *, site: Site) -> Signed | None:
    """The site's policy, asked once per image and key. Raises UntrustedImage."""
    if site.policy is None:
        return None
    return signatures.check_once(
        file,
        site.policy,
        sha256=sha256,
        memory=site.signatures,
        digests=site.digests,
        run=site.run,
    )


def verify(references: Iterable[Reference], *, site: Site) -> Iterator[Verified]:
    """Read images again, all of their bytes, and ask who signed them. None given: all in the store.

    Raises, after the last, DigestMismatch with all that are not as recorded or not trusted.
    """
    damaged: list[CaHpcError] = []
    for file, expected in _to_verify(references, site=site):
        try:
            yield _verified(file, expected, site=site)
        except (DigestMismatch, signatures.UntrustedImage) as error:
            damaged.append(error)
    if damaged:
        raise DigestMismatch("\n".join(e.message for e in damaged), hint=damaged[0].hint)


def _to_verify(references: Iterable[Reference], *, site: Site) -> Iterator[tuple[Path, str | None]]:
    """Files, each with its recorded sha256, if there is one."""
    given = tuple(references)
    if not given:
        yield from ((entry.file, entry.sha256) for entry in site.shelf.entries())
    for reference in given:
        match reference:
            case InFile():
                path = Path(reference.path)
                yield path, reference.sha256 or _recorded_sha256(path)
            case InStore():
                entry = kept(reference, shelf=site.shelf)
                yield entry.file, entry.sha256
            case InRegistry():
                raise CaHpcError(
                    f"{reference} is in a registry", hint="pull it first: ca-hpc image pull"
                )


def _verified(file: Path, expected: str | None, *, site: Site) -> Verified:
    try:
        found = sha256_file(file)
    except OSError as error:
        raise CaHpcError(f"image {file} cannot be read: {error.strerror}") from error
    if expected not in (None, found):
        raise DigestMismatch(
            f"image {file} is sha256:{found}, recorded is sha256:{expected}",
            hint="put the recorded image back, or pull it again",
        )
    signed = signatures.check(file, site.policy, run=site.run) if site.policy else None
    return Verified(file, found, recorded=expected is not None, signed=signed)


# --- out of it -----------------------------------------------------------------------------------


def push(
    reference: Reference,
    to: InRegistry,
    *,
    site: Site,
    authfile: Path | None = None,
    progress: Progress,
) -> Pushed:
    """Put an image into a registry; its bytes are read and compared with its digest first.

    Raises CaHpcError, DigestMismatch, and UntrustedImage under a policy.
    """
    from ca_hpc.images import registry
    from ca_hpc.images.credentials import login_for

    ((file, expected),) = _to_verify((reference,), site=site)
    found = _verified(file, expected, site=site)
    login = login_for(to.host, authfile=authfile)
    digest = registry.push(file, to, sha256=found.sha256, login=login, progress=progress)
    return Pushed(
        reference=str(InRegistry(to.host, to.name, sha256=found.sha256)),
        tagged=str(InRegistry(to.host, to.name, tag=to.tag or f"sha256-{found.sha256}")),
        sha256=found.sha256,
        manifest=digest,
    )
