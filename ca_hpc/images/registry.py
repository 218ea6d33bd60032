"""SIFs in an OCI registry, as Apptainer pushes and pulls them (``oras://``).

One manifest with one layer, whose digest is the sha256 of the SIF. So an image that is known by
that digest is fetched, resumed and checked as any other file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from ca_hpc.core.codec import decode
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.images.credentials import Login, RegistryAuth, how_to_login
from ca_hpc.images.reference import InRegistry
from ca_hpc.transfers.addresses import origin
from ca_hpc.transfers.fetch import ELSEWHERE, Progress, content_length, fetch
from ca_hpc.transfers.session import MOST_BYTES, Misconduct, WarySession, reason, received

# as Apptainer 1.4 writes them
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
LAYER: Final = "application/vnd.sylabs.sif.layer.v1.sif"
CONFIG: Final = "application/vnd.sylabs.sif.config.v1+json"
_TITLE: Final = "org.opencontainers.image.title"
_EMPTY: Final = b"{}"

_PULL_ELSEWHERE: Final = (
    "pull it on a machine that can: apptainer pull FILE oras://…; copy it here, then: "
    "ca-hpc image pull FILE"
)
_TIMEOUT_S: Final = (20, 60)
_UPLOAD_TIMEOUT_S: Final = (20, 600)  # the registry hashes it all before it answers
_TRIES: Final = 3  # to connect
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Remote:
    """A SIF in a registry. ``sha256`` is the file's."""

    reference: InRegistry
    sha256: str
    size_bytes: int


def resolve(reference: InRegistry, *, login: Login | None) -> Remote:
    """Which SIF a reference means now. Raises CaHpcError, DigestMismatch.

    A digest may be the file's (what ca-hpc records) or the manifest's (what other tools show).
    """
    with _session(reference, login=login, actions="pull") as http:
        wanted = f"sha256:{reference.sha256}" if reference.sha256 else reference.tag or "latest"
        blob = None
        if reference.sha256 is not None:
            size = _blob_size(http, reference, wanted)
            blob = None if size is None else Remote(reference, reference.sha256, size)
        # Some registries keep manifests among their blobs, too, where one would pass for the image.
        # So what is small enough to be one is asked for as one; an image of real size never is.
        if blob is not None and blob.size_bytes > MOST_BYTES:
            return blob
        answer = http.get(
            f"{reference.api}/manifests/{wanted}",
            headers={"Accept": MANIFEST},
            timeout=_TIMEOUT_S,
        )
        if blob is not None and not answer.ok:  # 404, or 500: to docker-registry it is a broken one
            return blob
        _check(answer, reference, login=login)
        content = received(answer)
    if reference.sha256 and (found := _digest(content)) != wanted:
        raise DigestMismatch(
            f"{reference.repository}: the manifest is {found}, asked for is {wanted}",
            hint="the registry is damaged, or somebody answers in its place",
        )
    return _remote(content, reference)


def pull(
    remote: Remote,
    into: Path,
    *,
    login: Login | None,
    progress: Progress,
    waiting: Callable[[], None] = lambda: None,
) -> Path:
    """Fetch the SIF into the folder ``into``; a download that broke off goes on where it stopped.

    Raises CaHpcError, DigestMismatch for other bytes than the digest says.
    """
    reference = remote.reference
    try:
        return fetch(
            f"{reference.api}/blobs/sha256:{remote.sha256}",
            into,
            progress=progress,
            expected_sha256=remote.sha256,
            auth=RegistryAuth(reference.host, reference.name, login=login, actions="pull"),
            waiting=waiting,
        )
    except CaHpcError as error:
        error.hint = (error.hint or "").replace(ELSEWHERE, _PULL_ELSEWHERE)
        if isinstance(error, DigestMismatch):
            error.hint = "the registry is damaged, or somebody answers in its place"
        raise


def push(
    file: Path,
    reference: InRegistry,
    *,
    sha256: str,
    replace: bool = False,
    login: Login | None,
    progress: Progress,
) -> str:
    """Put a SIF into a registry, unless it is there, and return the manifest's digest.

    ``sha256``: the file's, which the registry compares. The manifest gets the reference's tag, or
    ``latest``, and the tag ``sha256-HEX``, by which other tools find these bytes and the registry
    keeps them. Raises CaHpcError, and DigestMismatch where the reference's tag stands for another
    image, unless it is to be replaced.
    """
    if reference.sha256 is not None:
        raise CaHpcError(
            f"{reference}: the digest of what is pushed follows from the image",
            hint=f"name a tag or nothing: {reference.repository}",
        )
    # not the file's name: the same bytes shall have the same manifest
    title = f"{reference.name.rpartition('/')[2]}.sif"
    body = manifest(sha256, size_bytes=file.stat().st_size, title=title)
    with (
        file.open("rb") as stream,
        _session(reference, login=login, actions="pull,push") as http,
    ):
        if reference.tag is not None and not replace:
            _check_tag(http, reference, sha256, login=login)
        upload = _Upload(stream, file.stat().st_size, progress)
        for digest, content in ((_digest(_EMPTY), _EMPTY), (f"sha256:{sha256}", upload)):
            _push_blob(http, reference, digest, content, login=login)
        for tag in dict.fromkeys((f"sha256-{sha256}", reference.tag or "latest")):
            answer = http.put(
                f"{reference.api}/manifests/{tag}",
                data=body,
                headers={"Content-Type": MANIFEST},
                timeout=_TIMEOUT_S,
                allow_redirects=False,
            )
            _check(answer, reference, login=login)
    return _digest(body)


def manifest(sha256: str, *, size_bytes: int, title: str) -> bytes:
    """The manifest of a SIF, byte for byte what Apptainer 1.4 pushes for a file of this name."""
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "size": len(_EMPTY), "digest": _digest(_EMPTY)},
        "layers": [
            {
                "mediaType": LAYER,
                "size": size_bytes,
                "digest": f"sha256:{sha256}",
                "annotations": {_TITLE: title},
            }
        ],
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _check_tag(
    http: requests.Session, reference: InRegistry, sha256: str, *, login: Login | None
) -> None:
    """Raises DigestMismatch where a reference's tag stands for another image."""
    answer = http.get(
        f"{reference.api}/manifests/{reference.tag}",
        headers={"Accept": MANIFEST},
        timeout=_TIMEOUT_S,
    )
    if answer.status_code == 404:
        return
    _check(answer, reference, login=login)
    try:
        there = f"sha256:{_remote(received(answer), reference).sha256}"
    except CaHpcError:
        there = "something else"
    if there != f"sha256:{sha256}":
        raise DigestMismatch(
            f"{reference} is {there}, not sha256:{sha256}",
            hint="--replace gives the tag to the new one; the old one keeps its sha256",
        )


class _Upload:
    """A file as the body of a request: of known length, read in pieces, telling how far it is."""

    def __init__(self, stream: IO[bytes], size: int, progress: Progress) -> None:
        self._stream, self._size, self._progress = stream, size, progress

    def __len__(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Of a request that is sent again."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Where it is."""
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, never all at once."""
        chunk = self._stream.read(min(size, _CHUNK) if size > 0 else _CHUNK)
        self._progress(self._stream.tell(), self._size)
        return chunk


def _push_blob(
    http: WarySession,
    reference: InRegistry,
    digest: str,
    content: bytes | _Upload,
    *,
    login: Login | None,
) -> None:
    if _blob_size(http, reference, digest) is not None:
        return
    begun = http.post(f"{reference.api}/blobs/uploads/", timeout=_TIMEOUT_S, allow_redirects=False)
    _check(begun, reference, login=login)
    place = _own_place(begun.headers.get("Location", ""), reference)
    joint = "&" if urlsplit(place).query else "?"
    done = http.put(
        f"{place}{joint}digest={digest}",
        data=content,
        headers={"Content-Type": "application/octet-stream"},
        timeout=_UPLOAD_TIMEOUT_S,
        allow_redirects=False,
    )
    _check(done, reference, login=login)


def _own_place(location: str, reference: InRegistry) -> str:
    """Where a registry wants an upload. Raises CaHpcError where that is not with itself."""
    base = f"{reference.api}/"
    try:
        place = urljoin(base, location)
        own = origin(place) == origin(base)
    except ValueError:
        own = False
    if not own:
        raise CaHpcError(
            f"{reference}: {reference.host} wants the image sent to another address than its own",
            hint="ask who runs it: behind a proxy a registry must be told its own address "
            "(docker-registry: http.host)",
        )
    return place


def _blob_size(http: WarySession, reference: InRegistry, digest: str) -> int | None:
    """Bytes of a blob that is there."""
    answer = http.head(f"{reference.api}/blobs/{digest}", timeout=_TIMEOUT_S, allow_redirects=True)
    return content_length(answer.headers) if answer.status_code == 200 else None


def _remote(content: bytes, reference: InRegistry) -> Remote:
    """The one layer of a manifest."""
    try:
        (layer,) = decode(dict[str, Any], content.decode())["layers"]
        kind, digest, size = layer["mediaType"], layer["digest"], layer["size"]
        told = re.fullmatch(r"sha256:([0-9a-f]{64})", digest)
        fine = kind == LAYER and told is not None and type(size) is int and 0 <= size < 1 << 63
    except (ValueError, KeyError, TypeError):
        fine = False
    if not fine:
        raise CaHpcError(
            f"{reference} is no image of Apptainer's (a SIF)",
            hint="images for Docker have to be converted: apptainer build FILE docker://…",
        )
    assert told is not None
    return Remote(reference, told[1], size)


@contextmanager
def _session(reference: InRegistry, *, login: Login | None, actions: str) -> Iterator[WarySession]:
    """Requests to one repository; their failures in our words."""
    with WarySession() as http:
        # a registry that is busy may name hours to wait: that is the user's to decide
        tries = Retry(_TRIES, read=False, respect_retry_after_header=False)
        http.mount(reference.api, HTTPAdapter(max_retries=tries))
        http.auth = RegistryAuth(reference.host, reference.name, login=login, actions=actions)
        try:
            yield http
        except (requests.RequestException, ValueError) as error:
            raise CaHpcError(
                f"{reference}: {_told(error, reference.host)}",
                hint=f"check the name and the network (HTTPS_PROXY), or {_PULL_ELSEWHERE}",
            ) from error


def _told(error: Exception, host: str) -> str:
    """A failure in our words: an error's own text holds addresses with tokens, or what was sent."""
    if isinstance(error, Misconduct):
        return f"{host} {error}"
    known = next(text for kind, text in _TROUBLES.items() if isinstance(error, kind))
    said = reason(error)
    return f"{known}: {said}" if said else known


# the first that fits: an SSLError is a ConnectionError
_TROUBLES: Final[dict[type[Exception], str]] = {
    requests.exceptions.SSLError: "its certificate cannot be verified (REQUESTS_CA_BUNDLE names a "
    "file of certificates)",
    requests.exceptions.ProxyError: "cannot be reached through the proxy",
    requests.exceptions.Timeout: "did not answer in time",
    requests.exceptions.ConnectionError: "cannot be reached",
    requests.exceptions.RequestException: "cannot be asked",
    ValueError: "answers what cannot be understood",
}


def _check(answer: requests.Response, reference: InRegistry, *, login: Login | None) -> None:
    """Raises CaHpcError for a refusal."""
    status, host = answer.status_code, reference.host
    if status < 300:
        return
    if status in (401, 403):
        told = f"refuses the login of {login.user} in {login.file}" if login else "asks for a login"
        raise CaHpcError(
            f"{reference}: {host} {told} (HTTP {status})",
            hint=f"log in: {how_to_login(host)}; may this user do that there?",
        )
    if status == 404:
        raise CaHpcError(
            f"{reference} is not there: {host} has no such image (HTTP 404)",
            hint="check name and tag; private repositories are hidden from those not logged in: "
            + how_to_login(host),
            exit_code=ExitCode.DIGEST_MISMATCH,
        )
    raise CaHpcError(
        f"{reference}: {host} answered HTTP {status}{_reason(answer)}",
        hint="try again later, or ask who runs it",
    )


def _reason(answer: requests.Response) -> str:
    """What a registry says about an error, in one line (distribution specification, errors)."""
    try:
        told = decode(dict[str, Any], received(answer).decode())["errors"][0]["code"]
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError):
        return ""
    return f" ({told})" if isinstance(told, str) and told.isprintable() and len(told) < 80 else ""


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
