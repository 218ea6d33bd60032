"""Images through a real registry: the same bytes, one pull for all, nothing half, no secrets."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ca_hpc.images.credentials import AUTHFILE
from ca_hpc.images.shelf import Shelf
from tests.command_line import Shown, called
from tests.oci_registry import PASSWORD, USER, Registry, serving

CONTENT = b"#!/usr/bin/env run-singularity\n" + random.Random(1).randbytes(12_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TASKS = 50

# One of many: what a submission does, without the rest of it. A pause per chunk, if any.
ASK = """
import sys, time
from pathlib import Path
from ca_hpc.actions.image_pull import pull
from ca_hpc.actions.image_site import Site
from ca_hpc.images.reference import parse
from ca_hpc.images.shelf import Shelf, Use

def progress(done, total):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))

root = Path(sys.argv[1])
found = pull(parse(sys.argv[2]), site=Site(Shelf(root), None, root.parent / "cache"),
             use=Use.here(root / "runs"), progress=progress,
             say=lambda text: print("waiting", flush=True) if "waiting" in text else None)
print("image", found.sha256, found.brought)
"""


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login, cache or store of who runs the tests, and no proxy."""
    for name, place in (("HOME", "home"), ("CA_HPC_STORE", "store"), ("XDG_CACHE_HOME", "cache")):
        monkeypatch.setenv(name, str(tmp_path / place))
    for name in ("http_proxy", "https_proxy", "all_proxy", AUTHFILE):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with serving(tmp_path / "registry") as found:
        yield found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "ca.sif"
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "store")


@pytest.fixture
def ca_hpc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Shown]:
    return lambda *words: called("image", *map(str, words), monkeypatch=monkeypatch, capsys=capsys)


def pushed(ca_hpc: Callable[..., Shown], image: Path, to: str, *options: str) -> dict[str, str]:
    shown = ca_hpc("push", image, to, "--json", *options)
    assert shown.code == 0, shown
    return json.loads(shown.out)


def asking(shelf: Shelf, reference: str, *, pause_s: float = 0) -> subprocess.Popen[str]:
    argv = (sys.executable, "-c", ASK, str(shelf.root), reference, str(pause_s))
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def halves(shelf: Shelf) -> list[Path]:
    """Files in the store that hold a part of the image, or another one."""
    found = [path for path in shelf.folder.rglob("*.sif") if path.is_file()]
    return [path for path in found if path.read_bytes() != CONTENT]


def test_push_and_pull_by_digest_give_the_same_bytes(
    ca_hpc: Callable[..., Shown], registry: Registry, image: Path, shelf: Shelf
) -> None:
    told = pushed(ca_hpc, image, f"oras://{registry.host}/lab/ca:v1")
    assert told["sha256"] == SHA256
    assert told["reference"] == f"oras://{registry.host}/lab/ca@sha256:{SHA256}"
    by_manifest = f"oras://{registry.host}/lab/ca@{told['manifest']}"
    by_tag = f"oras://{registry.host}/lab/ca:sha256-{SHA256}"
    for number, reference in enumerate((told["reference"], told["tagged"], by_manifest, by_tag)):
        store = shelf.root.with_name(f"store{number}")
        shown = ca_hpc("pull", reference, "--store", store, "--json")
        assert shown.code == 0, shown
        assert Path(json.loads(shown.out)["file"]).read_bytes() == CONTENT
        assert json.loads(shown.out)["reference"] == told["reference"]


def test_what_is_there_is_not_sent_again(
    ca_hpc: Callable[..., Shown], registry: Registry, image: Path
) -> None:
    for tag in ("v1", "v2"):
        pushed(ca_hpc, image, f"oras://{registry.host}/lab/ca:{tag}")
    assert registry.log.count('"PUT /v2/lab/ca/blobs/uploads/') == 2  # the config and the image


def test_the_same_bytes_have_the_same_manifest_whatever_their_file_is_called(
    ca_hpc: Callable[..., Shown], registry: Registry, image: Path
) -> None:
    to = f"oras://{registry.host}/lab/ca:v1"
    first = pushed(ca_hpc, image, to)
    assert pushed(ca_hpc, image.rename(image.with_name("b.sif")), to) == first


def test_a_digest_goes_on_meaning_the_same_bytes_when_a_tag_has_moved(
    ca_hpc: Callable[..., Shown], registry: Registry, image: Path
) -> None:
    tag = f"oras://{registry.host}/lab/ca:latest"
    told = pushed(ca_hpc, image, tag)
    image.write_bytes(CONTENT[:-1] + b"x")
    other = hashlib.sha256(image.read_bytes()).hexdigest()
    refused = ca_hpc("push", image, tag)
    assert refused.code == 3 and SHA256 in refused.err and other in refused.err
    assert json.loads(ca_hpc("pull", tag, "--json").out)["sha256"] == SHA256
    assert pushed(ca_hpc, image, tag, "--replace")["sha256"] == other
    assert json.loads(ca_hpc("pull", tag, "--json").out)["sha256"] == other
    by_digest = json.loads(ca_hpc("pull", told["reference"], "--json").out)
    assert Path(by_digest["file"]).read_bytes() == CONTENT


def test_fifty_tasks_that_ask_at_once_make_one_pull(
    ca_hpc: Callable[..., Shown], registry: Registry, image: Path, shelf: Shelf
) -> None:
    told = pushed(ca_hpc, image, f"oras://{registry.host}/lab/ca:v1")
    tasks = [asking(shelf, told["tagged"], pause_s=0.1) for _ in range(TASKS)]
    ended = [task.communicate(timeout=300)[0].splitlines() for task in tasks]
    assert sorted(lines[-1] for lines in ended) == [
        *[f"image {SHA256} False"] * (TASKS - 1),
        f"image {SHA256} True",
    ]
    assert sum("waiting" in lines for lines in ended) > 1
    assert registry.pulls(SHA256) == [200]
    assert shelf.file(SHA256).read_bytes() == CONTENT and halves(shelf) == []


def test_a_pull_killed_half_way_leaves_nothing_to_use_and_the_next_one_goes_on(
    ca_hpc: Callable[..., Shown], registry: Registry, image: Path, shelf: Shelf
) -> None:
    told = pushed(ca_hpc, image, f"oras://{registry.host}/lab/ca:v1")
    first = asking(shelf, told["reference"], pause_s=0.05)
    assert first.stdout is not None
    while int(first.stdout.readline()) < len(CONTENT) // 2:
        pass
    first.kill()
    first.wait()
    assert shelf.entries() == () and halves(shelf) == []
    others = [asking(shelf, told["reference"]) for _ in range(5)]
    ended = [task.communicate(timeout=120)[0].splitlines() for task in others]
    assert sorted(lines[-1] for lines in ended) == [f"image {SHA256} False"] * 4 + [
        f"image {SHA256} True"
    ]
    (pulled,) = (lines for lines in ended if lines[-1].endswith("True"))
    assert int(pulled[0]) > len(CONTENT) // 2  # what it began with was not fetched again
    assert registry.pulls(SHA256) == [200, 206]
    assert shelf.file(SHA256).read_bytes() == CONTENT and halves(shelf) == []


def test_a_byte_that_the_registry_lost_is_noticed_before_anybody_uses_it(
    ca_hpc: Callable[..., Shown], registry: Registry, image: Path, shelf: Shelf
) -> None:
    told = pushed(ca_hpc, image, f"oras://{registry.host}/lab/ca:v1")
    with registry.blob(SHA256).open("r+b") as stream:
        stream.seek(len(CONTENT) // 2)
        stream.write(bytes([CONTENT[len(CONTENT) // 2] ^ 1]))
    shown = ca_hpc("pull", told["reference"])
    assert shown.code == 3
    assert f"sha256:{SHA256}" in shown.err and shown.err.count("sha256:") >= 2
    assert shelf.entries() == () and halves(shelf) == []


def test_an_image_that_nobody_pushed_is_told_by_name(
    ca_hpc: Callable[..., Shown], registry: Registry
) -> None:
    reference = f"oras://{registry.host}/lab/nothing:v1"
    shown = ca_hpc("pull", reference)
    assert shown.code == 3
    assert reference in shown.err and "no such image" in shown.err


def write_login(file: Path, host: str, *, password: str = PASSWORD) -> Path:
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    file.chmod(0o600)
    return file


def test_a_private_registry_is_for_those_who_log_in_and_nothing_tells_the_password(
    ca_hpc: Callable[..., Shown], tmp_path: Path, image: Path, shelf: Shelf
) -> None:
    with serving(tmp_path / "private", private=True) as registry:
        to = f"oras://{registry.host}/lab/ca:v1"
        for shown in (ca_hpc("push", image, to), ca_hpc("pull", to)):
            assert shown.code == 2
            assert "asks for a login" in shown.err and "apptainer registry login" in shown.err
        wrong = write_login(tmp_path / "wrong.json", registry.host, password="other")
        shown = ca_hpc("push", image, to, "--authfile", wrong)
        assert shown.code == 2 and "refuses the login of lab" in shown.err
        assert "other" not in shown.err.replace(str(wrong), "")

        write_login(tmp_path / "home/.docker/config.json", registry.host)
        told = pushed(ca_hpc, image, to)
        shown = ca_hpc("pull", told["reference"], "--json")
        assert json.loads(shown.out)["sha256"] == SHA256
        assert PASSWORD not in f"{told}{shown}{registry.log}"
        kept = [path for path in shelf.root.rglob("*") if path.is_file()]
        assert not [path for path in kept if PASSWORD.encode() in path.read_bytes()]


def test_a_pull_says_what_a_job_writes_and_the_image_is_found_by_all_of_it(
    ca_hpc: Callable[..., Shown], registry: Registry, image: Path
) -> None:
    told = pushed(ca_hpc, image, f"oras://{registry.host}/lab/ca:v1")
    shown = ca_hpc("pull", told["tagged"], "--name", "training")
    spellings = [
        line.split()[1] for line in shown.out.splitlines() if line.strip().startswith("image:")
    ]
    assert spellings == ["training", told["reference"], f"sha256:{SHA256}"]
    before = registry.log
    for spelling in spellings:
        found = json.loads(ca_hpc("pull", spelling, "--json").out)
        assert (found["sha256"], found["brought"]) == (SHA256, False)
    time.sleep(0.1)
    assert registry.log == before  # without asking the registry
