"""Downloads from a real server on this machine that misbehaves in the ways of real ones."""

from __future__ import annotations

import gzip
import hashlib
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.transfers.fetch import ELSEWHERE, Patience, fetch, shown
from tests.web_server import Script, Site, serving

CONTENT = bytes(range(256)) * 12_000  # 3 MB: more than sockets buffer
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = Patience(tries=3, pause_s=1, connect_s=5, silence_s=5)
MIDDLE = 1_500_000
FETCH = """
import sys
from pathlib import Path
from ca_hpc.transfers.fetch import fetch
fetch(sys.argv[1], Path(sys.argv[2]), progress=lambda done, total: None,
      expected_sha256=sys.argv[3], waiting=lambda: print("waiting"))
"""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """``serve(content=…)``: a server of a script with these fields, until the test ends."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ExitStack() as servers:

        def start(*, context: ssl.SSLContext | None = None, **fields: Any) -> Site:
            script = Script(**{"content": CONTENT, **fields})
            return servers.enter_context(serving(script, context=context))

        yield start


@dataclass
class Told:
    """What a fetch told while it ran."""

    progress: list[tuple[int, int | None]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)


def get(url: str, into: Path, told: Told | None = None, **options: object) -> Path:
    told = told or Told()
    arguments = {"patience": PATIENCE, **options}
    return fetch(
        url,
        into,
        progress=lambda done, total: told.progress.append((done, total)),
        sleep=told.pauses.append,
        **arguments,  # type: ignore[arg-type]
    )


def left(into: Path) -> set[str]:
    return {file.name for file in into.iterdir() if not file.name.endswith(".lock")}


def test_a_file_is_fetched_whole_under_its_name_and_progress_is_told(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    told = Told()
    file = get(serve().url(), tmp_path / "new", told, expected_sha256=SHA256)
    assert file == tmp_path / "new" / "model.zip"
    assert file.read_bytes() == CONTENT
    assert left(tmp_path / "new") == {"model.zip"}
    assert told.progress[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told.progress] == sorted({done for done, _ in told.progress})
    assert told.pauses == []


def test_a_dropped_connection_goes_on_where_it_stopped(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site, told = serve(drop_after=[MIDDLE, 700_000]), Told()
    assert get(site.url(), tmp_path, told).read_bytes() == CONTENT
    first, second, third = site.script.ranges_asked
    assert first is None and second is not None and third is not None
    assert 1_000_000 < int(second[6:-1]) <= MIDDLE < int(third[6:-1]) <= MIDDLE + 700_000
    assert site.script.seen[1][1]["If-Range"] == '"one"'
    assert told.pauses == [1, 1]  # what gets on is tried as often as it takes, without longer waits


def test_a_later_call_goes_on_with_what_an_earlier_one_left(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(drop_after=[MIDDLE, 0, 0, 0])
    with pytest.raises(CaHpcError) as failed:
        get(site.url(user="me:secret@"), tmp_path)
    assert "dropped the connection, 3 times in a row" in failed.value.message
    assert (failed.value.hint or "").startswith("run the same command again: it goes on after 1.")
    assert left(tmp_path) == {"model.zip.part", "model.zip.part.json"}
    assert "secret" not in (tmp_path / "model.zip.part.json").read_text()
    told = Told()
    assert get(site.url(user="me:secret@"), tmp_path, told).read_bytes() == CONTENT
    assert told.progress[0][0] > 1_000_000
    assert left(tmp_path) == {"model.zip"}


def test_a_server_without_ranges_starts_over(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(ranges=False, drop_after=[MIDDLE])
    assert get(site.url(), tmp_path).read_bytes() == CONTENT
    assert len(site.script.seen) == 2


def test_a_server_that_never_gets_further_is_given_up(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site, told = serve(ranges=False, drop_after=[MIDDLE] * 20), Told()
    with pytest.raises(CaHpcError, match="3 times in a row"):
        get(site.url(), tmp_path, told)
    assert told.pauses == [1, 2, 4]  # the first try got somewhere


@pytest.mark.parametrize("etag", ['W/"one"', None], ids=["weak ETag", "no ETag"])
def test_without_a_validator_nothing_is_resumed(
    serve: Callable[..., Site], tmp_path: Path, etag: str | None
) -> None:
    site = serve(etag=etag, drop_after=[MIDDLE])
    assert get(site.url(), tmp_path).read_bytes() == CONTENT
    assert site.script.ranges_asked == [None, None]


def test_a_date_is_a_validator_too(serve: Callable[..., Site], tmp_path: Path) -> None:
    date = "Tue, 20 May 2025 10:00:00 GMT"
    # the server's own comparison is by ETag, which is what this date stands for here
    site = serve(etag=None, headers={"Last-Modified": date}, drop_after=[MIDDLE])
    get(site.url(), tmp_path)
    assert site.script.seen[1][1]["If-Range"] == date


def test_a_file_that_changed_in_between_is_fetched_anew(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(drop_after=[MIDDLE, 0, 0, 0])
    with pytest.raises(CaHpcError):
        get(site.url(), tmp_path)
    site.script.etag, site.script.content = '"two"', CONTENT[::-1]
    assert get(site.url(), tmp_path).read_bytes() == CONTENT[::-1]


def test_a_part_of_another_file_is_noticed_though_the_server_ignores_if_range(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(drop_after=[MIDDLE, 0, 0, 0])
    with pytest.raises(CaHpcError):
        get(site.url(), tmp_path)
    site.script.conditions = False
    site.script.etag, site.script.content = '"two"', CONTENT[::-1]
    assert get(site.url(), tmp_path).read_bytes() == CONTENT[::-1]
    assert site.script.ranges_asked[-2] is not None


def test_a_part_of_another_address_of_the_same_name_is_not_used(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(drop_after=[MIDDLE, 0, 0, 0])
    with pytest.raises(CaHpcError):
        get(site.url("/v3/model.zip"), tmp_path)
    assert get(site.url("/v4/model.zip"), tmp_path).read_bytes() == CONTENT
    assert site.script.ranges_asked[-1] is None


def test_a_range_past_the_end_starts_over(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(drop_after=[MIDDLE, 0, 0, 0])
    with pytest.raises(CaHpcError):
        get(site.url(), tmp_path)
    with (tmp_path / "model.zip.part").open("ab") as stream:
        stream.write(bytes(len(CONTENT)))
    assert get(site.url(), tmp_path).read_bytes() == CONTENT
    assert site.script.ranges_asked[-1] is None


def test_a_busy_server_is_asked_again_with_longer_pauses(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    told = Told()
    assert get(serve(statuses=[503, 429]).url(), tmp_path, told).read_bytes() == CONTENT
    assert told.pauses == [2, 4]
    with pytest.raises(CaHpcError, match="answered HTTP 502, 3 times in a row"):
        get(serve(statuses=[502] * 9).url(), tmp_path)


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "has no such file"), (403, "refuses access"), (401, "asks for a login"), (418, "HTTP")],
)
def test_a_refusal_is_explained_at_once(
    serve: Callable[..., Site], tmp_path: Path, status: int, said: str
) -> None:
    site = serve(statuses=[status] * 9)
    with pytest.raises(CaHpcError) as refused:
        get(site.url("/model.zip?token=secret", user="me:secret@"), tmp_path)
    place = f"http://127.0.0.1:{site.port}/model.zip?…: 127.0.0.1"
    assert refused.value.message.startswith(place)
    assert said in refused.value.message and f"(HTTP {status})" in refused.value.message
    assert ELSEWHERE in (refused.value.hint or "")
    assert len(site.script.seen) == 1
    assert left(tmp_path) == set()


def test_a_wrong_file_is_refused_and_removed(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=b"another")
    with pytest.raises(DigestMismatch) as refused:
        get(site.url(), tmp_path, expected_sha256=SHA256)
    assert SHA256 in refused.value.message
    assert hashlib.sha256(b"another").hexdigest() in refused.value.message
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("headers", "content"),
    [({"Content-Type": "text/html; charset=utf-8"}, b"please log in"), ({}, b"\n<!DOCTYPE html>x")],
    ids=["said", "seen"],
)
def test_a_web_page_is_not_taken_for_the_file(
    serve: Callable[..., Site], tmp_path: Path, headers: dict[str, str], content: bytes
) -> None:
    site = serve(headers=headers, content=content)
    with pytest.raises(CaHpcError, match="is a web page, not a file: it may ask for a login"):
        get(site.url(), tmp_path)
    assert not (tmp_path / "model.zip").exists()


def test_redirects_are_followed_and_name_the_file(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    other = serve()
    site = serve(redirect={"/latest": other.url("/v4/release%20four.zip?signature=x")})
    assert get(site.url("/latest"), tmp_path).name == "release four.zip"
    assert other.script.seen[0][1].get("Authorization") is None


def test_a_login_goes_to_its_own_host_alone(serve: Callable[..., Site], tmp_path: Path) -> None:
    other = serve()
    site = serve(redirect={"/m.zip": f"http://localhost:{other.port}/m.zip"})
    get(site.url("/m.zip", user="me:secret@"), tmp_path)
    assert site.script.seen[0][1]["Authorization"].startswith("Basic ")
    assert "Authorization" not in other.script.seen[0][1]


def test_a_redirect_gets_no_password_of_the_netrc(
    serve: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password one\n"
                     "machine localhost login me password two\n")  # fmt: skip
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    other = serve()
    site = serve(redirect={"/m.zip": f"http://localhost:{other.port}/m.zip"})
    get(site.url("/m.zip"), tmp_path)
    assert site.script.seen[0][1]["Authorization"].startswith("Basic ")
    assert "Authorization" not in other.script.seen[0][1]


@pytest.mark.parametrize("target", ["http://[foo", "http://host:99999999/x", "\xff"])
def test_a_redirect_to_what_is_no_address_is_refused(
    serve: Callable[..., Site], tmp_path: Path, target: str
) -> None:
    site = serve(redirect={"/again": target})
    with pytest.raises(CaHpcError, match=r"127\.0\.0\.1 redirects to what is no address"):
        get(site.url("/again"), tmp_path)
    assert left(tmp_path) == set()


def test_a_length_that_is_no_number_of_use_is_not_believed(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    told = Told()
    site = serve(headers={"Content-Length": "7" * 5000}, drop_after=[len(CONTENT)])
    assert get(site.url(), tmp_path, told, expected_sha256=SHA256).read_bytes() == CONTENT
    assert told.progress[-1] == (len(CONTENT), None)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/again"])
def test_redirects_to_nowhere_are_refused(
    serve: Callable[..., Site], tmp_path: Path, target: str
) -> None:
    site = serve(redirect={"/again": target})
    with pytest.raises(CaHpcError, match="redirects to what is no file to fetch"):
        get(site.url("/again"), tmp_path)
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="model v4.zip"', "model v4.zip"),
        ("attachment; filename*=UTF-8''mod%C3%A8le.zip", "modèle.zip"),
        ('attachment; filename="../../.bashrc"', "bashrc"),
        ('attachment; filename="C:\\temp\\a.pth"', "a.pth"),
        ('attachment; filename="..."', "download"),
        ("attachment", "content"),
        ("attachment; filename*0*=zz'; filename*1=x; filename*=''", "content"),
    ],
)
def test_the_servers_name_for_the_file_cannot_leave_the_folder(
    serve: Callable[..., Site], tmp_path: Path, disposition: str, name: str
) -> None:
    site = serve(headers={"Content-Disposition": disposition})
    assert get(site.url("/files/content"), tmp_path) == tmp_path / name


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/%2e%2e%2f.hidden", "hidden"), ("/", "download"), ("/a/b.zip/", "b.zip")],
)
def test_the_name_in_the_address_cannot_leave_the_folder(
    serve: Callable[..., Site], tmp_path: Path, path: str, name: str
) -> None:
    assert get(serve().url(path), tmp_path) == tmp_path / name


def test_a_compressed_answer_is_unpacked(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=gzip.compress(CONTENT), headers={"Content-Encoding": "gzip"})
    assert get(site.url(), tmp_path, expected_sha256=SHA256).read_bytes() == CONTENT
    assert site.script.seen[0][1]["Accept-Encoding"] == "identity"


def test_a_body_of_unknown_length_is_read_to_its_end(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    told = Told()
    assert get(serve(chunked=True).url(), tmp_path, told).read_bytes() == CONTENT
    assert told.progress[-1] == (len(CONTENT), None)


def test_the_proxy_of_the_environment_is_used(
    serve: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve()  # a proxy is asked for the whole address
    monkeypatch.setenv("http_proxy", proxy.url(""))
    assert get("http://releases.invalid/model.zip", tmp_path).read_bytes() == CONTENT
    assert proxy.script.seen[0][0] == "http://releases.invalid/model.zip"


def test_a_name_that_nobody_knows_is_explained(serve: Callable[..., Site], tmp_path: Path) -> None:
    told = Told()
    with pytest.raises(CaHpcError, match="its name is not known") as refused:
        get("https://releases.invalid/model.zip", tmp_path, told)
    assert ELSEWHERE in (refused.value.hint or "")
    assert told.pauses == []


def test_a_dead_proxy_is_named(
    serve: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(CaHpcError, match="cannot be reached through the proxy") as refused:
        get("https://releases.invalid/model.zip", tmp_path)
    assert "secret" not in f"{refused.value.message}{refused.value.hint}"


def test_nobody_at_the_port_and_silence_are_told_apart(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    with pytest.raises(CaHpcError, match="takes none, 3 times in a row"):
        get("http://127.0.0.1:9/model.zip", tmp_path)
    quick = Patience(tries=2, silence_s=0.2)
    with pytest.raises(CaHpcError, match="did not answer in time, 2 times in a row"):
        get(serve(silent=True).url(), tmp_path, patience=quick)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its own certificate for 127.0.0.1."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv += ["-keyout", str(file), "-out", str(file.with_suffix(".crt"))]
    subprocess.run(argv, check=True, capture_output=True)
    with file.open("ab") as stream:
        stream.write(file.with_suffix(".crt").read_bytes())
    return file


def test_a_certificate_of_the_environment_is_trusted_and_no_other(
    serve: Callable[..., Site],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: Path,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site = serve(context=context)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with pytest.raises(CaHpcError, match=r"certificate of .* cannot be verified") as refused:
        get(site.url(), tmp_path)
    assert "REQUESTS_CA_BUNDLE" in (refused.value.hint or "")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))
    assert get(site.url(), tmp_path).read_bytes() == CONTENT


def test_a_redirect_from_https_to_the_open_network_is_refused(
    serve: Callable[..., Site],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: Path,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    here = serve()
    places = {"/out": "http://releases.invalid/m.zip", "/here": here.url("/m.zip")}
    site = serve(context=context, redirect=places)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))
    with pytest.raises(CaHpcError, match=r"127\.0\.0\.1 redirects from https to plain http"):
        get(site.url("/out"), tmp_path)
    assert get(site.url("/here"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "address",
    ["file:///srv/model.zip", "model.zip", "/srv/model.zip", "s3://bucket/model.zip", "http:///x",
     "http://[::1/x", "ftp://host/model.zip"],
)  # fmt: skip
def test_only_http_is_fetched(tmp_path: Path, address: str) -> None:
    with pytest.raises(CaHpcError, match="is not an http:// or https:// address") as refused:
        get(address, tmp_path / "none")
    assert "ca-hpc weights add FILE" in (refused.value.hint or "")
    assert not (tmp_path / "none").exists()


def test_an_address_is_shown_without_secrets() -> None:
    assert shown("https://me:p@ss@host:8443/a/b.zip?token=x#y") == "https://host:8443/a/b.zip?…"
    assert shown("https://host/b.zip") == "https://host/b.zip"
    assert shown("https://me:pa/ss@host/b.zip") == "https://…"


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(headers={"Content-Length": str(10**15)})
    with pytest.raises(CaHpcError, match=r"needs 1000000000\.0 MB more"):
        get(site.url(), tmp_path)
    assert left(tmp_path) == set()


def test_a_disk_that_gets_full_is_told_and_the_part_kept(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    # the kernel refuses what goes beyond the limit, as it does on a full disk
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))" + FETCH
    site = serve()
    done = subprocess.run(
        [sys.executable, "-c", limited, site.url(), str(tmp_path), SHA256],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "CaHpcError: " in done.stderr
    assert f"{tmp_path}/model.zip.part cannot be written: File too large" in done.stderr
    told = Told()
    assert get(site.url(), tmp_path, told, expected_sha256=SHA256).read_bytes() == CONTENT
    assert told.progress[0][0] > 10**6


def test_what_is_there_already_is_not_fetched_again(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve()
    get(site.url(), tmp_path, expected_sha256=SHA256)
    get(site.url(), tmp_path, expected_sha256=SHA256)
    assert len(site.script.seen) == 1


def test_two_processes_fetch_it_once(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve()
    argv = [sys.executable, "-c", FETCH, site.url(), str(tmp_path), SHA256]

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: start(), range(2)))
    assert (tmp_path / "model.zip").read_bytes() == CONTENT
    assert left(tmp_path) == {"model.zip"}
    assert len(site.script.seen) == 1


def test_a_killed_fetch_leaves_a_part_that_the_next_one_goes_on_with(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(content=CONTENT * 20)
    sha256 = hashlib.sha256(site.script.content).hexdigest()
    slow = FETCH.replace("progress=lambda done, total: None", "progress=lambda *_: sleep(0.1)")
    argv = [sys.executable, "-c", "from time import sleep" + slow, site.url(), str(tmp_path)]
    process = subprocess.Popen([*argv, sha256])
    part = tmp_path / "model.zip.part"
    end = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size > 500_000):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "model.zip").exists()
    told = Told()
    assert get(site.url(), tmp_path, told, expected_sha256=sha256).stat().st_size == len(
        site.script.content
    )
    assert told.progress[0][0] > 500_000
