"""A store of images that a group shares, as several users: who may add, use and remove."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import pytest

from ca_hpc.errors import CaHpcError
from ca_hpc.images.collect import collect
from ca_hpc.images.shelf import Shelf, Source, Use
from ca_hpc.store.archive import CASES, CLUSTER, KIND, RECORD, SPEC, Archive, Manifest
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.sealed_tar_writer import Content, write_sealed
from ca_hpc.store.shared import folder_of

T = TypeVar("T")

CONTENT = b"an image\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
# Nobody's, on any machine: no name need exist for them
GROUP: Final = 64010
ADDED, OTHER, OUTSIDER = 64001, 64002, 64003
LATER = 60 * 86400


@pytest.fixture
def root(root_only: None) -> Iterator[Path]:
    """As an administrator makes it: mkdir, chgrp, chmod 2775."""
    folder = Path(tempfile.mkdtemp(prefix="ca-hpc-store-"))
    folder.chmod(0o755)
    store = folder / "store"
    store.mkdir()
    os.chown(store, -1, GROUP)
    store.chmod(0o2775)
    yield store
    shutil.rmtree(folder)


def as_user(uid: int, body: Callable[[], T]) -> T:
    """What ``body`` returns or raises, run by a user with a private umask; none but ``OUTSIDER``
    is outside the group."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(uid, body, theirs))
    process.start()
    theirs.close()
    outcome = ours.recv()
    process.join()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _run(uid: int, body: Callable[[], T], out: multiprocessing.connection.Connection) -> None:
    group = uid if uid == OUTSIDER else GROUP
    os.setgroups([group])
    os.setgid(group)
    os.setuid(uid)
    os.umask(0o077)
    try:
        out.send(body())
    except CaHpcError as error:
        out.send(RuntimeError(error.message))
    except BaseException as error:
        out.send(error)


def add(root: Path) -> Path:
    def bring(into: Path) -> Path:
        (into / "came").write_bytes(CONTENT)
        return into / "came"

    use = Use.here(root.parent / "runs")
    file, _ = Shelf(root).ensure(SHA256, Source(bring), use=use, say=lambda text: None)
    return file


def ask(root: Path, *, say: Callable[[str], None] = lambda text: None) -> Path:
    def bring(into: Path) -> Path:
        raise AssertionError("it is there")

    use = Use.here(root.parent / "runs")
    file, _ = Shelf(root).ensure(SHA256, Source(bring), use=use, say=say)
    return file


def told(root: Path) -> list[str]:
    """What is said to somebody who asks."""
    found: list[str] = []
    ask(root, say=found.append)
    return found


def gone(root: Path) -> list[tuple[tuple[str, ...], bool]]:
    outcomes = collect(Shelf(root), now=time.time() + LATER, delete=True)
    return [(outcome.kept, outcome.removed) for outcome in outcomes]


def test_what_one_adds_all_of_the_group_use(root: Path) -> None:
    file = as_user(ADDED, lambda: add(root))
    assert as_user(OTHER, lambda: ask(root)) == file
    assert as_user(OTHER, file.read_bytes) == CONTENT
    uses = [path.name.split("-")[0] for path in (file.parent / "uses").iterdir()]
    assert sorted(uses) == [str(ADDED), str(OTHER)]


def test_nobody_but_who_added_it_changes_or_removes_an_image(root: Path) -> None:
    file = as_user(ADDED, lambda: add(root))
    as_user(ADDED, lambda: Shelf(root).names.give("training", "0" * 64))
    attempts: list[Callable[[], object]] = [
        lambda: file.write_bytes(b"other"),
        lambda: file.chmod(0o644),
        file.unlink,
        lambda: file.rename(file.with_name("aside")),
        lambda: file.parent.rename(file.parent.with_name("aside")),
        lambda: next((file.parent / "uses").iterdir()).unlink(),
        lambda: (root / "images/names/training").unlink(),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionError):
            as_user(OTHER, attempt)
    with pytest.raises(RuntimeError, match="cannot be given"):
        as_user(OTHER, lambda: Shelf(root).names.give("training", SHA256, replace=True))
    assert file.read_bytes() == CONTENT


def test_who_added_it_removes_it_with_the_uses_of_others(root: Path) -> None:
    file = as_user(ADDED, lambda: add(root))
    as_user(OTHER, lambda: ask(root))
    (root.parent / "runs/another-001").mkdir(parents=True)
    ((kept, removed),) = as_user(OTHER, lambda: gone(root))
    assert "added it, and may remove it" in str(kept) and not removed
    assert file.exists()
    assert as_user(ADDED, lambda: gone(root)) == [((), True)]
    assert not file.parent.exists() and not list((root / "images").glob(".removing-*"))
    assert as_user(OTHER, lambda: add(root)) == file  # and anybody brings it back


def test_the_owner_of_the_store_moves_nothing_that_is_another_s_to_remove(root: Path) -> None:
    as_user(ADDED, lambda: add(root))  # owns images/
    shutil.rmtree(root / "images" / SHA256)
    file = as_user(OTHER, lambda: add(root))
    (root.parent / "runs/another-001").mkdir(parents=True)
    assert as_user(ADDED, lambda: gone(root)) == [
        ((f"{OTHER} added it, and may remove it",), False)
    ]
    assert file.exists() and not list((root / "images").glob(".removing-*"))
    assert as_user(OTHER, lambda: gone(root)) == [((), True)]


def test_a_part_that_another_left_is_in_nobody_s_way(root: Path) -> None:
    def break_off() -> None:
        def bring(into: Path) -> Path:
            (into / "came").write_bytes(CONTENT[:3])
            raise CaHpcError("cut off")

        Shelf(root).ensure(SHA256, Source(bring), use=None, say=lambda text: None)

    with pytest.raises(RuntimeError, match="cut off"):
        as_user(ADDED, break_off)
    assert as_user(OTHER, lambda: add(root)).read_bytes() == CONTENT


def test_what_one_laid_ready_for_another_s_image_is_not_written_to(root: Path) -> None:
    """Links where another's command is going to write."""
    victim = root.parent / "victim"
    victim.write_text("precious")
    os.chown(victim, OTHER, -1)

    def lay() -> None:
        own = root / "images/.incoming" / f"{os.uname().nodename}-{OTHER}"
        (own / SHA256).mkdir(parents=True)
        (own / SHA256 / "came").symlink_to(victim)
        for folder in (own, own / SHA256):
            folder.chmod(0o777)

    as_user(ADDED, lambda: add(root))
    shutil.rmtree(root / "images" / SHA256)
    as_user(ADDED, lay)
    file = as_user(OTHER, lambda: add(root))
    assert victim.read_text() == "precious"
    assert not file.is_symlink() and file.stat().st_uid == OTHER


def test_names_are_taken_away_by_who_gave_them_and_by_the_owner_of_the_store(root: Path) -> None:
    as_user(ADDED, lambda: add(root))  # owns images/ and names/
    as_user(OTHER, lambda: Shelf(root).names.give("theirs", SHA256))
    as_user(ADDED, lambda: Shelf(root).names.give("ours", SHA256))
    with pytest.raises(RuntimeError, match=f"ask {ADDED}"):
        as_user(OTHER, lambda: unname(root, "ours"))
    as_user(ADDED, lambda: unname(root, "theirs"))
    as_user(ADDED, lambda: unname(root, "ours"))
    assert Shelf(root).names.all() == {}


def unname(root: Path, name: str) -> None:
    try:
        Shelf(root).names.take(name)
    except CaHpcError as error:
        raise CaHpcError(f"{error.message}: {error.hint}") from error


def packed(root: Path, content: Mapping[str, bytes]) -> Archive:
    file = root.parent / "study.tar"
    required = dict.fromkeys((RECORD, SPEC, CLUSTER, CASES), b"{}")
    members = [Content.of_bytes(name, raw) for name, raw in (required | dict(content)).items()]
    write_sealed(
        members,
        file,
        kind=KIND,
        manifest=lambda files: Manifest(1, "0", "neck-001", "kept", files),
        progress=lambda done, total: None,
    )
    file.chmod(0o644)
    return Archive.open(file)


def unpack(root: Path, archive: Archive) -> Path:
    into = folder_of(root, "archives") / archive.sha256
    archive.unpack(archive.files, into=into, cache=DigestCache(root / "nowhere" / "digests.json"))
    return into


def test_what_an_archive_brings_all_of_the_group_use(root: Path) -> None:
    archive = packed(root, {"trainers/deep/ours.py": b"pass"})
    into = as_user(ADDED, lambda: unpack(root, archive))
    assert as_user(OTHER, lambda: unpack(root, archive)) == into
    file = into / "trainers/deep/ours.py"
    assert as_user(OTHER, file.read_bytes) == b"pass"
    attempts: list[Callable[[], object]] = [
        lambda: file.write_bytes(b"other"),
        file.unlink,
        (file.parent / "more.py").touch,
        lambda: into.rename(into.with_name("aside")),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionError):
            as_user(OTHER, attempt)
    another = packed(root, {"trainers/deep/ours.py": b"import torch"})
    assert as_user(OTHER, lambda: unpack(root, another)) != into


def test_where_another_laid_links_nothing_is_unpacked(root: Path) -> None:
    archive = packed(root, {"trainers/.bashrc": b"evil"})
    home = root.parent / "home"
    home.mkdir()
    os.chown(home, OTHER, GROUP)

    def lay() -> None:
        into = folder_of(root, "archives") / archive.sha256
        into.mkdir()
        (into / "trainers").symlink_to(home)
        into.chmod(0o777)

    as_user(ADDED, lay)
    with pytest.raises(RuntimeError, match=archive.sha256):
        as_user(OTHER, lambda: unpack(root, archive))
    assert list(home.iterdir()) == []


def test_others_read_an_open_store_and_never_enter_a_closed_one(root: Path) -> None:
    file = as_user(ADDED, lambda: add(root))
    assert as_user(OUTSIDER, lambda: ask(root)) == file
    assert as_user(OTHER, lambda: told(root)) == []
    (said,) = as_user(OUTSIDER, lambda: told(root))
    assert said.startswith("cannot note in") and f"ask {ADDED} to give it a name" in said
    with pytest.raises(PermissionError):
        as_user(OUTSIDER, (file.parent / "uses/x").touch)
    root.chmod(0o2770)
    with pytest.raises(RuntimeError, match="cannot write to"):
        as_user(OUTSIDER, lambda: ask(root))
    with pytest.raises(RuntimeError, match="cannot be read"):
        as_user(OUTSIDER, Shelf(root).entries)
