"""Read images again, ask who signed them, and push those that are sound into a registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ca_hpc.actions.image_site import Site, kept
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.images import signatures
from ca_hpc.images.beside import check_record, readable, recorded
from ca_hpc.images.reference import InFile, InRegistry, InStore, Reference
from ca_hpc.images.signatures import Signed
from ca_hpc.store.digests import reread_sha256

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

    Raises, after the last, what is wrong with any of them: DigestMismatch if one is not as recorded
    or not trusted, else CaHpcError, for those of which nobody can tell.
    """
    asked: Iterable[Reference] = tuple(references) or (
        InFile(str(entry.file), entry.sha256) for entry in site.shelf.entries()
    )
    troubles: list[CaHpcError] = []
    for reference in asked:
        try:
            found = _verified(reference, site=site)
        except CaHpcError as error:
            troubles.append(error)
        else:
            yield found
    if troubles:
        raise _together(troubles)


def _together(errors: Sequence[CaHpcError]) -> CaHpcError:
    """Several errors as one: as bad as the worst, with the worst one's hint."""
    worst = next((e for e in errors if e.exit_code is ExitCode.DIGEST_MISMATCH), errors[0])
    kind = DigestMismatch if worst.exit_code is ExitCode.DIGEST_MISMATCH else CaHpcError
    messages = dict.fromkeys(error.message for error in errors)  # a key that is none is told once
    return kind("\n".join(messages), hint=worst.hint, exit_code=worst.exit_code)


def _file_of(reference: Reference, *, site: Site) -> tuple[Path, str | None]:
    """A file, with the sha256 that it must have, if that is known."""
    match reference:
        case InFile():
            return Path(reference.path), reference.sha256
        case InStore():
            entry = kept(reference, shelf=site.shelf)
            return entry.file, entry.sha256
        case InRegistry():
            raise CaHpcError(
                f"{reference} is in a registry", hint="pull it first: ca-hpc image pull"
            )


def _verified(reference: Reference, *, site: Site) -> Verified:
    file, pin = _file_of(reference, site=site)
    with readable(file):
        if not file.is_file():
            raise DigestMismatch(
                f"image {file} {'is no file' if file.exists() else 'does not exist'}",
                hint="correct its name, or pull it again",
            )
        # what was remembered of it is put right: only so does `image pull` bring a damaged one anew
        found = reread_sha256(file, cache=site.digests)
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

    found = _verified(reference, site=site)
    login = login_for(to.host, authfile=authfile)
    digest = registry.push(
        found.file, to, sha256=found.sha256, replace=replace, login=login, progress=progress
    )
    return Pushed(
        reference=str(InRegistry(to.host, to.name, sha256=found.sha256)),
        tagged=str(InRegistry(to.host, to.name, tag=to.tag or f"sha256-{found.sha256}")),
        sha256=found.sha256,
        manifest=digest,
    )
