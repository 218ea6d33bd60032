"""Logins of registries: where they are found, and to whom they are shown."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from ca_hpc.errors import CaHpcError
from ca_hpc.images.credentials import AUTHFILE, Login, RegistryAuth, login_for
from ca_hpc.transfers.session import Misconduct, WarySession

PASSWORD = "s3cret:with a colon"
ENCODED = base64.b64encode(f"lab:{PASSWORD}".encode()).decode()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(AUTHFILE, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / "home/.docker").mkdir(parents=True)
    return tmp_path / "home"


def write(file: Path, content: Any, *, mode: int = 0o600) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_bytes(text.encode(errors="surrogateescape"))
    file.chmod(mode)
    return file


# --- where they are found ------------------------------------------------------------------------


def test_a_login_is_found_where_apptainer_puts_it(own_home: Path) -> None:
    assert login_for("h:5000") is None
    file = write(own_home / ".docker/config.json", {"auths": {"h:5000": {"auth": ENCODED}}})
    assert login_for("h:5000") == Login("lab", PASSWORD, file)
    assert login_for("other") is None


def test_the_file_that_is_named_comes_before_those_of_the_environment_and_the_home(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user, place in (("home", own_home / ".docker/config.json"), ("env", tmp_path / "env"),
                        ("given", tmp_path / "given")):  # fmt: skip
        encoded = base64.b64encode(f"{user}:x".encode()).decode()
        write(place, {"auths": {"h": {"auth": encoded}}})
    monkeypatch.setenv(AUTHFILE, str(tmp_path / "env"))
    found = [login_for("h"), login_for("h", authfile=tmp_path / "given")]
    assert [login.user for login in found if login] == ["env", "given"]


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match="does not exist"):
        login_for("h", authfile=tmp_path / "nothing")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaHpcError, match="pipe is no file"):
        login_for("h", authfile=tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{half", "no file of logins"),
        ("[]", "no file of logins"),
        ({"auths": {"h": {"auth": "%%%"}}}, "no file of logins"),
        ({"auths": {"h": {"auth": 5}}}, "no file of logins"),
        ('{"auths": {"h": {"auth": "\udcff"}}}', "no file of logins"),
        ('{"auths": ' + "[" * 200_000, "no file of logins"),
        ({"auths": {"h": {}}, "credsStore": "desktop"}, "docker-credential-desktop"),
        ({"credHelpers": {"h": "pass"}}, "docker-credential-pass"),
    ],
    ids=range(8),
)
def test_a_login_that_cannot_be_had_is_explained(content: Any, told: str, own_home: Path) -> None:
    write(own_home / ".docker/config.json", content)
    with pytest.raises(CaHpcError, match=told) as refused:
        login_for("h")
    assert "apptainer registry login" in str(refused.value.hint)


def test_a_store_of_passwords_that_knows_nothing_of_a_registry_is_in_nobody_s_way(
    own_home: Path,
) -> None:
    write(own_home / ".docker/config.json", {"auths": {"other": {}}, "credsStore": "desktop"})
    assert login_for("h") is None


def test_a_password_that_others_can_read_is_not_used(own_home: Path) -> None:
    config = {"auths": {"h": {"auth": ENCODED}}}
    write(own_home / ".docker/config.json", config, mode=0o640)
    with pytest.raises(CaHpcError, match="others can read it") as refused:
        login_for("h")
    assert "s3cret" not in refused.value.message
    assert login_for("other") is None


def test_a_login_does_not_show_its_password() -> None:
    assert "s3cret" not in repr(Login("lab", PASSWORD, Path("f")))


# --- to whom they are shown ----------------------------------------------------------------------


@dataclass
class Server:
    """Answers as it is told.

    ``wants``: challenges by path, for all who do not show what it ``accepts``. ``seen``: path and
    Authorization of each request.
    """

    answers: dict[str, tuple[int, Mapping[str, str], bytes]] = field(default_factory=dict)
    wants: dict[str, str] = field(default_factory=dict)
    accepts: str | None = None
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    queries: list[dict[str, list[str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def authorizations(self, path: str) -> list[str | None]:
        return [header for at, header in self.seen if at == path]


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            given = self.headers.get("Authorization")
            server.seen.append((parts.path, given))
            server.headers.append(dict(self.headers))
            server.queries.append(parse_qs(parts.query))
            if parts.path in server.wants and (given is None or given != server.accepts):
                status, headers, body = 401, {"WWW-Authenticate": server.wants[parts.path]}, b""
            else:
                status, headers, body = server.answers.get(parts.path, (404, {}, b""))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = http.server_address[1]
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture
def two() -> Iterator[tuple[Server, Server]]:
    """A registry, and storage of somebody else's that it redirects to."""
    with ExitStack() as servers:
        yield servers.enter_context(serving()), servers.enter_context(serving())


LOGIN = Login("lab", PASSWORD, Path("f"))


def get(url: str, host: str, *, login: Login | None = LOGIN) -> requests.Response:
    with WarySession() as http:
        http.auth = RegistryAuth(host, "lab/ca", login=login, actions="pull")
        return http.get(url, timeout=10)


def test_a_login_is_shown_when_its_registry_asks_and_never_before(
    two: tuple[Server, Server],
) -> None:
    registry, _ = two
    registry.answers = {"/open": (200, {}, b"x"), "/blob": (200, {}, b"y")}
    registry.wants = {"/blob": 'Basic realm="lab"'}
    registry.accepts = LOGIN.basic
    assert get(f"http://{registry.host}/open", registry.host).content == b"x"
    assert registry.authorizations("/open") == [None]
    assert get(f"http://{registry.host}/blob", registry.host).content == b"y"
    assert registry.authorizations("/blob") == [None, LOGIN.basic]


def test_a_wrong_login_is_refused_after_one_answer(two: tuple[Server, Server]) -> None:
    registry, _ = two
    registry.wants = {"/blob": 'Basic realm="lab"'}
    assert get(f"http://{registry.host}/blob", registry.host).status_code == 401
    assert len(registry.seen) == 2
    assert get(f"http://{registry.host}/blob", registry.host, login=None).status_code == 401
    assert len(registry.seen) == 3


def test_storage_that_a_registry_redirects_to_gets_no_login_even_if_it_asks(
    two: tuple[Server, Server],
) -> None:
    registry, storage = two
    registry.answers = {"/blob": (307, {"Location": f"http://{storage.host}/data?key=1"}, b"")}
    registry.wants = {"/blob": 'Basic realm="lab"'}
    registry.accepts = LOGIN.basic
    storage.wants = {"/data": 'Basic realm="somebody"'}
    assert get(f"http://{registry.host}/blob", registry.host).status_code == 401
    assert registry.authorizations("/blob") == [None, LOGIN.basic]
    assert storage.authorizations("/data") == [None]


def test_a_token_is_fetched_with_the_login_and_shown_to_the_registry(
    two: tuple[Server, Server],
) -> None:
    registry, service = two
    realm = f'Bearer realm="http://{service.host}/token",service="lab registry"'
    registry.wants = {"/blob": realm}
    registry.answers = {"/blob": (200, {}, b"y")}
    registry.accepts = "Bearer of-the-day"
    service.answers = {"/token": (200, {}, b'{"token": "of-the-day"}')}
    assert get(f"http://{registry.host}/blob", registry.host).content == b"y"
    assert registry.authorizations("/blob") == [None, "Bearer of-the-day"]
    assert service.authorizations("/token") == [LOGIN.basic]
    assert service.queries == [{"service": ["lab registry"], "scope": ["repository:lab/ca:pull"]}]


def test_a_login_is_not_sent_to_a_token_service_in_the_clear(two: tuple[Server, Server]) -> None:
    registry, _ = two
    registry.wants = {"/blob": 'Bearer realm="http://token.example.org/token",service="x"'}
    assert get(f"http://{registry.host}/blob", registry.host).status_code == 401
    assert len(registry.seen) == 1


@pytest.mark.parametrize(
    "answer",
    [b'{"token": "s3cret\\r\\nX: y"}', b'{"token": "s3cret\\u2603"}', b'{"token": 5}', b"{}", b"5",
     b'{"token": ""}', b"\xff", b'{"token": ' + b"[" * 200_000],
    ids=range(8),
)  # fmt: skip
def test_a_token_that_is_none_is_shown_to_nobody(answer: bytes, two: tuple[Server, Server]) -> None:
    registry, service = two
    registry.wants = {"/blob": f'Bearer realm="http://{service.host}/token",service="x"'}
    service.answers = {"/token": (200, {}, answer)}
    assert get(f"http://{registry.host}/blob", registry.host).status_code == 401
    assert len(service.seen) == 1
    assert registry.authorizations("/blob") == [None]


def test_a_token_without_end_is_not_read_into_memory(two: tuple[Server, Server]) -> None:
    registry, service = two
    registry.wants = {"/blob": f'Bearer realm="http://{service.host}/token",service="x"'}
    service.answers = {"/token": (200, {}, bytes(5 << 20))}
    with pytest.raises(Misconduct, match="sends more than 4 MiB"):
        get(f"http://{registry.host}/blob", registry.host)


def test_a_token_service_at_no_address_is_not_asked(two: tuple[Server, Server]) -> None:
    registry, _ = two
    registry.wants = {"/blob": 'Bearer realm="http://[foo",service="x"'}
    assert get(f"http://{registry.host}/blob", registry.host).status_code == 401


def test_storage_gets_no_password_of_the_netrc(
    two: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = write(tmp_path / "netrc", "machine localhost login me password secret")
    monkeypatch.setenv("NETRC", str(netrc))
    registry, storage = two
    place = f"http://localhost:{storage.port}/data"
    registry.answers = {"/blob": (307, {"Location": place}, b"")}
    storage.answers = {"/data": (200, {}, b"y")}
    assert get(f"http://{registry.host}/blob", registry.host).content == b"y"
    assert storage.authorizations("/data") == [None]


# --- proxies -------------------------------------------------------------------------------------


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A proxy of the environment, for all that is not told to go past it."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://me:at-the-proxy@{server.host}")
        yield server


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_what_stays_on_this_machine_is_shown_to_no_proxy(
    name: str, two: tuple[Server, Server], proxy: Server
) -> None:
    registry, service = two
    host = f"{name}:{registry.port}"
    registry.answers = {
        "/basic": (200, {}, b"x"),
        "/token": (200, {}, b"y"),
        "/moved": (307, {"Location": f"http://{service.host}/data"}, b""),
    }
    registry.wants = {
        "/basic": 'Basic realm="lab"',
        "/token": f'Bearer realm="http://{service.host}/realm",service="x"',
    }
    service.answers = {"/realm": (200, {}, b'{"token": "t"}'), "/data": (200, {}, b"z")}
    registry.accepts = LOGIN.basic
    assert get(f"http://{host}/basic", host).content == b"x"
    registry.accepts = "Bearer t"
    assert get(f"http://{host}/token", host).content == b"y"
    assert get(f"http://{host}/moved", host).content == b"z"
    assert service.authorizations("/realm") == [LOGIN.basic]
    assert proxy.seen == []


def test_a_redirect_from_beyond_the_proxy_to_this_machine_goes_past_it(
    two: tuple[Server, Server], proxy: Server
) -> None:
    here, _ = two
    here.answers = {"/data": (200, {}, b"x")}
    place = f"http://user:password@LOCALHOST:{here.port}/data"
    proxy.answers = {"/m.zip": (302, {"Location": place}, b"")}
    with WarySession() as http:
        assert http.get("http://releases.invalid/m.zip", timeout=10).content == b"x"
    assert [path for path, _ in proxy.seen] == ["/m.zip"]
    assert "Proxy-Authorization" not in here.headers[0]


def test_a_redirect_from_this_machine_to_elsewhere_goes_through_the_proxy(
    two: tuple[Server, Server], proxy: Server
) -> None:
    here, _ = two
    here.answers = {"/data": (302, {"Location": "http://releases.invalid/m.zip"}, b"")}
    proxy.answers = {"/m.zip": (200, {}, b"x")}
    with WarySession() as http:
        assert http.get(f"http://{here.host}/data", timeout=10).content == b"x"
    assert [path for path, _ in proxy.seen] == ["/m.zip"]
