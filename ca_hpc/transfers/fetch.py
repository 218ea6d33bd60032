"""Fetch a file over http(s): resumed where it broke off, checked, and there whole or not at all.

What an address may hold besides a place (user, password, the values of a query, often a signature
or a token) goes into no message and no record: see ``shown``.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.lock import held
from ca_hpc.transfers.partial_file import Part, shown

if TYPE_CHECKING:
    from requests import PreparedRequest, RequestException, Response

    from ca_hpc.transfers.session import WarySession

__all__ = ["ELSEWHERE", "Patience", "content_length", "fetch", "shown"]

#: told the bytes that are there and, where the server says so, how many there will be
Progress: TypeAlias = Callable[[int, "int | None"], None]
#: puts what a server asks for into a request that is for this server, as ``auth`` in requests
Auth: TypeAlias = "Callable[[PreparedRequest], PreparedRequest]"

ELSEWHERE: Final = (
    "download it with a browser or on another machine, copy it here, then: ca-hpc weights add FILE"
)
_CHUNK: Final = 1 << 18  # what is lost at most when a connection drops
# RFC 9110 and 6585: the server's trouble, or ours to wait
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSALS: Final[Mapping[int, str]] = {
    401: "asks for a login",
    403: "refuses access",
    404: "has no such file",
    407: "is behind a proxy that asks for a login",
    410: "has this file no more",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How often to try without getting any further, and how long to wait, in seconds.

    ``pause_s`` is before the second try and doubles from one to the next.
    """

    tries: int = 5
    pause_s: float = 1.0
    connect_s: float = 20.0
    silence_s: float = 60.0


PATIENCE: Final = Patience()


def fetch(
    url: str,
    into: Path,
    *,
    progress: Progress,
    expected_sha256: str | None = None,
    auth: Auth | None = None,
    waiting: Callable[[], None] = lambda: None,
    patience: Patience = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch ``url`` into the folder ``into`` and return the file, named as the server names it.

    Proxies and certificates come from the environment (``HTTPS_PROXY``, ``NO_PROXY``,
    ``REQUESTS_CA_BUNDLE``). A download that broke off leaves ``NAME.part``, from which the next
    call goes on, in this process or another. One process at a time writes a file; ``waiting`` is
    called when another one does. ``auth`` is for servers that ask for a login; without it
    ``~/.netrc`` is asked, for the host of ``url`` alone. Raises CaHpcError, and DigestMismatch
    where the file is not the expected one; then it is removed.
    """
    _check_address(url)
    into.mkdir(parents=True, exist_ok=True)
    name = _safe_name(unquote(urlsplit(url).path))
    part = Part(into / f"{name}.part", source=url)
    with held(into / f".{name}.lock", waiting=waiting):
        there = into / name  # fetched before, or by the process that was waited for
        if expected_sha256 and there.is_file() and sha256_file(there) == expected_sha256:
            return there
        given = _download(part, auth=auth, progress=progress, patience=patience, sleep=sleep)
        if expected_sha256 is not None and (found := sha256_file(part.file)) != expected_sha256:
            part.remove()
            raise DigestMismatch(
                f"{shown(url)} is sha256:{found}, expected is sha256:{expected_sha256}",
                hint="releases are retagged at times: ask its authors which file is the right one",
            )
        return part.publish(into / (given or name))


class _Passing(Exception):
    """What may be over at the next try. The text is a predicate: "did not answer"."""


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if fine:
        return
    if re.match(r"file:|[^:]*$", url):
        hint = "a file that is on this machine: ca-hpc weights add FILE"
    else:
        hint = ELSEWHERE
    raise CaHpcError(f"{shown(url)} is not an http:// or https:// address", hint=hint)


def _download(
    part: Part,
    *,
    auth: Auth | None,
    progress: Progress,
    patience: Patience,
    sleep: Callable[[float], None],
) -> str | None:
    """Complete ``part``. Returns the file's name where the server gives one."""
    from ca_hpc.transfers.session import WarySession

    failures, furthest = 0, part.size
    with WarySession() as session:
        session.auth = auth
        while True:
            try:
                return _try(session, part, progress=progress, patience=patience)
            except _Passing as trouble:
                failures = 0 if part.size > furthest else failures + 1
                furthest = max(furthest, part.size)
                if failures == patience.tries:
                    raise _given_up(part, trouble, tries=failures) from trouble
            except OSError as error:  # of the part; the connection's are handled in _try
                raise CaHpcError(
                    f"{part.file} cannot be written: {error.strerror or error}",
                    hint="mend that and run the same command again: it goes on where it stopped",
                ) from error
            sleep(patience.pause_s * 2**failures)


def _try(session: WarySession, part: Part, *, progress: Progress, patience: Patience) -> str | None:
    from requests import RequestException

    offset, validator = part.resumable()
    headers = {"Accept-Encoding": "identity"}  # ranges and lengths count the file's own bytes
    if validator is not None:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        with session.get(
            part.source,
            headers=headers,
            timeout=(patience.connect_s, patience.silence_s),
        ) as response:
            _check_status(response, part)
            _receive(response, part, progress=progress)
            return _given_name(response)
    except RequestException as error:
        raise _explained(error, part.source) from error
    except ValueError as error:  # of requests or below it; the text may hold what was sent
        raise CaHpcError(
            f"{shown(part.source)}: {_host(part.source)} answers what cannot be understood "
            f"({type(error).__name__})",
            hint=ELSEWHERE,
        ) from error


def _check_status(response: Response, part: Part) -> None:
    status = response.status_code
    if status == 416:  # what is there does not belong to the file, or is all of it
        part.remove()
        raise _Passing("did not go on where the download stopped")
    if status in _PASSING:
        raise _Passing(f"answered HTTP {status}")
    if status not in (200, 206):
        raise CaHpcError(
            f"{shown(part.source)}: {_host(part.source)} "
            f"{_REFUSALS.get(status, 'did not send the file')} (HTTP {status})",
            hint=f"check the address, or {ELSEWHERE}",
        )
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise _web_page(part.source)


def _receive(response: Response, part: Part, *, progress: Progress) -> None:
    """Append the answer's body to the part, or begin it again where it holds the whole file."""
    offset, known = part.resumable()
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    validator = None if encoded else _validator(response)
    start, total = _extent(response)
    if start and (start != offset or validator not in (None, known)):
        part.remove()
        raise _Passing("went on with another file than the download began with")
    if encoded:
        total = None  # it counts the compressed bytes
    _check_space(part, total=total, start=start)
    if not start:
        part.remove()
        part.remember(validator)
    done = start
    with part.file.open("ab") as stream:
        for chunk in response.iter_content(_CHUNK):
            if not done and re.match(rb"\s*<(!doctype\s+html|html)", chunk[:100], re.IGNORECASE):
                raise _web_page(part.source)
            stream.write(chunk)
            done += len(chunk)
            progress(done, total)
    if total is not None and done != total:
        raise _Passing(f"sent {done} of {total} bytes")


def _extent(response: Response) -> tuple[int, int | None]:
    """The first byte that the answer holds, and the size of the file where it is told."""
    if response.status_code == 206:
        told = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)",
            response.headers.get("Content-Range", "").strip(),
        )
        if told is None:
            raise _Passing("sent a part without saying which")
        return int(told[1]), None if told[2] == "*" else int(told[2])
    return 0, content_length(response.headers)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Bytes to come, where that is told in a number of any use."""
    told = headers.get("Content-Length", "")
    return int(told) if re.fullmatch(r"[0-9]{1,18}", told) else None


def _validator(response: Response) -> str | None:
    """What If-Range may hold: a strong ETag, else the date (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _check_space(part: Part, *, total: int | None, start: int) -> None:
    if total is None:
        return
    free = shutil.disk_usage(part.file.parent).free + (part.size - start)
    if total - start > free:
        raise CaHpcError(
            f"{shown(part.source)} needs {_mb(total - start)} more, and {part.file.parent} "
            f"has {_mb(free)} left",
            hint="free some space, or choose a folder on another disk",
        )


def _given_name(response: Response) -> str | None:
    """The name in Content-Disposition, else in the address that redirects led to."""
    header = Message()
    header["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    try:
        named = header.get_filename()
    except (LookupError, TypeError, ValueError):  # what servers write there is anything
        named = None
    if not named and response.history:
        named = unquote(urlsplit(response.url).path)
    return _safe_name(named) if named else None


def _safe_name(path: str) -> str:
    """The last part of a path of any system as a file name, never hidden, never a folder."""
    last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    printable = "".join(letter for letter in last if letter.isprintable())
    # a file system's limit is 255 bytes, and ours need an ending each
    return printable.strip().lstrip(".").encode()[:200].decode(errors="ignore") or "download"


def _explained(error: RequestException, url: str) -> Exception:
    """``error`` for the reader: passing, or not. Its own text is not used: it holds the address."""
    from requests import exceptions as of
    from urllib3.exceptions import NameResolutionError

    from ca_hpc.transfers.session import Misconduct

    cause = getattr(error.args[0] if error.args else None, "reason", None)
    host = _host(url)
    if isinstance(cause, NameResolutionError):
        return CaHpcError(
            f"{shown(url)}: there is no way from here to {host}: its name is not known",
            hint="check the name; where only a proxy leads out, set HTTPS_PROXY; on a node without "
            f"internet, {ELSEWHERE}",
        )
    if isinstance(error, Misconduct):
        return CaHpcError(f"{shown(url)}: {host} {error}", hint=ELSEWHERE)
    if isinstance(error, of.SSLError):
        return CaHpcError(
            f"{shown(url)}: the certificate of {host} cannot be verified",
            hint="set REQUESTS_CA_BUNDLE to your site's file of certificates, or " + ELSEWHERE,
        )
    if isinstance(error, of.ProxyError):
        return _Passing("cannot be reached through the proxy of HTTPS_PROXY or HTTP_PROXY")
    if isinstance(error, of.Timeout):
        return _Passing("did not answer in time")
    if isinstance(error, of.ChunkedEncodingError | of.ContentDecodingError):
        return _Passing("dropped the connection")
    if isinstance(error, of.ConnectionError):
        return _Passing("dropped the connection, or takes none")
    if isinstance(error, of.TooManyRedirects | of.InvalidSchema | of.InvalidURL | of.MissingSchema):
        return CaHpcError(
            f"{shown(url)}: {host} redirects to what is no file to fetch ({type(error).__name__})",
            hint=f"check the address, or {ELSEWHERE}",
        )
    return CaHpcError(f"{shown(url)}: {type(error).__name__}", hint=ELSEWHERE)


def _given_up(part: Part, trouble: _Passing, *, tries: int) -> CaHpcError:
    size, _ = part.resumable()
    kept = f"run the same command again: it goes on after {_mb(size)}; or " if size else ""
    return CaHpcError(
        f"{shown(part.source)}: {_host(part.source)} {trouble}, {tries} times in a row",
        hint=kept + ELSEWHERE,
    )


def _web_page(url: str) -> CaHpcError:
    return CaHpcError(
        f"{shown(url)} is a web page, not a file: it may ask for a login, or only link to the file",
        hint=f"give the address of the file itself, or {ELSEWHERE}",
    )


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
