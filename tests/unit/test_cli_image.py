"""``ca-hpc image``, as far as it needs neither Apptainer nor a registry."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import Call, called
from tests.sif import write_sif

WEEKS = 40 * 86400


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in (("HOME", "home"), ("CA_HPC_STORE", "store"), ("XDG_CACHE_HOME", "cache"),
                        ("PATH", "programs")):  # fmt: skip
        monkeypatch.setenv(name, str(tmp_path / place))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``ca-hpc image …``"""
    return lambda *words: called("image", *map(str, words), monkeypatch=monkeypatch, capsys=capsys)


@pytest.fixture
def sif(tmp_path: Path) -> Path:
    return write_sif(tmp_path / "ca.sif", contents=b"one")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def pulled(image: Callable[..., object], sif: Path, *options: str) -> Path:
    """The image in the store, as if it had been there for long."""
    shown = image("pull", sif, "--json", *options)
    assert shown.code == 0, shown  # type: ignore[attr-defined]
    file = Path(json.loads(shown.out)["file"])  # type: ignore[attr-defined]
    long_ago = time.time() - WEEKS
    for path in (file.parent / "uses", file.parent):
        os.utime(path, (long_ago, long_ago))
    return file


def test_a_file_is_taken_into_the_store_and_listed(image: Call, sif: Path, tmp_path: Path) -> None:
    shown = image("pull", sif.name, "--name", "training")
    assert shown.code == 0
    assert f"image: sha256:{sha256(sif)}" in shown.out and "image: training" in shown.out
    assert sif.exists()
    (row,) = json.loads(image("list", "--json").out)["images"]
    assert (row["sha256"], row["names"]) == (sha256(sif), ["training"])
    assert row["file"] == str(tmp_path / "store/images" / sha256(sif) / "image.sif")
    assert sha256(sif)[:12] in image("list").out


def test_an_empty_store_is_no_error(image: Call) -> None:
    for command in ("list", "verify"):
        shown = image(command)
        assert (shown.code, shown.err) == (0, "") and "no images in" in shown.out
    assert image("gc").code == 0


def test_a_name_is_not_taken_from_another_image_unasked(image: Call, sif: Path) -> None:
    image("pull", sif, "--name", "training")
    first = sha256(sif)
    write_sif(sif, contents=b"two")
    shown = image("pull", sif, "--name", "training")
    assert shown.code == 3
    assert first in shown.err and sha256(sif) in shown.err and "--replace" in shown.err
    assert image("pull", sif, "--name", "training", "--replace").code == 0
    found = json.loads(image("pull", "training", "--json").out)
    assert found["sha256"] == sha256(sif)


def test_a_name_that_is_taken_is_refused_before_anything_is_copied(
    image: Call, sif: Path, tmp_path: Path
) -> None:
    image("pull", sif, "--name", "training")
    write_sif(sif, contents=b"two")
    assert image("pull", sif, "--name", "training").code == 3
    assert not (tmp_path / "store/images" / sha256(sif)).exists()


def test_a_name_is_taken_away_and_its_image_stays(image: Call, sif: Path) -> None:
    image("pull", sif, "--name", "training")
    shown = image("unname", "training")
    assert (shown.code, shown.out) == (0, "taken away: training\n")
    (row,) = json.loads(image("list", "--json").out)["images"]
    assert (row["sha256"], row["names"]) == (sha256(sif), [])
    shown = image("unname", "training")
    assert shown.code == 2 and "no name training" in shown.err and "image list" in shown.err


@pytest.mark.parametrize("missing", ["training", f"sha256:{'0' * 64}", "nothing.sif"])
def test_an_image_that_is_not_there_is_the_same_error_however_it_is_named(
    missing: str, image: Call
) -> None:
    assert image("verify", missing).code == 3
    assert image("pull", missing).code == 3


def test_what_is_not_in_a_store_is_looked_for_there(image: Call, tmp_path: Path) -> None:
    store = tmp_path / "our lab"
    shown = image("pull", "training", "--store", store)
    assert f"ca-hpc image list --store '{store}'" in shown.err


def test_where_a_built_image_is_kept_is_said_with_its_name(image: Call, tmp_path: Path) -> None:
    """All before anything is built."""
    (tmp_path / "ours.yaml").write_text(
        "name: ours\nimages: {signatures: {keys: [/lab.pem], required: true}}\n"
    )
    for words, told in (
        (("--store", "lab"), "--name NAME; the folder of bases is --bases FOLDER"),
        (("--cluster", "ours.yaml"), "--name NAME"),
        (("--name", "training", "--cluster", "ours.yaml"), "a new one is not signed"),
        (("--name", "a/b"), "a/b is no name"),
    ):
        shown = image("build", "ca.sif", *words)
        assert shown.code == 2 and told in shown.err
    assert not (tmp_path / ".ca.sif.lock").exists()


def test_a_name_that_cannot_be_given_is_refused_before_anything_is_copied(
    image: Call, sif: Path, tmp_path: Path
) -> None:
    assert image("pull", sif, "--name", "a/b").code == 2
    assert not (tmp_path / "store").exists()


def test_a_changed_byte_is_found_though_its_times_were_set_back(image: Call, sif: Path) -> None:
    file = pulled(image, sif)
    assert image("verify").code == 0
    before = file.stat()
    file.chmod(0o644)
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for words in (("verify",), ("verify", f"sha256:{sha256(sif)}")):
        shown = image(*words)
        assert shown.code == 3
        assert sha256(sif) in shown.err and sha256(file) in shown.err


def lose_a_bit(file: Path, *, digests: Path) -> None:
    """As a disk does: of which stat(2) tells nothing, so that what is remembered still counts."""
    before = sha256(file)
    file.chmod(0o644)
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    seals = json.loads(digests.read_text())
    (seal,) = (each for each in seals["files"] if each["path"] == str(file))
    assert seal["sha256"] == before
    now = file.stat()
    seal["identity"] |= {"mtime_ns": now.st_mtime_ns, "ctime_ns": now.st_ctime_ns}
    digests.write_text(json.dumps(seals))


def test_what_verify_finds_damaged_is_mended_by_the_next_pull(
    image: Call, sif: Path, tmp_path: Path
) -> None:
    file = pulled(image, sif)
    (digests,) = tmp_path.rglob("digests.json")
    lose_a_bit(file, digests=digests)
    assert image("pull", sif).code == 0 and sha256(file) != sha256(sif)  # who does not read it
    assert image("verify").code == 3
    assert image("pull", sif).code == 0 and sha256(file) == sha256(sif)
    assert image("verify").code == 0


def test_all_that_is_damaged_is_told_whatever_else_cannot_be_told(
    image: Call, sif: Path, tmp_path: Path
) -> None:
    (tmp_path / "lab.pem").write_text("a key")
    whole, damaged = sif, write_sif(tmp_path / "b.sif", contents=b"two")
    pin = f"sha256:{'0' * 64}"
    words = (whole, "oras://h/a", f"{damaged}@{pin}", "nosuch", "--key", "lab.pem")
    shown = image("verify", *words)
    assert shown.code == 3
    for told in (f"signature of {whole}", "oras://h/a is in", pin, "no image nosuch"):
        assert told in shown.err
    shown = image("verify", whole, "oras://h/a", "--key", "lab.pem", "--json")
    assert shown.code == 2 and "oras://h/a is in a registry" in shown.err
    assert "signature of" in json.loads(shown.out)["error"]["message"]


def test_what_is_sound_is_told_behind_what_cannot_be_told(image: Call, sif: Path) -> None:
    shown = image("verify", "oras://h/a", sif)
    assert shown.code == 2 and f"{sif}: sha256:{sha256(sif)}" in shown.out


def test_a_file_that_nothing_is_recorded_of_is_not_called_as_recorded(
    image: Call, sif: Path
) -> None:
    shown = image("verify", sif)
    assert shown.code == 0 and "nothing is recorded of it" in shown.out
    (found,) = json.loads(image("verify", f"{sif}@sha256:{sha256(sif)}", "--json").out)[
        "as_recorded"
    ]
    assert (found["sha256"], found["recorded"]) == (sha256(sif), True)
    assert image("verify", f"{sif}@sha256:{'0' * 64}").code == 3


def test_gc_shows_what_could_go_and_removes_it_only_when_told(image: Call, sif: Path) -> None:
    named, idle = (
        pulled(image, sif, "--name", "training"),
        pulled(image, write_sif(sif, contents=b"two")),
    )
    shown = image("gc")
    assert shown.code == 0
    assert "kept: named training" in shown.out and "nothing needs it" in shown.out
    assert "1 of 2 images, 0 MB, could go: the same command with --delete" in shown.out
    assert named.exists() and idle.exists()
    rows = json.loads(image("gc", "--delete", "--json").out)["images"]
    assert {row["sha256"]: row["removed"] for row in rows} == {
        named.parent.name: False,
        idle.parent.name: True,
    }
    assert named.exists() and not idle.exists()
    for words in (("gc",), ("gc", "--delete")):
        shown = image(*words)
        assert shown.out.endswith("nothing to remove\n")


def test_an_image_that_was_pulled_again_is_not_removed_at_once(image: Call, sif: Path) -> None:
    idle = pulled(image, sif)
    assert "nothing needs it" in image("gc").out
    assert image("pull", f"sha256:{sha256(sif)}").code == 0
    assert "asked for within the last 24 hours" in image("gc", "--delete").out
    assert idle.exists()


def test_gc_of_an_empty_store_says_so(image: Call) -> None:
    assert image("gc").out.startswith("no images in ")


def test_gc_refuses_to_look_where_there_is_nothing(image: Call, sif: Path) -> None:
    idle = pulled(image, sif)
    shown = image("gc", "--delete", "--runs", "nosuch")
    assert shown.code == 2 and "nosuch has no runs in it" in shown.err
    assert idle.exists()


def test_gc_forgets_a_folder_that_is_called_gone(image: Call, sif: Path, tmp_path: Path) -> None:
    idle = pulled(image, sif)
    use = idle.parent / "uses/lab-1"
    use.write_text(json.dumps({"runs": f"{tmp_path}/old\nforged", "user": "lab", "host": "login1"}))
    long_ago = time.time() - WEEKS
    for path in (use, use.parent, idle.parent):
        os.utime(path, (long_ago, long_ago))
    shown = image("gc", "--delete")
    assert "is empty or gone" in shown.out and "\nforged" not in shown.out and idle.exists()
    shown = image("gc", "--delete", "--gone", "old\nforged/")
    assert shown.code == 0 and not idle.exists()


def test_gc_looks_for_runs_where_it_is_told(image: Call, sif: Path, tmp_path: Path) -> None:
    idle = pulled(image, sif)
    run = tmp_path / "moved/old-001"
    run.mkdir(parents=True)
    (run / "workflow.json").write_text(json.dumps({"sha256": sha256(sif)}))
    shown = image("gc", "--delete", "--runs", "moved")
    assert f"kept: run {run}" in shown.out and idle.exists()


def test_a_signature_that_is_asked_for_and_cannot_be_checked_lets_nothing_in(
    image: Call, sif: Path, tmp_path: Path
) -> None:
    (tmp_path / "lab.pem").write_text("a key")
    shown = image("pull", sif, "--key", "lab.pem")
    assert shown.code == 2 and "apptainer" in shown.err
    assert json.loads(image("list", "--json").out)["images"] == []


def test_only_a_registry_is_pushed_to(image: Call, sif: Path) -> None:
    shown = image("push", sif, "elsewhere.sif")
    assert shown.code == 2 and "oras://HOST/NAME:TAG" in shown.err


def test_the_store_of_a_cluster_is_used_where_one_is_named(
    image: Call, sif: Path, tmp_path: Path
) -> None:
    (tmp_path / "ours.yaml").write_text(
        f"name: ours\nfolders: {{store: {tmp_path}/other}}\nimages: {{store: {tmp_path}/lab}}\n"
    )
    found = json.loads(image("pull", sif, "--cluster", "ours.yaml", "--json").out)
    assert found["file"].startswith(f"{tmp_path}/lab/images/")


def test_the_lock_is_what_the_recipes_make_it(image: Call) -> None:
    shown = image("lock", "--check", "--json")
    assert shown.code == 0, shown
    assert json.loads(shown.out)["changed"] is False


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ("{signatures: {keys: []}}", "keys"),
        ("{signatures: {keys: [lab.pem]}}", "from /"),
        ("{signatures: {keys: [/lab.txt]}}", "public key"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(
    images: str, told: str, image: Call, tmp_path: Path
) -> None:
    (tmp_path / "ours.yaml").write_text(f"name: ours\nimages: {images}\n")
    shown = image("list", "--cluster", "ours.yaml")
    assert shown.code == 2 and told in shown.err
