"""Requests to servers of which nothing good is expected.

Imports requests, which takes long: to be imported where it is used.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urljoin

import requests
from requests import PreparedRequest, Response

from ca_hpc.transfers.addresses import in_the_clear, origin, stays_here

#: of an answer that is read into memory, as those of registries: a manifest has some 500 bytes
MOST_BYTES: Final = 4 << 20
_CHUNK: Final = 1 << 14  # may be compressed a thousandfold


class Misconduct(requests.RequestException):
    """What no honest server does. The text is a predicate and holds nothing that it sent."""


class WarySession(requests.Session):
    """A login goes to the server that it is for, over what it was sent over, and nowhere else.

    Plain http to this machine stays in it: no proxy of the environment is told of it. Answers are
    not read before somebody reads them: ``received``, or as a stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stream = True

    def get_redirect_target(self, resp: Response) -> str | None:
        """As in requests. Raises Misconduct for an address that is none, and from https to http."""
        try:
            target = super().get_redirect_target(resp)
            if target is None:
                return None
            resp.close()  # requests reads what comes with a redirect, however much it is
            place = urljoin(resp.url, target)
            origin(place)
            bared = resp.url.startswith("https:") and in_the_clear(place)
        except ValueError as error:
            raise Misconduct("redirects to what is no address", response=resp) from error
        if bared:
            raise Misconduct("redirects from https to plain http", response=resp)
        return target

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """As in requests, but no proxy for what stays on this machine."""
        found = super().merge_environment_settings(url, proxies, stream, verify, cert)
        return {**found, "proxies": {}} if stays_here(url) else found

    def rebuild_proxies(
        self, prepared_request: PreparedRequest, proxies: dict[str, str] | None
    ) -> dict[str, str]:
        """The same, where a redirect leads."""
        found = super().rebuild_proxies(prepared_request, proxies)
        if not stays_here(prepared_request.url or ""):
            return found
        prepared_request.headers.pop("Proxy-Authorization", None)
        return {}

    def rebuild_auth(self, prepared_request: PreparedRequest, response: Response) -> None:
        """Take a login off where a redirect leads elsewhere.

        requests then asks ``~/.netrc`` for that server's: whoever redirects would choose who gets
        a password, and over plain http, too.
        """
        before, after = response.request.url or "", prepared_request.url or ""
        if self.should_strip_auth(before, after):
            prepared_request.headers.pop("Authorization", None)


def received(answer: Response) -> bytes:
    """What an answer holds. Raises Misconduct for more than belongs into memory."""
    content = bytearray()
    for chunk in answer.iter_content(_CHUNK):
        content += chunk
        if len(content) > MOST_BYTES:
            answer.close()
            raise Misconduct(f"sends more than {MOST_BYTES >> 20} MiB where a few lines belong")
    return bytes(content)


def reason(error: BaseException) -> str | None:
    """What the operating system said about a connection, such as "Connection refused"."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return None
