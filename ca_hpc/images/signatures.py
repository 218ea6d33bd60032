"""Who signed an image: ``apptainer verify`` with given keys, and what its answers mean.

A signature covers what is in the image but not all of the file, and two signings of one image are
two files. So a signature says whose image it is, the sha256 which one; a job needs both.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError, ExitCode
from ca_hpc.images.record import last_lines, outside_environment
from ca_hpc.processes import Finished, ProgramMissing, Run
from ca_hpc.store import atomic
from ca_hpc.store.digests import cached_sha256, sha256_file

#: public keys by how their files end: of ``openssl``, of PGP
PEM: Final = ".pem"
PGP: Final = ".asc"


class UntrustedImage(CaHpcError):
    """An image is not signed, by none of the keys that are trusted, or not as it was signed.

    ``why``: the predicate of the image.
    """

    exit_code = ExitCode.DIGEST_MISMATCH

    def __init__(self, image: Path | str, why: str, *, hint: str | None) -> None:
        super().__init__(f"image {image} {why}", hint=hint)
        self.why = why


@dataclass(frozen=True, slots=True)
class Policy:
    """Public keys, one of which must have signed an image.

    ``required``: else an image without any signature is let through; one with a bad signature or by
    somebody else never is.
    """

    keys: tuple[Path, ...]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Signed:
    """The key that an image was signed with. ``fingerprint``: of a PGP key."""

    key: str
    key_sha256: str
    fingerprint: str | None = None


class Refusal(Enum):
    """Why one key does not verify an image; the value is a predicate of the image."""

    UNSIGNED = "is not signed"
    CHANGED = "is not as it was signed"
    ADDED = "has got parts that were not signed with it"
    OTHER_KEY = "was signed with another key, or its signature is damaged"


# What `apptainer verify` 1.4.5 writes to stderr, as patterns; the first that fits. All of it exits
# with 255. An image is built in group 1; whoever adds something may choose another.
_REFUSALS: Final[Mapping[str, Refusal]] = {
    "integrity compromised": Refusal.CHANGED,
    "not associated with object group": Refusal.ADDED,
    "object not signed": Refusal.ADDED,
    r"signature not found for object group 1(?!\d)": Refusal.UNSIGNED,
    "signature not found for object group": Refusal.ADDED,
    "no signatures found": Refusal.UNSIGNED,
    "verify envelope failed": Refusal.OTHER_KEY,
    "signature made by unknown entity": Refusal.OTHER_KEY,
    "key material not provided": Refusal.OTHER_KEY,
    "not valid: openpgp": Refusal.OTHER_KEY,
}
_KEY_TROUBLES: Final = ("load key material", "PEM decoding failed", "Public key PEM file type")
_FINGERPRINT: Final = re.compile(r"Fingerprint:\s*([0-9A-Fa-f]{40,64})\b")


def check(image: Path, policy: Policy, *, run: Run) -> Signed | None:
    """Verify an image with one key after the other; None: unsigned, and that is allowed.

    Reads all of it (0.6 s per GB). Raises UntrustedImage, and CaHpcError where nobody can tell:
    without Apptainer, with a key that is none.
    """
    refusals: dict[str, Refusal] = {}
    for key in policy.keys:
        refusal = _refusal(image, key, run=run)
        if isinstance(refusal, Signed):
            return refusal
        refusals[key.name] = refusal
        if refusal is not Refusal.OTHER_KEY:  # no other key would say anything else
            break
    last = next(reversed(refusals.values()))
    if last is Refusal.UNSIGNED and not policy.required:
        return None
    keys = ", ".join(str(key) for key in policy.keys)
    if last is Refusal.OTHER_KEY:
        raise UntrustedImage(
            image,
            f"{last.value}; trusted is {keys}",
            hint="get it from those who are trusted, or ask them to sign it: apptainer sign",
        )
    raise UntrustedImage(
        image,
        f"{last.value}; it must be signed with {keys}",
        hint="apptainer sign --key PRIVATE.pem IMAGE (it is another file then, with another sha256)"
        if last is Refusal.UNSIGNED
        else "do not use it; get it again from those who signed it",
    )


def check_once(
    image: Path, policy: Policy, *, sha256: str, memory: Path, digests: Path, run: Run
) -> Signed | None:
    """:func:`check`, remembered in the JSON file ``memory``; see :func:`remember`.

    ``sha256``: the image's, as ``digests`` (see ``cached_sha256``) knows it. Raises UntrustedImage
    also for an image that changes meanwhile.
    """
    known = _remembered(memory)
    for key in policy.keys:
        found = known.get(f"{sha256} {_key_sha256(key)}")
        if found is not None:
            return Signed(key.name, _key_sha256(key), found or None)
    signed = check(image, policy, run=run)
    if (now := cached_sha256(image, cache=digests)) != sha256:
        raise UntrustedImage(
            image,
            f"is sha256:{now}, recorded is sha256:{sha256}: it changed while it was verified",
            hint="submit again when nobody writes to it",
        )
    remember(signed, sha256, memory=memory)
    return signed


def remember(signed: Signed | None, sha256: str, *, memory: Path) -> None:
    """For :func:`check_once`: bytes and key decide, nothing else. Where it cannot, it does not."""
    if signed is None:
        return
    found = {f"{sha256} {signed.key_sha256}": signed.fingerprint or ""}
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(memory, json.dumps(_remembered(memory) | found, indent=1))


def _refusal(image: Path, key: Path, *, run: Run) -> Signed | Refusal:
    key_sha256 = _key_sha256(key)
    try:
        if key.suffix == PGP:
            return _by_pgp(image, key, key_sha256=key_sha256, run=run)
        # "verify" alone would ask a key server on the internet
        done = run(
            ("apptainer", "verify", "--key", str(key.absolute()), str(image.absolute())),
            env=outside_environment(),
        )
    except ProgramMissing as error:
        raise CaHpcError(
            f"apptainer, to verify the signature of {image}, is missing",
            hint="install Apptainer here or load its module: signatures are checked at submission",
        ) from error
    return Signed(key.name, key_sha256) if done.returncode == 0 else _meaning(done, key, image)


def _by_pgp(image: Path, key: Path, *, key_sha256: str, run: Run) -> Signed | Refusal:
    """With a keyring that holds this key alone.

    ``--local`` trusts the machine's global keyring as well, so fingerprints are compared.
    """
    with tempfile.TemporaryDirectory(prefix="ca-hpc-keys-") as folder:
        env = {**outside_environment(), "APPTAINER_KEYSDIR": f"{folder}/keys"}
        imported = run(("apptainer", "key", "import", str(key.absolute())), env=env)
        listed = run(("apptainer", "key", "list"), env=env)
        ours = {found.lower() for found in _FINGERPRINT.findall(listed.stdout)}
        if imported.returncode != 0 or not ours:
            raise _no_key(key)
        done = run(("apptainer", "verify", "--local", "--json", str(image.absolute())), env=env)
    if done.returncode != 0:
        return _meaning(done, key, image)
    theirs = _signers(done.stdout)
    if not theirs or not theirs <= ours:
        return Refusal.OTHER_KEY
    return Signed(key.name, key_sha256, min(theirs))


def _signers(answer: str) -> set[str]:
    """The fingerprints in the answer of ``apptainer verify --json``."""
    try:
        signers = json.loads(answer)["SignerKeys"]
        return {str(signer["Signer"]["Fingerprint"]).lower() for signer in signers}
    except (ValueError, KeyError, TypeError):
        return set()


def _meaning(done: Finished, key: Path, image: Path) -> Refusal:
    if any(trouble in done.stderr for trouble in _KEY_TROUBLES):
        raise _no_key(key)
    for mark, refusal in _REFUSALS.items():
        if re.search(mark, done.stderr):
            return refusal
    raise CaHpcError(
        f"{image} cannot be verified: {last_lines(done.stderr, count=2)}",
        hint="is it a SIF, and whole?",
    )


def _no_key(key: Path) -> CaHpcError:
    return CaHpcError(
        f"{key} is no public key",
        hint=f"{PEM}: openssl pkey -in PRIVATE{PEM} -pubout -out PUBLIC{PEM}; {PGP}: "
        f"apptainer key export --armor PUBLIC{PGP}",
    )


def _key_sha256(key: Path) -> str:
    try:
        return sha256_file(key)
    except OSError as error:
        raise CaHpcError(
            f"{key}: {error.strerror}", hint="name a public key that exists"
        ) from error


def _remembered(memory: Path) -> dict[str, str]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
