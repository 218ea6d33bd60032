"""The store of weights: each once, found by what people know of it, whole or not there at all."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from ca_hpc.core.profile import Network
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.lock import held
from ca_hpc.weights import manifest as manifests
from ca_hpc.weights.manifest import Manifest, Source
from ca_hpc.weights.safetensors_file import read
from ca_hpc.weights.store import MANIFEST, TENSORS, Entry, WeightStore
from ca_hpc.weights.tensors import Tensor
from tests.checkpoints import network_of

FIRST: Final = "1" * 64
SECOND: Final = "2" * 64


def tensors(value: float, *, size: int = 6) -> dict[str, Tensor]:
    values = np.full(size, value, "<f4")
    one = Tensor("float32", (size,), lambda: memoryview(values.tobytes()))
    return {"encoder.weight": one, "decoder.encoder.weight": one}


def about(
    name: str = "model.zip",
    *,
    sha256: str = FIRST,
    profile: str | None = None,
    network: Network | None = None,
) -> Manifest:
    return Manifest(
        sha256="",
        source=Source(name=name, sha256=sha256),
        family="nnU-Net",
        channels=1,
        heads=2,
        tensors={},
        network=network,
        profile=profile,
    )


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path / "store")


def add(
    store: WeightStore, value: float, manifest: Manifest | None = None, *, replace: bool = False
) -> Entry:
    return store.add(tensors(value), manifest or about(), waiting=pytest.fail, replace=replace)


def files(folder: Path) -> list[str]:
    found = (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if not name.endswith(".lock"))


# --- what is kept --------------------------------------------------------------------------------


def test_tensors_and_manifest_are_kept_under_the_sha256_of_the_tensors(store: WeightStore) -> None:
    entry = add(store, 0.5, about(profile="mine"))
    assert entry.manifest.sha256 == sha256_file(entry.file)
    assert files(store.folder) == [
        f"{entry.manifest.sha256}/{MANIFEST}",
        f"{entry.manifest.sha256}/{TENSORS}",
    ]
    assert read(entry.file)["encoder.weight"].array().tolist() == [0.5] * 6
    assert list(store.entries()) == [entry]
    text = entry.file.with_name(MANIFEST).read_text()
    assert manifests.load(text, place="here") == entry.manifest


def test_the_same_tensors_of_two_files_are_kept_once_and_found_by_both(store: WeightStore) -> None:
    first = add(store, 0.5, about("a.zip", sha256=FIRST))
    second = add(store, 0.5, about("b.pth", sha256=SECOND))
    assert first.file == second.file
    assert len(list(store.entries())) == 1
    for sha in (FIRST, SECOND, first.manifest.sha256):
        found = store.find(f"sha256:{sha}")
        assert found is not None and found.file == first.file
    third = add(store, 0.5, about("a.zip", sha256=FIRST))
    assert third.manifest.source.name == "a.zip"
    assert [source.name for source in third.manifest.also_from] == ["b.pth"]


def test_a_name_is_not_lost_when_the_same_tensors_come_without_one(store: WeightStore) -> None:
    network = network_of("demo")
    add(store, 0.5, about(profile="mine", network=network))
    add(store, 0.5, about("bare.pth", sha256=SECOND))
    found = store.find("mine")
    assert found is not None
    assert found.manifest.network == network
    assert store.find(SECOND[:12]) == found


def test_a_name_given_later_keeps_the_network_that_was_read_first(store: WeightStore) -> None:
    network = network_of("demo")
    add(store, 0.5, about(network=network))
    named = add(store, 0.5, about("bare.pth", sha256=SECOND, profile="mine"))
    assert (named.manifest.profile, named.manifest.network) == ("mine", network)


def test_what_is_kept_can_be_read_by_a_group_whatever_the_umask(store: WeightStore) -> None:
    before = os.umask(0o077)
    try:
        entry = add(store, 0.5)
        add(store, 0.5, about("again.zip", sha256=SECOND))
    finally:
        os.umask(before)
    for file in (entry.file, entry.file.with_name(MANIFEST)):
        assert file.stat().st_mode & 0o777 == 0o644
    assert entry.file.parent.stat().st_mode & 0o777 == 0o755


# --- names ---------------------------------------------------------------------------------------


def test_weights_are_found_by_profile_and_by_the_beginning_of_a_sha256(
    store: WeightStore,
) -> None:
    other = add(store, 0.25, about("other.zip", sha256=SECOND, profile="other"))
    entry = add(store, 0.5, about(sha256="ab" * 32, profile="mine"))
    assert store.find("other") == other
    assert store.find("mine") == entry
    for sha256 in ("ab" * 32, entry.manifest.sha256):
        for given in (sha256, f"sha256:{sha256}", sha256[:8], f"sha256:{sha256[:9].upper()}"):
            assert store.find(given) == entry


@pytest.mark.parametrize("name", ["", "sha256:", "min", "1111111", "sha256:1111111", "33333333"])
def test_a_part_of_a_name_and_a_few_digits_name_nothing(store: WeightStore, name: str) -> None:
    add(store, 0.5, about(profile="mine"))
    assert store.find(name) is None


def test_a_beginning_that_two_share_is_refused_with_both(store: WeightStore) -> None:
    add(store, 0.25, about("a.zip", sha256="abcdef12" + "0" * 56))
    add(store, 0.5, about("b.zip", sha256="abcdef12" + "1" * 56))
    with pytest.raises(CaHpcError, match="names 2 weights") as refused:
        store.find("sha256:abcdef12")
    assert "(a.zip)" in refused.value.message and "(b.zip)" in refused.value.message
    assert refused.value.hint == "name one by more digits of its sha256"
    assert store.find("sha256:abcdef121") is not None


def test_a_name_that_means_other_weights_by_now_is_refused(store: WeightStore) -> None:
    old = add(store, 0.25, about("v1.zip", sha256=FIRST, profile="mine"))
    with pytest.raises(DigestMismatch) as refused:
        add(store, 0.5, about("v1.zip", sha256=SECOND, profile="mine"))
    assert refused.value.exit_code == 3
    assert FIRST in refused.value.message and SECOND in refused.value.message
    assert "--replace" in (refused.value.hint or "")
    assert list(store.entries()) == [old]
    assert len(files(store.folder)) == 2


def test_a_name_is_moved_on_request_and_the_old_weights_stay(store: WeightStore) -> None:
    old = add(store, 0.25, about("v1.zip", sha256=FIRST, profile="mine"))
    new = add(store, 0.5, about("v1.zip", sha256=SECOND, profile="mine"), replace=True)
    assert store.find("mine") == new
    nameless = store.find(FIRST)
    assert nameless is not None
    assert nameless.manifest == dataclasses.replace(old.manifest, profile=None)
    store.verify(nameless, cache=None)


def test_weights_that_have_another_name_keep_it_unless_told(store: WeightStore) -> None:
    add(store, 0.5, about(profile="mine"))
    with pytest.raises(DigestMismatch, match=r"stored as mine, not other ones for yours"):
        add(store, 0.5, about(profile="yours"))
    assert store.find("mine") is not None
    add(store, 0.5, about(profile="yours"), replace=True)
    assert store.find("mine") is None and store.find("yours") is not None


def test_an_empty_store_holds_and_finds_nothing(store: WeightStore) -> None:
    assert list(store.entries()) == []
    assert store.find("mine") is None
    assert not store.root.exists()


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone"])
def test_damaged_tensors_are_found_and_healed_by_adding_again(
    store: WeightStore, tmp_path: Path, damage: str
) -> None:
    entry = add(store, 0.5)
    cache = tmp_path / "cache.json"
    store.verify(entry, cache=cache)
    whole = entry.file.read_bytes()
    if damage == "gone":
        entry.file.unlink()
    else:
        entry.file.write_bytes(whole[:-1] + b"\1" if damage == "changed" else whole[:-1])
    for known in (cache, None):
        with pytest.raises(DigestMismatch) as refused:
            store.verify(entry, cache=known)
        assert str(entry.file) in refused.value.message
        assert refused.value.hint == "add the weights again: ca-hpc weights add"
    again = add(store, 0.5)
    store.verify(again, cache=cache)
    assert entry.file.read_bytes() == whole


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"{", b"\xff\xfe", b'{"format": 2}', b"null"]
)
def test_a_damaged_manifest_is_named_with_the_way_out(store: WeightStore, content: bytes) -> None:
    file = add(store, 0.5).file.with_name(MANIFEST)
    file.write_bytes(content)
    with pytest.raises(CaHpcError) as refused:
        store.find("mine")
    assert str(file) in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.hint == "delete its folder and add the weights again: ca-hpc weights add"


def test_a_manifest_that_is_gone_is_written_again(store: WeightStore) -> None:
    entry = add(store, 0.5)
    entry.file.with_name(MANIFEST).unlink()
    assert list(store.entries()) == []
    assert add(store, 0.5) == entry
    assert list(store.entries()) == [entry]


# --- several processes, and those that die -------------------------------------------------------

ADDING: Final = """
import sys
from pathlib import Path
from tests.unit.weights.test_store import about, tensors
from ca_hpc.weights.store import WeightStore
from ca_hpc.weights.tensors import Tensor

def slowly():
    print("writing", flush=True)
    sys.stdin.readline()
    return memoryview(bytes(4))

given = {**tensors(float(sys.argv[2])), "last": Tensor("float32", (1,), slowly)}
waiting = lambda: print("waiting", flush=True)
WeightStore(Path(sys.argv[1])).add(given, about(profile="mine"), waiting=waiting)
"""

FINDING: Final = """
import sys
from pathlib import Path
from ca_hpc.weights.store import WeightStore
print(WeightStore(Path(sys.argv[1])).find("mine").file)
"""


def adding(store: WeightStore, value: float) -> subprocess.Popen[str]:
    """Another process, which stops while it writes and goes on when it is told to."""
    argv = [sys.executable, "-c", ADDING, str(store.root), str(value)]
    return subprocess.Popen(
        argv,
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return (line.strip() for line in process.stdout)


def test_an_addition_that_is_killed_leaves_nothing(store: WeightStore) -> None:
    process = adding(store, 0.5)
    assert next(said(process)) == "writing"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(store.entries()) == []
    assert store.find("mine") is None
    entry = add(store, 0.25)  # sweeps up what is left of the other
    assert files(store.folder) == sorted(
        f"{entry.manifest.sha256}/{name}" for name in (MANIFEST, TENSORS)
    )


def test_an_addition_that_fails_leaves_nothing(store: WeightStore) -> None:
    def gone() -> memoryview:
        raise CaHpcError("the file became shorter")

    broken = {**tensors(0.5), "last": Tensor("float32", (1,), gone)}
    with pytest.raises(CaHpcError, match="became shorter"):
        store.add(broken, about(profile="mine"), waiting=pytest.fail)
    assert files(store.folder) == []
    assert list(store.folder.glob("*adding*")) == []


def test_two_processes_add_one_after_the_other(store: WeightStore) -> None:
    first = adding(store, 0.5)
    assert next(said(first)) == "writing"
    second = adding(store, 0.5)
    words = said(second)
    assert next(words) == "waiting"
    first.communicate("go on\n", timeout=60)
    assert next(words) == "writing"
    second.communicate("go on\n", timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    (entry,) = store.entries()
    store.verify(entry, cache=None)


def test_readers_do_not_wait_for_an_addition(store: WeightStore) -> None:
    entry = add(store, 0.5, about(profile="mine"))
    argv = [sys.executable, "-c", FINDING, str(store.root)]
    with held(store.folder / ".lock", waiting=pytest.fail):
        found = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == str(entry.file)


# --- folders that may not be written -------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights", "downloads"])
def test_a_store_that_may_not_be_written_is_told_with_another(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()  # not even root makes a folder in it
    with pytest.raises(CaHpcError, match=r"cannot write to .*: Not a directory") as refused:
        WeightStore(tmp_path / "file").folder_for(name)
    assert refused.value.hint == "choose a folder that you may write to: --store FOLDER"


def test_a_store_of_others_is_read_and_not_written(store: WeightStore) -> None:
    entry = add(store, 0.5, about(profile="mine"))
    (store.folder / ".lock").unlink()
    (store.folder / ".lock").mkdir()  # stands for a file of others, which would not stop root
    assert store.find("mine") == entry
    store.verify(entry, cache=None)
    with pytest.raises(CaHpcError, match=r"cannot write to .*: Is a directory"):
        add(store, 0.25)
    assert list(store.entries()) == [entry]


def test_the_same_tensors_on_other_axes_are_not_taken_in_silence(store: WeightStore) -> None:
    ours = network_of("demo")
    theirs = dataclasses.replace(ours, axes=("SI", "AP", "RL"))
    add(store, 0.5, about(network=ours))
    with pytest.raises(CaHpcError, match="with other axes: RL, AP, SI, not SI, AP, RL"):
        add(store, 0.5, about("other.zip", sha256=SECOND, network=theirs))
    (kept,) = store.entries()
    assert kept.manifest.network == ours
    add(store, 0.5, about("other.zip", sha256=SECOND, network=theirs), replace=True)
    (kept,) = store.entries()
    assert kept.manifest.network == theirs


def test_a_store_that_may_not_be_read_is_not_an_empty_one(
    store: WeightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    add(store, 0.5)
    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read everything
    with pytest.raises(CaHpcError, match="cannot be read: Permission denied"):
        list(store.entries())
