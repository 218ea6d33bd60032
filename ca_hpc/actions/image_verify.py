"""Read images again, ask who signed them, and push those that are sound into a registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ca_hpc.actions.image_site import Site, kept
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images import signatures
from ca_hpc.images.beside import check_record, readable, recorded
from ca_hpc.images.reference import InFile, InRegistry, InStore, Reference
from ca_hpc.images.signatures import Signed
from ca_hpc.store.digests import sha256_file

if TYPE_CHECKING:
    from ca_hpc.transfers.fetch import Progress


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
    with readable(file):
        found = sha256_file(file)
    if pin not in (None, found):
        raise DigestMismatch(
            f"image {file} is sha256:{found}, recorded is sha256:{pin}",
            hint="put the recorded image back, or pull it again",
        )
    known = recorded(file)
    since = known is not None and check_record(file, found, known=known)
    signed = signatures.check(file, site.policy, run=site.run) if site.policy else None
    named = (pin or known) is not None
    return Verified(file, found, recorded=named, signed_since=since, signed=signed)


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
