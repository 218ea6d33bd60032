"""Logins of registries: found where ``apptainer registry login`` puts them, shown to nobody else.

A login goes to its own registry and to the token service that the registry names, over https or
within this machine. It is in no argument list, record, lock, message or log.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ca_hpc.core.codec import decode
from ca_hpc.errors import CaHpcError
from ca_hpc.transfers.addresses import in_the_clear, origin, scheme_of

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

AUTHFILE: Final = "REGISTRY_AUTH_FILE"  # as podman, skopeo and oras have it
_TIMEOUT_S: Final = (20, 60)


@dataclass(frozen=True, slots=True)
class Login:
    """A user at a registry, and the file that says so."""

    user: str
    password: str = field(repr=False)
    file: Path

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def login_for(host: str, *, authfile: Path | None = None) -> Login | None:
    """The login for ``host``: in ``authfile``, else in the file that the environment names, else in
    ``~/.docker/config.json``. None: there is none.

    Raises CaHpcError for a file that cannot be used, or that others can read.
    """
    named = authfile or (Path(os.environ[AUTHFILE]) if os.environ.get(AUTHFILE) else None)
    file = named or Path.home() / ".docker/config.json"
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would be waited for
            raise CaHpcError(f"{file} is no file", hint=how_to_login(host))
        content = file.read_bytes()
    except FileNotFoundError:
        if named is None:
            return None
        raise CaHpcError(f"{file} does not exist", hint=how_to_login(host)) from None
    except OSError as error:
        raise CaHpcError(f"{file}: {error.strerror}", hint="check its permissions") from error
    login = _login(content, host, file=file)
    if login is not None and mode & 0o077:
        raise CaHpcError(
            f"{file} holds a password, and others can read it", hint=f"chmod 600 {file}"
        )
    return login


def how_to_login(host: str) -> str:
    """The command; it asks for the password."""
    return f"apptainer registry login --username YOU oras://{host}"


def _login(content: bytes, host: str, *, file: Path) -> Login | None:
    try:
        config = decode(dict[str, Any], content.decode())
        logins = config.get("auths") or {}
        encoded = (logins.get(host) or {}).get("auth")
        # Docker leaves an empty entry for a login that is in its store of passwords
        in_store = config.get("credsStore") if host in logins else None
        helper = (config.get("credHelpers") or {}).get(host) or in_store
        if encoded:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
            return Login(user, password, file)
    except (ValueError, AttributeError, TypeError) as error:
        raise CaHpcError(
            f"{file} is no file of logins", hint=f"mend it, or log in again: {how_to_login(host)}"
        ) from error
    if helper:
        raise CaHpcError(
            f"{file} keeps the login for {host} in the program docker-credential-{helper}, which "
            "is not asked",
            hint=f"log in with a file of its own: {how_to_login(host)} --authfile FILE, then "
            f"{AUTHFILE}=FILE",
        )
    return None


class RegistryAuth:
    """For one repository of one registry: answers its 401, once per request, with what it asks for.

    ``actions``: what is to be done there, "pull" or "pull,push". For ``auth`` in requests.
    """

    def __init__(self, host: str, repository: str, *, login: Login | None, actions: str) -> None:
        self._origin = origin(f"{scheme_of(host)}://{host}")
        self._login = login
        self._scope = f"repository:{repository}:{actions}"
        self._header: str | None = None

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self._ours(request.url) and self._header is not None:
            request.headers["Authorization"] = self._header
        request.register_hook("response", self._challenged)
        return request

    def _ours(self, url: str | None) -> bool:
        """Whether ``url`` is the registry's own: redirects lead to storage of others."""
        return origin(url or "") == self._origin

    def _challenged(self, response: Response, **options: Any) -> Response:
        asked = response.request
        answered = asked.headers.get("Authorization")
        if response.status_code != 401 or not self._ours(response.url):
            return response
        header = self._answer(response.headers.get("WWW-Authenticate", ""))
        if header is None or header == answered:
            return response
        self._header = header
        response.close()  # unread: it may be endless
        again = asked.copy()
        again.headers["Authorization"] = header
        again.hooks = {"response": []}  # a second 401 is the answer
        if (rewind := getattr(again.body, "seek", None)) is not None:
            rewind(0)
        done: Response = response.connection.send(again, **options)
        done.history.append(response)
        done.request = again
        return done

    def _answer(self, challenge: str) -> str | None:
        """An Authorization header for a challenge (RFC 7235; distribution's "token" scheme)."""
        kind, _, rest = challenge.partition(" ")
        said = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() == "basic":
            return self._login.basic if self._login else None
        return self._token(said) if kind.lower() == "bearer" else None

    def _token(self, said: Mapping[str, str]) -> str | None:
        from ca_hpc.transfers.session import WarySession, received

        realm = said.get("realm", "")
        try:
            if not realm.startswith(("http:", "https:")) or in_the_clear(realm):
                return None  # it would carry the login over the network in the clear
        except ValueError:
            return None
        headers = {"Authorization": self._login.basic} if self._login else {}
        with WarySession() as session:
            session.auth = lambda request: request  # without, ~/.netrc would be asked
            answer = session.get(
                realm,
                params={"service": said.get("service", ""), "scope": self._scope},
                headers=headers,
                timeout=_TIMEOUT_S,
                allow_redirects=False,
            )
            return _bearer(received(answer)) if answer.status_code == 200 else None


def _bearer(content: bytes) -> str | None:
    """The Authorization header of a token service's answer (distribution, "token" scheme)."""
    try:
        found = decode(dict[str, Any], content.decode())
    except ValueError:
        return None
    token = found.get("token") or found.get("access_token")
    # http.client would refuse another one with the token in its message
    fine = isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token)
    return f"Bearer {token}" if fine else None
