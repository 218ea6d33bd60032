"""Which images go: those that nothing needs, and nothing else."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc.errors import CaHpcError
from ca_hpc.images.collect import (
    GRACE_S,
    Outcome,
    Places,
    Unseen,
    collect,
    pinned_in,
    reasons_to_keep,
)
from ca_hpc.images.shelf import Shelf, Source, Use
from ca_hpc.store.lock import held

CONTENT = b"an image\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LATER = GRACE_S + 86400
NOWHERE = Places()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch/runs"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def shelf(tmp_path: Path, runs: Path) -> Shelf:
    shelf = Shelf(tmp_path / "store")
    bring_to(shelf, runs)
    return shelf


def bring_to(shelf: Shelf, runs: Path | None) -> Path:
    def bring(into: Path) -> Path:
        (into / "came").write_bytes(CONTENT)
        return into / "came"

    use = None if runs is None else Use.here(runs)
    file, _ = shelf.ensure(SHA256, Source(bring), use=use, say=lambda text: None)
    return file


def pin(run: Path, sha256: str = SHA256) -> None:
    run.mkdir(parents=True)
    image = {"path": "/store/image.sif", "sha256": sha256}
    (run / "workflow.json").write_text(json.dumps({"runtime": {"image": image}}))


def after(shelf: Shelf, seconds: float, *, places: Places = NOWHERE) -> Outcome:
    """What becomes of the one image so many seconds later; it is deleted if nothing needs it."""
    (outcome,) = collect(shelf, now=time.time() + seconds, places=places, delete=True)
    return outcome


def another_run(runs: Path) -> None:
    """The folder is not empty: it can be judged."""
    pin(runs / "another-001", "0" * 64)


def test_an_image_of_a_deleted_run_goes_after_the_time_of_grace(shelf: Shelf, runs: Path) -> None:
    another_run(runs)
    kept = after(shelf, GRACE_S - 3600)
    assert kept.kept == ("added or asked for 29 days ago",) and not kept.removed
    assert shelf.file(SHA256).exists()
    gone = after(shelf, LATER)
    assert (gone.kept, gone.removed) == ((), True)
    assert shelf.entries() == ()
    assert not list(shelf.folder.glob(".removing-*"))


def test_without_delete_nothing_goes(shelf: Shelf, runs: Path) -> None:
    another_run(runs)
    (outcome,) = collect(shelf, now=time.time() + LATER, delete=False)
    assert (outcome.kept, outcome.removed) == ((), False)
    assert shelf.file(SHA256).exists()


def test_a_run_keeps_its_image_for_as_long_as_it_is_there(shelf: Shelf, runs: Path) -> None:
    pin(runs / "old-001")
    assert after(shelf, 100 * LATER).kept == (f"run {runs / 'old-001'}",)


def test_a_run_with_another_image_keeps_none(shelf: Shelf, runs: Path) -> None:
    pin(runs / "old-001", "0" * 64)
    assert after(shelf, LATER).removed


def test_a_name_keeps_an_image(shelf: Shelf) -> None:
    shelf.names.give("training", SHA256)
    assert "named training" in after(shelf, 100 * LATER).kept


def test_all_that_keeps_an_image_is_told(shelf: Shelf, runs: Path) -> None:
    shelf.names.give("training", SHA256)
    pin(runs / "old-001")
    assert after(shelf, 0).kept == (
        "named training",
        "added or asked for within the last 24 hours",
        f"run {runs / 'old-001'}",
    )


def test_runs_that_were_moved_are_looked_for_where_the_user_says(
    shelf: Shelf, runs: Path, tmp_path: Path
) -> None:
    another_run(runs)
    pin(tmp_path / "archive/old-001")
    kept = after(shelf, LATER, places=Places(runs=(str(tmp_path / "archive"),)))
    assert kept.kept == (f"run {tmp_path / 'archive/old-001'}",)


def test_where_there_are_no_runs_to_look_for_is_an_error(
    shelf: Shelf, runs: Path, tmp_path: Path
) -> None:
    pin(tmp_path / "archive/old-001")
    (tmp_path / "empty").mkdir()
    for name, told in (("nosuch", "no runs"), ("empty", "no runs"), ("archive/old-001", "a run")):
        with pytest.raises(CaHpcError, match=told) as refused:
            after(shelf, LATER, places=Places(runs=(str(tmp_path / name),)))
        assert str(tmp_path / name) in refused.value.message
        assert "--runs" in str(refused.value.hint)
    assert shelf.file(SHA256).exists()


def unmounted(runs: Path) -> None:
    """The mount point stays, empty."""


def moved(runs: Path) -> None:
    runs.rename(runs.with_name("runs-moved"))


def gone_with_its_parent(runs: Path) -> None:
    runs.parent.rename(runs.parent.with_name("elsewhere"))


def a_file(runs: Path) -> None:
    runs.rmdir()
    runs.write_text("")


@pytest.mark.parametrize("happens", [unmounted, moved, gone_with_its_parent, a_file])
def test_a_folder_that_may_just_not_be_mounted_keeps_the_image(
    shelf: Shelf, runs: Path, happens: Callable[[Path], None]
) -> None:
    happens(runs)
    (why,) = after(shelf, LATER).kept
    assert why.startswith(f"{runs}, where jobs were submitted to, is empty or gone")
    assert "--runs" in why and "--gone" in why
    assert not after(shelf, LATER, places=Places(gone=frozenset({"/another"}))).removed
    assert after(shelf, LATER, places=Places(gone=frozenset({str(runs)}))).removed


def test_a_folder_that_is_called_gone_and_is_there_is_looked_into(shelf: Shelf, runs: Path) -> None:
    pin(runs / "old-001")
    assert after(shelf, LATER, places=Places(gone=frozenset({str(runs)}))).kept


def test_a_use_that_cannot_be_read_keeps_the_image(shelf: Shelf) -> None:
    (entry,) = shelf.entries()
    (use,) = entry.uses.iterdir()
    use.write_text("{half")
    assert "cannot be read" in str(after(shelf, LATER).kept)


def test_who_asks_again_starts_the_time_of_grace_again(shelf: Shelf, runs: Path) -> None:
    (entry,) = shelf.entries()
    (use,) = entry.uses.iterdir()
    long_ago = time.time() - LATER
    another_run(runs)
    for asking in (runs, None):  # for runs, or for a name that is going to be given
        for path in (use, entry.uses, entry.file.parent):
            os.utime(path, (long_ago, long_ago))
        bring_to(shelf, asking)
        assert after(shelf, 0).kept == ("added or asked for within the last 24 hours",)


@pytest.mark.parametrize("delete", [True, False])
def test_an_image_that_this_user_cannot_remove_stays_where_it_is(
    shelf: Shelf, runs: Path, delete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    another_run(runs)
    (entry,) = shelf.entries()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (outcome,) = collect(shelf, now=time.time() + LATER, delete=delete)
    assert outcome.kept == (f"{entry.by} added it, and may remove it",)
    assert entry.file.exists()


def test_an_image_that_is_asked_for_at_this_moment_stays(shelf: Shelf, runs: Path) -> None:
    another_run(runs)
    parent, child = multiprocessing.Pipe()
    lock = shelf.folder / ".locks" / SHA256
    process = multiprocessing.get_context("fork").Process(target=hold, args=(lock, child))
    process.start()
    try:
        assert parent.recv() == "held"
        assert after(shelf, LATER).kept == ("asked for at this moment",)
    finally:
        parent.send("enough")
        process.join()
    assert after(shelf, LATER).removed


def hold(lock: Path, pipe: multiprocessing.connection.Connection) -> None:
    with held(lock, waiting=lambda: None):
        pipe.send("held")
        pipe.recv()


def test_what_a_killed_command_left_is_cleared(shelf: Shelf) -> None:
    part = shelf.folder / ".incoming" / f"{os.uname().nodename}-{os.getuid()}" / ("1" * 64)
    part.mkdir()
    (part / "blob.part").write_bytes(b"half")
    aside = shelf.folder / ".removing-1"
    aside.mkdir()
    collect(shelf, now=time.time(), delete=True)
    assert part.exists() and not aside.exists()
    collect(shelf, now=time.time() + LATER, delete=True)
    assert not part.exists()


def test_a_link_in_place_of_the_folder_for_what_comes_is_not_followed(
    shelf: Shelf, tmp_path: Path
) -> None:
    theirs = tmp_path / "home"
    (theirs / "thesis").mkdir(parents=True)
    (shelf.folder / ".incoming" / f"login9-{os.getuid()}").symlink_to(theirs)
    collect(shelf, now=time.time() + LATER, delete=True)
    assert (theirs / "thesis").exists()


def test_a_private_run_keeps_its_image() -> None:
    runs = {"/runs": Unseen.CLOSED}
    kept = reasons_to_keep(SHA256, names=(), idle_s=LATER, grace_s=GRACE_S, runs=runs)
    assert kept == ("/runs cannot be looked into from here",)


def test_what_is_in_a_folder_and_is_no_run_is_passed_over(runs: Path) -> None:
    (runs / "notes.txt").write_text(SHA256)
    (runs / "empty").mkdir()
    (runs / "pipe-001").mkdir()
    os.mkfifo(runs / "pipe-001/workflow.json")
    pin(runs / "b-001")
    assert pinned_in(str(runs)) == {SHA256: str(runs / "b-001")}


def test_users_and_a_collector_at_once_never_lose_an_image(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    fork = multiprocessing.get_context("fork")
    end = time.monotonic() + 2
    lost, collected = fork.Value("i", 0), fork.Value("i", 0)
    users = [
        fork.Process(target=use_it, args=(shelf, tmp_path / f"runs{i}", end, lost))
        for i in range(3)
    ]
    collector = fork.Process(target=collect_it, args=(shelf, end, collected))
    for process in (*users, collector):
        process.start()
    for process in (*users, collector):
        process.join()
    assert lost.value == 0
    assert collected.value > 0


def use_it(shelf: Shelf, runs: Path, end: float, lost: object) -> None:
    while time.monotonic() < end:
        pin(runs / "run-001")
        image = bring_to(shelf, runs)
        for _ in range(5):
            lost.value += not image.is_file()  # type: ignore[attr-defined]
            time.sleep(0.001)
        another = runs / "another-001"
        another.mkdir(exist_ok=True)  # an empty folder would keep the image
        (runs / "run-001/workflow.json").unlink()
        (runs / "run-001").rmdir()
        time.sleep(0.01)


def collect_it(shelf: Shelf, end: float, collected: object) -> None:
    while time.monotonic() < end:
        outcomes = collect(shelf, now=time.time() + 60, grace_s=0, delete=True)
        collected.value += sum(o.removed for o in outcomes)  # type: ignore[attr-defined]
        time.sleep(0.002)
