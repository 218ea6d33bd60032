"""Images of a user or a group: pulled, kept, named, verified, pushed, removed when unneeded."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ca_hpc import processes
from ca_hpc.core.codec import decode
from ca_hpc.core.profile import Cluster
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.images import signatures
from ca_hpc.images.contents import content_sha256
from ca_hpc.images.record import CannotAsk, ImageInfo, ask, record_path, write_record
from ca_hpc.images.reference import InFile, InRegistry, InStore, Reference
from ca_hpc.images.shelf import Entry, Shelf, Use
from ca_hpc.images.signatures import Policy, Signed, UntrustedImage
from ca_hpc.images.signed_since import signed_since
from ca_hpc.processes import Run
from ca_hpc.store import archive as archives
from ca_hpc.store.archive import Archive
from ca_hpc.store.digests import cached_sha256, sha256_file

if TYPE_CHECKING:
    from ca_hpc.transfers.fetch import Progress

Say = Callable[[str], None]
Welcome = Callable[[str], None]


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

    ``signed_since``: it got a signature after it was recorded, and is the same to the byte but for
    that. ``signed``: None where nobody asked, or unsigned is allowed.
    """

    file: Path
    sha256: str
    recorded: bool
    signed_since: bool = False
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
    welcome(sha256)
    file, brought = _ensure(sha256, what=reference, site=site, use=use, bring=bring, say=say)
    pinned = InRegistry(reference.host, reference.name, sha256=sha256)
    return Pulled(file, sha256, brought, str(pinned))


def _is_there(reference: InRegistry, *, shelf: Shelf) -> bool:
    """Whether its file is known and here, so that no registry need be asked."""
    return reference.sha256 is not None and shelf.has(reference.sha256)


def _from_file(
    reference: InFile, *, site: Site, use: Use | None, welcome: Welcome, say: Say
) -> Pulled:
    given = Path(reference.path)
    sha256 = digest_of(reference, site=site)
    known = _recorded(given)
    if known is not None and reference.sha256 is None:
        _check_record(given, sha256, known=known)
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
    brought: list[Path] = []

    def admit(image: Path) -> None:
        brought.append(image)
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

    file = site.shelf.ensure(
        sha256,
        use=use,
        bring=bring,
        admit=admit,
        whole=whole,
        waiting=lambda: say("another process brings the image: waiting"),
    )
    if not brought:
        _check_kept(file, sha256, site=site)
        trusted(file, sha256, site=site)
    return file, bool(brought)


def _check_kept(file: Path, sha256: str, *, site: Site) -> None:
    """Raises DigestMismatch for an image of the store that was changed."""
    with _readable(file):
        found = cached_sha256(file, cache=site.digests)
    if found != sha256:
        raise DigestMismatch(
            f"image {file} is sha256:{found}, recorded is sha256:{sha256}",
            hint="who added it mends it by pulling it again from where it came: ca-hpc image pull",
        )


def _nowhere(reference: InStore, *, site: Site) -> Callable[[Path], Path]:
    def bring(into: Path) -> Path:
        entry = kept(reference, shelf=site.shelf)
        _check_kept(entry.file, entry.sha256, site=site)
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


def _recorded(file: Path) -> ImageInfo | None:
    """The record beside a file, whether it fits it or not."""
    record = record_path(file)
    if not record.is_file():  # the end of a named pipe may never come
        return None
    try:
        return decode(ImageInfo, record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check_record(file: Path, sha256: str, *, known: ImageInfo) -> bool:
    """Whether a file of this sha256 was signed since it was recorded.

    Raises DigestMismatch where it is not what the record says, by its bytes or by what it holds.
    """
    record = record_path(file).name
    since = False
    if sha256 != known.sha256:
        with _readable(file):
            since = signed_since(file, sha256=known.sha256, size_bytes=known.size_bytes)
        if not since:
            raise DigestMismatch(
                f"image {file} is sha256:{sha256}, recorded in {record} is sha256:{known.sha256}",
                hint=f"copy the image again with {record}, or delete that file if it is old",
            )
    holds = None
    with contextlib.suppress(CaHpcError):  # no SIF, or something was added
        holds = content_sha256(file) if known.content_sha256 else None
    if holds != known.content_sha256:
        raise DigestMismatch(
            f"what image {file} holds is sha256:{holds or 'unknown'}, recorded in {record} is "
            f"sha256:{known.content_sha256}",
            hint=f"{record} is not of this image: get both again where they are from",
        )
    return since


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CaHpcError(
            f"image {file} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error


# --- looking -------------------------------------------------------------------------------------


def kept(reference: InStore, *, shelf: Shelf) -> Entry:
    """An image of the store. Raises CaHpcError where there is none."""
    entry = shelf.find(reference)
    if entry is None:
        raise CaHpcError(
            f"no image {reference} in {shelf.folder}",
            hint=f"what there is: {shelf.listing}; from elsewhere: ca-hpc image pull",
            exit_code=ExitCode.DIGEST_MISMATCH,
        )
    return entry


def digest_of(reference: InFile, *, site: Site) -> str:
    """The sha256 of a file. Raises CaHpcError, and DigestMismatch for another one than it says."""
    path = Path(reference.path)
    if not path.is_file():
        raise DigestMismatch(
            f"image {path} does not exist",
            hint="build it: ca-hpc image build, or correct its name",
        )
    with _readable(path):
        found = cached_sha256(path, cache=site.digests)
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
    for file, pin in _to_verify(references, site=site):
        try:
            yield _verified(file, pin, site=site)
        except (DigestMismatch, signatures.UntrustedImage) as error:
            damaged.append(error)
    if damaged:
        raise DigestMismatch("\n".join(e.message for e in damaged), hint=damaged[0].hint)


def _to_verify(references: Iterable[Reference], *, site: Site) -> Iterator[tuple[Path, str | None]]:
    """Files, each with the sha256 that it must have, if that is known."""
    given = tuple(references)
    if not given:
        yield from ((entry.file, entry.sha256) for entry in site.shelf.entries())
    for reference in given:
        match reference:
            case InFile():
                yield Path(reference.path), reference.sha256
            case InStore():
                entry = kept(reference, shelf=site.shelf)
                yield entry.file, entry.sha256
            case InRegistry():
                raise CaHpcError(
                    f"{reference} is in a registry", hint="pull it first: ca-hpc image pull"
                )


def _verified(file: Path, pin: str | None, *, site: Site) -> Verified:
    if not file.is_file():
        raise DigestMismatch(
            f"image {file} {'is no file' if file.exists() else 'does not exist'}",
            hint="correct its name, or pull it again",
        )
    with _readable(file):
        found = sha256_file(file)
    if pin not in (None, found):
        raise DigestMismatch(
            f"image {file} is sha256:{found}, recorded is sha256:{pin}",
            hint="put the recorded image back, or pull it again",
        )
    known = _recorded(file)
    since = known is not None and _check_record(file, found, known=known)
    signed = signatures.check(file, site.policy, run=site.run) if site.policy else None
    recorded = (pin or known) is not None
    return Verified(file, found, recorded=recorded, signed_since=since, signed=signed)


# --- out of it -----------------------------------------------------------------------------------


def push(
    reference: Reference,
    to: InRegistry,
    *,
    site: Site,
    replace: bool = False,
    authfile: Path | None = None,
    progress: Progress,
) -> Pushed:
    """Put an image into a registry; its bytes are read and compared with its digest first.

    ``replace``: also where the tag stands for another image. Raises CaHpcError, DigestMismatch, and
    UntrustedImage under a policy.
    """
    from ca_hpc.images import registry
    from ca_hpc.images.credentials import login_for

    ((file, pin),) = _to_verify((reference,), site=site)
    found = _verified(file, pin, site=site)
    login = login_for(to.host, authfile=authfile)
    digest = registry.push(
        file, to, sha256=found.sha256, replace=replace, login=login, progress=progress
    )
    return Pushed(
        reference=str(InRegistry(to.host, to.name, sha256=found.sha256)),
        tagged=str(InRegistry(to.host, to.name, tag=to.tag or f"sha256-{found.sha256}")),
        sha256=found.sha256,
        manifest=digest,
    )
