"""What is sent to a registry and made of its answers; ``tests/local`` asks a real one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.images import registry
from ca_hpc.images.reference import InRegistry
from ca_hpc.images.registry import LAYER, Remote, manifest, pull, push, resolve
from tests.web_server import Script, Site, serving

SIF = b"#!/usr/bin/env run-singularity\n" + bytes(range(256)) * 4000
SHA256 = hashlib.sha256(SIF).hexdigest()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """``serve(content)``: a server that answers any GET with it."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ExitStack() as servers:
        yield lambda **fields: servers.enter_context(serving(Script(**fields)))


def at(site: Site, *, tag: str | None = None, sha256: str | None = None) -> InRegistry:
    return InRegistry(f"127.0.0.1:{site.port}", "lab/ca", tag=tag, sha256=sha256)


def test_a_manifest_has_the_bytes_that_apptainer_writes() -> None:
    """As 1.4.5 pushed it: so its digest is the same, whoever pushes a file of this name."""
    assert manifest("ab" * 32, size_bytes=12, title="q.sif") == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":'
        b'{"mediaType":"application/vnd.sylabs.sif.config.v1+json","size":2,"digest":"sha256:'
        b'44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[{"mediaType"'
        b':"application/vnd.sylabs.sif.layer.v1.sif","size":12,"digest":"sha256:'
        + b"ab" * 32
        + b'","annotations":{"org.opencontainers.image.title":"q.sif"}}]}'
    )


def test_a_tag_is_resolved_to_the_file_it_names_now(serve: Callable[..., Site]) -> None:
    site = serve(content=manifest(SHA256, size_bytes=len(SIF), title="x.sif"))
    found = resolve(at(site, tag="v1"), login=None)
    assert (found.sha256, found.size_bytes) == (SHA256, len(SIF))
    assert [path for path, _ in site.script.seen] == ["/v2/lab/ca/manifests/v1"]


def test_a_manifest_other_than_its_digest_says_is_refused(serve: Callable[..., Site]) -> None:
    content = manifest(SHA256, size_bytes=len(SIF), title="x.sif")
    with pytest.raises(DigestMismatch) as refused:
        resolve(at(serve(content=content), sha256="0" * 64), login=None)
    assert hashlib.sha256(content).hexdigest() in refused.value.message
    assert "0" * 64 in refused.value.message


def of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("among_blobs", [False, True])
def test_a_manifest_s_digest_means_its_image_also_where_manifests_are_blobs(
    among_blobs: bool, serve: Callable[..., Site]
) -> None:
    content = manifest(SHA256, size_bytes=len(SIF), title="x.sif")
    files = {f"/v2/lab/ca/manifests/sha256:{of(content)}": content}
    if among_blobs:
        files[f"/v2/lab/ca/blobs/sha256:{of(content)}"] = content
    found = resolve(at(serve(content=b"", files=files), sha256=of(content)), login=None)
    assert (found.sha256, found.size_bytes) == (SHA256, len(SIF))


def test_a_manifest_of_another_kind_among_the_blobs_is_no_image(serve: Callable[..., Site]) -> None:
    content = json.dumps({"layers": []}).encode()
    files = {f"/v2/lab/ca/{kind}/sha256:{of(content)}": content for kind in ("blobs", "manifests")}
    with pytest.raises(CaHpcError, match="no image of Apptainer's"):
        resolve(at(serve(content=b"", files=files), sha256=of(content)), login=None)


@pytest.mark.parametrize(
    ("size", "statuses", "requests"),
    [(len(SIF), [], 2), (len(SIF), [500], 2), ((4 << 20) + 1, [], 1)],
)
def test_a_file_s_digest_is_known_by_one_request_if_it_is_too_large_for_a_manifest(
    size: int, statuses: list[int], requests: int, serve: Callable[..., Site]
) -> None:
    content = bytes(size)
    files = {f"/v2/lab/ca/blobs/sha256:{of(content)}": content}
    site = serve(content=b"", files=files, statuses=statuses)
    found = resolve(at(site, sha256=of(content)), login=None)
    assert (found.sha256, found.size_bytes) == (of(content), size)
    assert len(site.script.seen) == requests


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [{"mediaType": LAYER, "size": 1, "digest": f"sha256:{SHA256}"}] * 2,
        [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 1,
          "digest": f"sha256:{SHA256}"}],
        [{"mediaType": LAYER, "size": 1, "digest": "sha256:../../etc/passwd"}],
        [{"mediaType": LAYER, "size": 1, "digest": None}],
        [{"mediaType": LAYER, "size": "1", "digest": f"sha256:{SHA256}"}],
        [{"mediaType": LAYER, "size": 10**400, "digest": f"sha256:{SHA256}"}],
        [{"mediaType": LAYER, "size": -5, "digest": f"sha256:{SHA256}"}],
        ["text"],
        None,
    ],
)  # fmt: skip
def test_what_is_no_sif_is_refused(layers: Any, serve: Callable[..., Site]) -> None:
    content = json.dumps({"layers": layers}).encode()
    with pytest.raises(CaHpcError, match="no image of Apptainer's"):
        resolve(at(serve(content=content)), login=None)


def test_a_manifest_nested_without_end_is_refused(serve: Callable[..., Site]) -> None:
    with pytest.raises(CaHpcError, match="no image of Apptainer's"):
        resolve(at(serve(content=b'{"layers": ' + b"[" * 200_000)), login=None)


def test_an_endless_manifest_is_not_read_into_memory(serve: Callable[..., Site]) -> None:
    site = serve(content=bytes(20 << 20), headers={"Content-Length": str(10**13)})
    with pytest.raises(CaHpcError, match=r"127\.0\.0\.1:\d+ sends more than 4 MiB"):
        resolve(at(site, tag="v1"), login=None)


def test_a_pull_that_breaks_off_goes_on_where_it_stopped(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(content=SIF, drop_after=[500_000], etag=f'"sha256:{SHA256}"')
    seen: list[tuple[int, int | None]] = []
    remote = Remote(at(site, tag="v1"), SHA256, len(SIF))
    file = pull(remote, tmp_path, login=None, progress=lambda *told: seen.append(told))
    assert file.read_bytes() == SIF
    assert site.script.ranges_asked[0] is None
    assert str(site.script.ranges_asked[1]).startswith("bytes=")
    assert seen[-1] == (len(SIF), len(SIF))


def test_bytes_other_than_the_digest_says_are_not_kept(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(content=SIF[:-1] + b"x")
    with pytest.raises(DigestMismatch) as refused:
        pull(Remote(at(site), SHA256, len(SIF)), tmp_path, login=None, progress=lambda *_: None)
    assert SHA256 in refused.value.message
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "asks for a login"), (403, "asks for a login"), (404, "no such image"),
        (429, "429"), (503, "503"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_at_once_with_the_next_move(
    status: int, told: str, serve: Callable[..., Site]
) -> None:
    site = serve(content=b"", statuses=[status], headers={"Retry-After": "99999999"})
    reference = at(site, tag="v1")
    with pytest.raises(CaHpcError, match=told) as refused:
        resolve(reference, login=None)
    assert str(reference) in refused.value.message and refused.value.hint
    missing = status == 404  # as of an image that is a file
    assert refused.value.exit_code == (ExitCode.DIGEST_MISMATCH if missing else ExitCode.USAGE)


def test_a_registry_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TRIES", 0)
    said = r"oras://127\.0\.0\.1:1/a:v1: cannot be reached: Connection refused"
    with pytest.raises(CaHpcError, match=said):
        resolve(InRegistry("127.0.0.1:1", "a", tag="v1"), login=None)


def test_a_failed_pull_speaks_of_images_not_of_weights(
    serve: Callable[..., Site], tmp_path: Path
) -> None:
    site = serve(content=b"", statuses=[403])
    with pytest.raises(CaHpcError) as refused:
        pull(Remote(at(site), SHA256, 1), tmp_path, login=None, progress=lambda *_: None)
    assert "image pull" in str(refused.value.hint) and "weights" not in str(refused.value.hint)


def test_what_is_pushed_has_the_digest_of_its_bytes_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(SIF)
    reference = InRegistry("127.0.0.1:1", "a", sha256="0" * 64)
    with pytest.raises(CaHpcError, match="follows from the image"):
        push(tmp_path / "x.sif", reference, sha256=SHA256, login=None, progress=lambda *_: None)


@pytest.mark.parametrize(
    "place", ["https://127.0.0.1:1/up", "http://example.org/up", "//example.org/up", "http://[foo"]
)
def test_an_image_is_uploaded_to_its_registry_and_nowhere_else(
    place: str, serve: Callable[..., Site], tmp_path: Path
) -> None:
    (tmp_path / "x.sif").write_bytes(SIF)
    site = serve(content=b"", upload_to=place)
    with pytest.raises(CaHpcError, match="to another address than its own"):
        push(tmp_path / "x.sif", at(site), sha256=SHA256, login=None, progress=lambda *_: None)
    assert site.script.uploaded == [b""]


def test_an_upload_goes_where_its_registry_says(serve: Callable[..., Site], tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(SIF)
    site = serve(content=b"", upload_to="/elsewhere?part=1")
    push(tmp_path / "x.sif", at(site), sha256=SHA256, login=None, progress=lambda *_: None)
    assert SIF in site.script.uploaded
