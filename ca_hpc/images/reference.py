"""What a job's ``image`` means by how it is written. Pure.

::

    FILE[@sha256:HEX]                              has a slash or ends in .sif
    NAME[@sha256:HEX]                              a name in the store
    sha256:HEX                                     an image in the store, or the beginning of it
    oras://HOST[:PORT]/NAME[:TAG][@sha256:HEX]     in a registry
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from ca_hpc.errors import SpecError
from ca_hpc.transfers.addresses import scheme_of

#: of the digits of a sha256 that stand for all of them
SHORTEST: Final = 8
ENDING: Final = ".sif"
SCHEME: Final = "oras://"

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# OCI distribution specification 1.1, "Pulling manifests"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY: Final = re.compile(
    r"oras://(?P<host>(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?)"
    rf"/(?P<name>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@sha256:(?P<sha256>[0-9a-f]{64}))?"
)
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # RFC 1123
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class InFile:
    """A SIF on disk."""

    path: str
    sha256: str | None = None

    def __str__(self) -> str:
        return self.path + _pin(self.sha256)


@dataclass(frozen=True, slots=True)
class InStore:
    """An image in the store, by ``name``, or by ``digits``: its sha256 or the beginning of it."""

    name: str | None = None
    digits: str | None = None

    def __str__(self) -> str:
        return f"{self.name}{_pin(self.digits)}" if self.name else f"sha256:{self.digits}"


@dataclass(frozen=True, slots=True)
class InRegistry:
    """An artefact in an OCI registry. ``sha256``: of the SIF, or of the manifest that names it."""

    host: str
    name: str
    tag: str | None = None
    sha256: str | None = None

    @property
    def api(self) -> str:
        """The address of its repository in the registry's interface."""
        return f"{scheme_of(self.host)}://{self.host}/v2/{self.name}"

    @property
    def repository(self) -> InRegistry:
        """Without tag and digest."""
        return replace(self, tag=None, sha256=None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{SCHEME}{self.host}/{self.name}{tag}{_pin(self.sha256)}"


Reference: TypeAlias = InFile | InStore | InRegistry


def parse(text: str) -> Reference:
    """Read a reference. Raises SpecError, whose message holds nothing of a password."""
    if "://" in text:
        return _in_registry(text)
    place, marked, digest = text.partition("@sha256:")
    if marked and _DIGEST.fullmatch(digest) is None:
        raise SpecError(
            f"image: {text}: a sha256 has 64 digits of 0-9 and a-f",
            hint="copy it whole: ca-hpc image list, or sha256sum FILE",
        )
    if "/" in place or place.endswith(ENDING):
        return InFile(place, digest or None)
    if place.startswith("sha256:") and marked:
        raise SpecError(
            f"image: {text}: two digests of one image", hint=f"write one: sha256:{digest}"
        )
    if place.startswith("sha256:"):
        return _by_digits(place.removeprefix("sha256:").lower(), text)
    return InStore(check_name(place), digest or None)


def check_name(name: str) -> str:
    """``name``, if the store can take it. Raises SpecError."""
    if _NAME.fullmatch(name) is None or name.endswith(ENDING):
        raise SpecError(
            f"image: {name} is no name of an image",
            hint="a name has letters, digits, ., - and _; a file has a slash or ends in .sif; an "
            "image in a registry is oras://HOST/NAME:TAG",
        )
    return name


def _by_digits(digits: str, text: str) -> InStore:
    if re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", digits) is None:
        raise SpecError(
            f"image: {text}: write {SHORTEST} to 64 digits of 0-9 and a-f",
            hint="what there is: ca-hpc image list",
        )
    return InStore(digits=digits)


def _in_registry(text: str) -> InRegistry:
    found = _REGISTRY.fullmatch(text)
    if found is not None:
        _check_host(found["host"])
        return InRegistry(**found.groupdict())
    if "@" in text.partition("@sha256:")[0]:  # the text is not shown: a password may stand there
        raise SpecError(
            "image: an address with a user name in it",
            hint="take it out; to log in: apptainer registry login --username YOU oras://HOST",
        )
    raise SpecError(
        f"image: {text} is no address of an image",
        hint="oras://HOST/NAME:TAG, all of NAME in small letters, or with @sha256:… behind it",
    )


def _check_host(host: str) -> None:
    """Raises SpecError for what nobody can be asked at, so that no library stumbles over it."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname or "", parts.port
        numeric = ":" in name or name.rpartition(".")[2].isdigit()  # no name ends in a number
        fine = port != 0 and bool(ip_address(name) if numeric else _HOST_NAME.fullmatch(name))
    except ValueError:
        fine = False
    if not fine:
        raise SpecError(
            f"image: {host} is no address of a registry",
            hint="oras://HOST/NAME:TAG or oras://HOST:PORT/NAME:TAG, PORT from 1 to 65535",
        )


def _pin(sha256: str | None) -> str:
    return f"@sha256:{sha256}" if sha256 else ""
