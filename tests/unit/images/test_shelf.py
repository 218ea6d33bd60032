"""The store of images: each once, whole or not there, shared as its root is."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.reference import InStore
from ca_hpc.images.shelf import Shelf, Source, Use, read_use, shelf_of

CONTENT = b"an image\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = b"another image\n" * 1000
OTHER_SHA256 = hashlib.sha256(OTHER).hexdigest()
USE = Use("/runs", "lab", "login1")

# Brings byte by byte as fast as it is told, and says what it found of an earlier try.
SLOW = """
import hashlib, sys, time
from pathlib import Path
from ca_hpc.images.shelf import Shelf, Source, Use

def bring(into):
    part = into / "part"
    print("had", part.stat().st_size if part.exists() else 0, flush=True)
    with part.open("ab") as stream:
        while stream.tell() < 9000:
            stream.write(b"an image\\n")
            stream.flush()
            time.sleep(float(sys.argv[2]))
    return part

file, brought = Shelf(Path(sys.argv[1])).ensure(
    hashlib.sha256(b"an image\\n" * 1000).hexdigest(), Source(bring),
    use=Use("/runs", "lab", "login1"), say=lambda text: print(text, flush=True))
print(file)
"""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "store")


@pytest.fixture
def shared(tmp_path: Path) -> Shelf:
    """In a store that an administrator gave to a group."""
    root = tmp_path / "lab"
    root.mkdir()
    root.chmod(0o2775)
    return Shelf(root)


def bringing(content: bytes) -> Callable[[Path], Path]:
    def bring(into: Path) -> Path:
        (into / "came").write_bytes(content)
        return into / "came"

    return bring


def no_need(into: Path) -> Path:
    raise AssertionError("it is there")


def add(shelf: Shelf, content: bytes = CONTENT, *, use: Use | None = USE) -> Path:
    sha256 = hashlib.sha256(content).hexdigest()
    return shelf.ensure(sha256, Source(bringing(content)), use=use, say=pytest.fail)[0]


def left(shelf: Shelf) -> list[str]:
    """What of images and of tries to bring them is there, without locks."""
    found = (path for path in shelf.folder.rglob("*") if path.is_file())
    names = (str(path.relative_to(shelf.folder)) for path in found)
    return sorted(name for name in names if not name.startswith(".locks"))


def test_an_image_is_brought_once_and_found_by_its_digest(shelf: Shelf) -> None:
    file = add(shelf)
    assert file == shelf.file(SHA256)
    assert file.read_bytes() == CONTENT
    again = shelf.ensure(SHA256, Source(no_need), use=USE, say=pytest.fail)
    assert again == (file, False)
    (entry,) = shelf.entries()
    assert (entry.sha256, entry.size_bytes, entry.names) == (SHA256, len(CONTENT), ())
    (use,) = entry.uses.iterdir()
    assert read_use(use) == USE


def test_other_bytes_than_the_digest_says_are_never_in_the_store(shelf: Shelf) -> None:
    with pytest.raises(DigestMismatch) as refused:
        shelf.ensure(SHA256, Source(bringing(OTHER)), use=USE, say=pytest.fail)
    assert f"sha256:{OTHER_SHA256}" in refused.value.message
    assert f"sha256:{SHA256}" in refused.value.message
    assert left(shelf) == []
    assert add(shelf).read_bytes() == CONTENT


def test_an_image_that_is_not_admitted_is_never_in_the_store(shelf: Shelf) -> None:
    def refuse(image: Path) -> None:
        assert image.read_bytes() == CONTENT
        raise CaHpcError("not signed")

    with pytest.raises(CaHpcError, match="not signed"):
        shelf.ensure(SHA256, Source(bringing(CONTENT), admit=refuse), use=USE, say=pytest.fail)
    assert left(shelf) == []


def test_a_failed_try_leaves_its_part_for_the_next_one(shelf: Shelf) -> None:
    def fail(into: Path) -> Path:
        (into / "part").write_bytes(CONTENT[:10])
        raise CaHpcError("the network is down")

    with pytest.raises(CaHpcError, match="network"):
        shelf.ensure(SHA256, Source(fail), use=USE, say=pytest.fail)
    assert not shelf.file(SHA256).exists()

    def go_on(into: Path) -> Path:
        part = into / "part"
        with part.open("ab") as stream:
            stream.write(CONTENT[part.stat().st_size :])
        return part

    shelf.ensure(SHA256, Source(go_on), use=USE, say=pytest.fail)
    assert shelf.file(SHA256).read_bytes() == CONTENT


def test_of_two_who_ask_at_once_one_brings_and_the_other_waits(shelf: Shelf) -> None:
    argv = (sys.executable, "-c", SLOW, str(shelf.root), "0.0005")
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted(process.communicate(timeout=60)[0].split()[0] for process in both)
    assert told in (["another", "had"], [str(shelf.file(SHA256)), "had"])


def test_after_a_kill_the_next_one_goes_on_and_nothing_half_is_ever_there(shelf: Shelf) -> None:
    argv = (sys.executable, "-c", SLOW, str(shelf.root))
    first = subprocess.Popen((*argv, "0.05"), stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "had 0\n"
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not shelf.file(SHA256).exists()
    assert shelf.entries() == ()
    second = subprocess.run((*argv, "0"), capture_output=True, text=True, timeout=60, check=True)
    had, *_ = second.stdout.splitlines()
    assert int(had.removeprefix("had ")) > 0
    assert shelf.file(SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["draft", ".draft", "image.sif", f"{SHA256}.draft"])
def test_what_came_may_have_any_name(shelf: Shelf, name: str) -> None:
    def bring(into: Path) -> Path:
        return Path(bringing(CONTENT)(into).rename(into / name))

    file, _ = shelf.ensure(SHA256, Source(bring), use=USE, say=pytest.fail)
    assert file.read_bytes() == CONTENT
    assert [name for name in left(shelf) if name.endswith(".sif")] == [f"{SHA256}/image.sif"]


def test_a_link_is_no_image(shelf: Shelf, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.sif"
    elsewhere.write_bytes(CONTENT)

    def bring(into: Path) -> Path:
        (into / "came").symlink_to(elsewhere)
        return into / "came"

    with pytest.raises(CaHpcError, match="is no file"):
        shelf.ensure(SHA256, Source(bring), use=USE, say=pytest.fail)
    assert not shelf.file(SHA256).exists()


def squat(incoming: Path, own: str, victim: Path) -> None:
    """A folder for all, as another user would put it there, with links that lead elsewhere."""
    (incoming / own / SHA256).mkdir(parents=True)
    (incoming / own / SHA256 / "came").symlink_to(victim)
    (incoming / own).chmod(0o777)


def link(incoming: Path, own: str, victim: Path) -> None:
    theirs = victim.with_name("theirs")
    (theirs / SHA256).mkdir(parents=True)
    (theirs / SHA256 / "came").symlink_to(victim)
    (incoming / own).symlink_to(theirs)


@pytest.mark.parametrize("lay", [squat, link])
def test_what_others_laid_ready_is_not_written_to(
    shared: Shelf, tmp_path: Path, lay: Callable[[Path, str, Path], None]
) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    incoming = shared.folder / ".incoming"
    incoming.mkdir(parents=True)
    lay(incoming, f"{os.uname().nodename}-{os.getuid()}", victim)
    file = add(shared)
    assert victim.read_text() == "precious"
    assert not file.is_symlink() and file.read_bytes() == CONTENT


def test_a_lock_that_is_a_link_makes_no_file_elsewhere(shared: Shelf, tmp_path: Path) -> None:
    (shared.folder / ".locks").mkdir(parents=True)
    (shared.folder / ".locks" / SHA256).symlink_to(tmp_path / "nologin")
    with pytest.raises(CaHpcError, match="cannot write to"):
        add(shared)
    assert not (tmp_path / "nologin").exists()


def test_where_locks_do_not_reach_a_second_one_takes_what_the_first_put_there(
    shelf: Shelf, tmp_path: Path
) -> None:
    """As on two nodes of a file system that locks within a node only."""

    def overtaken(into: Path) -> Path:
        node = tmp_path / "other-node"
        made = node / "entry"
        made.mkdir(parents=True)
        (made / "uses").mkdir()
        (made / "image.sif").write_bytes(CONTENT)
        made.replace(shelf.folder / SHA256)
        return bringing(CONTENT)(into)

    file, _ = shelf.ensure(SHA256, Source(overtaken), use=USE, say=pytest.fail)
    assert file.read_bytes() == CONTENT
    assert [name for name in left(shelf) if name.endswith(".sif")] == [f"{SHA256}/image.sif"]


# --- names ---------------------------------------------------------------------------------------


def test_a_name_stands_for_one_image_until_it_is_moved(shelf: Shelf) -> None:
    add(shelf)
    add(shelf, OTHER)
    shelf.names.give("training", SHA256)
    shelf.names.give("training", SHA256)
    with pytest.raises(DigestMismatch) as refused:
        shelf.names.give("training", OTHER_SHA256)
    assert SHA256 in refused.value.message and "--replace" in str(refused.value.hint)
    entry = shelf.find(InStore("training"))
    assert entry is not None and entry.sha256 == SHA256
    shelf.names.give("training", OTHER_SHA256, replace=True)
    entry = shelf.find(InStore("training"))
    assert entry is not None and (entry.sha256, entry.names) == (OTHER_SHA256, ("training",))


def test_a_name_with_a_digest_is_refused_when_the_name_has_moved(shelf: Shelf) -> None:
    add(shelf)
    shelf.names.give("training", SHA256)
    with pytest.raises(DigestMismatch) as refused:
        shelf.find(InStore("training", OTHER_SHA256))
    assert SHA256 in refused.value.message and OTHER_SHA256 in refused.value.message


def test_what_is_no_name_is_passed_over(shelf: Shelf, tmp_path: Path) -> None:
    add(shelf)
    shelf.names.give("training", SHA256)
    names = shelf.folder / "names"
    (names / "other").write_bytes("größer\n".encode("latin-1"))
    (names / "short").write_text(SHA256[:10])
    (names / "folder").mkdir()
    os.mkfifo(names / "pipe")
    (tmp_path / "a").write_text(SHA256)
    (names / "linked").symlink_to(tmp_path / "a")
    (names / "forged\x1b[2J").write_text(SHA256)
    assert shelf.names.all() == {"training": SHA256}
    (entry,) = shelf.entries()
    assert entry.names == ("training",)


def test_a_name_that_was_taken_away_is_free(shelf: Shelf) -> None:
    add(shelf)
    shelf.names.give("training", SHA256)
    shelf.names.take("training")
    assert shelf.names.all() == {} and shelf.file(SHA256).exists()
    shelf.names.give("training", OTHER_SHA256)
    with pytest.raises(CaHpcError, match="no name other"):
        shelf.names.take("other")


def test_a_pipe_in_place_of_a_use_is_none(shelf: Shelf) -> None:
    file = add(shelf)
    os.mkfifo(file.parent / "uses/pipe")
    assert read_use(file.parent / "uses/pipe") is None


def test_digits_that_several_images_begin_with_are_refused(shelf: Shelf) -> None:
    add(shelf)
    assert shelf.find(InStore(digits=SHA256[:8])) is not None
    assert shelf.find(InStore(digits="0" * 8)) is None
    assert shelf.find(InStore("nothing")) is None
    twin = shelf.folder / (SHA256[:8] + "0" * 56)
    twin.mkdir()
    (twin / "image.sif").write_bytes(b"")
    with pytest.raises(CaHpcError, match="2 images"):
        shelf.find(InStore(digits=SHA256[:8]))


# --- a group -------------------------------------------------------------------------------------


def test_a_store_of_a_group_is_open_to_it_whatever_the_umask(shared: Shelf) -> None:
    before = os.umask(0o077)
    try:
        add(shared)
        shared.names.give("training", SHA256)
    finally:
        os.umask(before)
    entry = shared.folder / SHA256
    (use,) = (entry / "uses").iterdir()
    modes = {
        shared.folder: 0o3775,
        shared.folder / ".locks": 0o2775,
        shared.folder / ".locks" / SHA256: 0o664,
        shared.folder / ".incoming": 0o3775,
        shared.folder / "names": 0o3775,
        shared.folder / "names/training": 0o644,
        entry: 0o2755,
        entry / "image.sif": 0o444,
        entry / "uses": 0o3775,
        use: 0o644,
    }
    assert {str(p): oct(stat.S_IMODE(p.stat().st_mode)) for p in modes} == {
        str(p): oct(mode) for p, mode in modes.items()
    }
    (own,) = (shared.folder / ".incoming").iterdir()
    assert stat.S_IMODE(own.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("mode", [0o2750, 0o2755, 0o775])
def test_a_store_that_its_group_may_not_write_to_or_inherit_is_ones_own(
    shared: Shelf, mode: int
) -> None:
    """A folder that is made below one with the setgid bit has it, too."""
    shared.root.chmod(mode)
    add(shared)
    shared.names.give("training", SHA256)
    for path in (shared.folder, shared.names.folder, shared.folder / ".incoming"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o1022, path


def test_a_store_of_the_group_alone_is_shared(shared: Shelf) -> None:
    shared.root.chmod(0o2770)
    add(shared)
    assert stat.S_IMODE(shared.names.folder.stat().st_mode) == 0o3775


def test_a_store_of_ones_own_is_as_private_as_the_umask_says(shelf: Shelf) -> None:
    before = os.umask(0o077)
    try:
        add(shelf)
    finally:
        os.umask(before)
    for path in (shelf.folder, shelf.folder / SHA256, shelf.folder / SHA256 / "uses"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_store_that_cannot_be_written_to_is_named_with_the_next_move(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(CaHpcError) as refused:
        add(Shelf(tmp_path / "store"))
    assert str(tmp_path / "store") in refused.value.message
    assert "CA_HPC_STORE" in str(refused.value.hint)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_where_no_use_can_be_noted_the_image_is_used_and_that_is_said(
    shelf: Shelf, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = add(shelf, use=None)

    def closed(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Shelf, "locked", closed)
    told: list[str] = []
    found = shelf.ensure(SHA256, Source(no_need), use=USE, say=told.append)
    assert found == (file, False)
    (said,) = told
    assert said.startswith(f"cannot note in {shelf.folder} that runs in /runs need image sha256:")
    assert "name" in said
    assert shelf.ensure(SHA256, Source(no_need), use=None, say=pytest.fail) == (file, False)


def test_the_store_that_a_file_lies_in_is_known_by_its_place(shelf: Shelf, tmp_path: Path) -> None:
    file = add(shelf)
    (tmp_path / "current.sif").symlink_to(file)
    for place in (file, tmp_path / "current.sif"):
        assert shelf_of(place, SHA256) == shelf
    assert shelf_of(file, OTHER_SHA256) is None
    copied = tmp_path / "images" / SHA256 / "image.sif"
    copied.parent.mkdir(parents=True)
    copied.write_bytes(CONTENT)  # without uses/: no store
    for place in (copied, Path("/x.sif"), tmp_path / "nosuch.sif"):
        assert shelf_of(place, SHA256) is None


def test_threads_of_one_process_do_not_see_half_an_image(shelf: Shelf) -> None:
    """POSIX locks are per process: of its threads only the step at the end protects."""
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            assert add(shelf).read_bytes() == CONTENT
        except BaseException as fault:
            faults.append(fault)

    add(shelf)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
