"""Where a site keeps images, which of them it trusts, and which one is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ca_hpc import processes
from ca_hpc.core.profile import Cluster
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.images import signatures
from ca_hpc.images.beside import readable
from ca_hpc.images.reference import InFile, InStore
from ca_hpc.images.shelf import Entry, Shelf
from ca_hpc.images.signatures import Policy, Signed
from ca_hpc.processes import Run
from ca_hpc.store.digests import cached_sha256
from ca_hpc.store.shared import owner

Say = Callable[[str], None]


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


def policy_of(cluster: Cluster | None, *, keys: Iterable[Path] = ()) -> Policy | None:
    """What a profile says about signatures, unless other keys are given."""
    if given := tuple(keys):
        return Policy(given)
    asked = cluster.images.signatures if cluster else None
    if asked is None:
        return None
    return Policy(tuple(Path(key).expanduser() for key in asked.keys), asked.required)


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
    with readable(path):
        if not path.is_file():
            raise DigestMismatch(
                f"image {path} does not exist",
                hint="build it: ca-hpc image build, or correct its name",
            )
        found = cached_sha256(path, cache=site.digests)
    if reference.sha256 not in (None, found):
        raise DigestMismatch(
            f"image {path} is sha256:{found}, recorded is sha256:{reference.sha256}",
            hint="use the recorded image, or build a new one: ca-hpc image build",
        )
    return found


def check_kept(file: Path, sha256: str, *, site: Site) -> None:
    """Raises DigestMismatch for an image of the store that was changed."""
    with readable(file):
        found = cached_sha256(file, cache=site.digests)
    if found != sha256:
        raise DigestMismatch(
            f"image {file} is sha256:{found}, recorded is sha256:{sha256}",
            hint=f"{owner(file)}, who added it, mends it by pulling it again from where it came: "
            "ca-hpc image pull",
        )


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
