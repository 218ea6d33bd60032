"""Archives: all that a rerun needs, nothing that names anybody, and nothing that was changed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.actions.archive import Archived, archive
from ca_hpc.actions.archived import of_archive
from ca_hpc.actions.image_pull import unpack
from ca_hpc.actions.image_site import Site
from ca_hpc.actions.original import Original, of_run
from ca_hpc.actions.relocate import holding, relocate
from ca_hpc.core.codec import encode
from ca_hpc.core.drift import data_fact, drift
from ca_hpc.core.record import Cases
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.record import read_image
from ca_hpc.images.shelf import Shelf
from ca_hpc.report.run_record import compose
from ca_hpc.store import archive as archives
from ca_hpc.store.archive import KIND, Archive, Manifest
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.sealed_tar_writer import Content, write_sealed
from ca_hpc.weights.store import WeightStore
from tests.recorded_run import MACHINE
from tests.rerunnable import PLANS, SUBJECTS, rerunnable


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return rerunnable(tmp_path)


def lay_wheel(folder: Path) -> None:
    (folder / "ca_hpc-0.1.0-py3-none-any.whl").write_bytes(b"wheel")


def archived(run: RunFolder, target: Path, **given: Any) -> Archived:
    usual = {"wheels": lay_wheel, "progress": lambda done, total: None}
    return archive(
        run,
        target,
        store=WeightStore(target.parent / "store"),
        cache=DigestCache(target.parent / "cache.json"),
        say=lambda text: None,
        **usual | given,
    )


def opened(file: Path, store: Path) -> Original:
    cache = DigestCache(store.parent / "cache.json")
    return of_archive(Archive.open(file), store=WeightStore(store), cache=cache)


def unpinned(facts: dict[str, str]) -> dict[str, str]:
    """Without what is named after cases or places."""
    return {k: v for k, v in facts.items() if k not in ("folder", "node", "splits.folds")}


def test_an_archive_tells_what_the_run_tells(tmp_path: Path, run: RunFolder) -> None:
    made = archived(run, tmp_path / "study.tar")
    assert made.left_out == ("images",)
    assert made.size_bytes == (tmp_path / "study.tar").stat().st_size
    was = of_run(run, compose(run), store=WeightStore(tmp_path / "store"))
    found = opened(tmp_path / "study.tar", tmp_path / "there")
    assert unpinned(found.facts) == unpinned(was.facts)
    assert found.of.sha256 == made.sha256
    assert found.plans == was.plans
    assert json.loads(found.splits) == [
        {"train": ["c0001", "c0002"], "val": ["c0003", "c0004"]},
        {"train": ["c0003", "c0004"], "val": ["c0001", "c0002"]},
    ]
    assert found.weights is not None
    assert Path(found.weights).read_bytes() == (tmp_path / "anna's model.pth").read_bytes()
    assert found.trainers is not None and list(Path(found.trainers).glob("*.py"))


def test_nothing_in_it_names_a_subject_or_a_place_here(tmp_path: Path, run: RunFolder) -> None:
    archived(run, tmp_path / "study.tar", images=True)
    raw = (tmp_path / "study.tar").read_bytes()
    for name in (*SUBJECTS, "carl", str(tmp_path), "/data", MACHINE.host):
        assert name.encode() not in raw, name
    archived(run, tmp_path / "named.tar", names="kept")
    assert b"s1-anna-1" in (tmp_path / "named.tar").read_bytes()


def test_equal_runs_give_equal_archives(tmp_path: Path, run: RunFolder) -> None:
    one, two = (archived(run, tmp_path / name) for name in ("one.tar", "two.tar"))
    assert one.sha256 == two.sha256
    Archive.open(one.file).verify(lambda done, total: None)


def test_with_images_it_needs_no_data_beside_it(tmp_path: Path, run: RunFolder) -> None:
    archived(run, tmp_path / "study.tar", images=True, without=["wheels"])
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    found = opened(tmp_path / "study.tar", tmp_path / "there")
    assert found.folder is not None
    cache = DigestCache(tmp_path / "cache.json")
    there = relocate(found.cases, [holding(found.folder, cache=cache)], former={}, cache=cache)
    assert data_fact(there.by_content) == data_fact(found.cases)


def test_parts_can_be_left_out_and_are_then_found_by_digest(tmp_path: Path, run: RunFolder) -> None:
    made = archived(run, tmp_path / "study.tar", without=["image", "weights", "wheels"])
    assert made.left_out == ("image", "weights", "wheels", "images")
    found = opened(tmp_path / "study.tar", tmp_path / "there")
    image, weights = run.workflow.runtime.image, run.pins.weights
    assert image is not None and weights is not None
    assert (found.image, found.weights) == (f"sha256:{image.sha256}", f"sha256:{weights.sha256}")


def site(tmp_path: Path) -> Site:
    return Site(Shelf(tmp_path / "there"), None, tmp_path / "cache")


def test_the_image_of_two_archives_comes_into_the_store_of_images_once(
    tmp_path: Path, run: RunFolder
) -> None:
    there, said = site(tmp_path), list[str]()
    for name in ("one", "two"):
        made = archived(run, tmp_path / f"{name}.tar")
        unpack(Archive.open(made.file), site=there, say=said.append)
    assert len([text for text in said if text.startswith("unpacking")]) == 1
    (entry,) = there.shelf.entries()
    assert entry.file.read_bytes() == (tmp_path / "neck.sif").read_bytes()
    assert read_image(entry.file).sha256 == entry.sha256
    assert opened(made.file, there.shelf.root).image == f"sha256:{entry.sha256}"
    assert list(there.shelf.root.rglob(archives.IMAGE)) == [entry.file]


def test_an_archive_without_an_image_brings_none(tmp_path: Path, run: RunFolder) -> None:
    made = archived(run, tmp_path / "study.tar", without=["image"])
    unpack(Archive.open(made.file), site=site(tmp_path), say=lambda text: None)
    assert site(tmp_path).shelf.entries() == ()


FLIPPED: dict[str, Callable[[RunFolder, Path], Path]] = {
    "image": lambda run, here: here / "neck.sif",
    "weights": lambda run, here: here / "anna's model.pth",
    "plans": lambda run, here: run.plans / PLANS,
    "splits": lambda run, here: run.file("splits.json"),
    "a trainer": lambda run, here: run.trainers / "my trainer.py",
    "an image of the data": lambda run, here: here / "data/s1-ben-1.nii.gz",
}


@pytest.mark.parametrize("what", FLIPPED)
def test_what_was_changed_is_not_archived(tmp_path: Path, run: RunFolder, what: str) -> None:
    file = FLIPPED[what](run, tmp_path)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DigestMismatch) as refused:
        archived(run, tmp_path / "study.tar", images=True)
    assert "is sha256:" in refused.value.message and "recorded is sha256:" in refused.value.message
    assert not (tmp_path / "study.tar").exists()


SECRET = '{"auths": "hunter2"}'


def linked(here: Path, file: Path) -> None:
    (here / "config.json").write_text(SECRET)
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    file.symlink_to(here / "config.json")


def arms(run: RunFolder, plans: str) -> None:
    run.write("arms.json", dict.fromkeys(run.spec.arms, plans))


FROM_OUTSIDE: dict[str, Callable[[RunFolder, Path], None]] = {
    "plans by a relative path": lambda run, here: arms(run, "../../../../../config"),
    "plans by an absolute path": lambda run, here: arms(run, str(here / "config")),
    "plans by a link": lambda run, here: linked(here, run.plans / PLANS),
    "splits by a link": lambda run, here: linked(here, run.file("splits.json")),
    "a trainer by a link": lambda run, here: linked(here, run.trainers / "c.py"),
}


@pytest.mark.parametrize("what", FROM_OUTSIDE)
def test_what_is_not_in_the_run_is_not_archived(tmp_path: Path, run: RunFolder, what: str) -> None:
    (tmp_path / "config.json").write_text(SECRET)
    for folder in (run.plans, run.path):
        (folder / "sealed.json").unlink()
    FROM_OUTSIDE[what](run, tmp_path)
    with pytest.raises(CaHpcError, match=r"no name of plans|a link leads to|none of the files"):
        archived(run, tmp_path / "study.tar")
    assert not (tmp_path / "study.tar").exists()


def test_plans_that_were_not_sealed_with_the_others_are_not_archived(
    tmp_path: Path, run: RunFolder
) -> None:
    (run.plans / "added.json").write_text(SECRET)
    arms(run, "added")
    with pytest.raises(CaHpcError, match=r"added\.json is none of the files that were sealed"):
        archived(run, tmp_path / "study.tar")


def test_trainers_are_those_that_were_sealed_at_submission(tmp_path: Path, run: RunFolder) -> None:
    added = run.trainers / "helper.py"
    added.write_text(SECRET)
    with pytest.raises(CaHpcError, match=r"helper\.py is none of the files that were sealed"):
        archived(run, tmp_path / "study.tar")
    added.unlink()
    assert "trainers/sealed.json" not in Archive.open(archived(run, tmp_path / "a.tar").file).files
    (run.trainers / "my trainer.py").unlink()
    with pytest.raises(CaHpcError, match=r"my trainer\.py is gone"):
        archived(run, tmp_path / "study.tar")


def test_a_trainer_in_a_run_without_trainers_was_never_its_own(
    tmp_path: Path, run: RunFolder
) -> None:
    shutil.rmtree(run.trainers)
    assert compose(run).trainers == ()
    archived(run, tmp_path / "a.tar")
    run.trainers.mkdir()
    (run.trainers / "mine.py").write_text("")
    assert compose(run).trainers == ()
    with pytest.raises(CaHpcError, match=r"mine\.py is none of the files that were sealed"):
        archived(run, tmp_path / "study.tar")


def test_what_changes_while_the_archive_is_made_is_not_archived(
    tmp_path: Path, run: RunFolder
) -> None:
    image = tmp_path / "neck.sif"

    def meanwhile(folder: Path) -> None:
        lay_wheel(folder)
        image.write_bytes(bytes(len(image.read_bytes())))

    with pytest.raises(DigestMismatch, match=r"image\.sif is sha256:\w+ now, and was sha256:"):
        archived(run, tmp_path / "study.tar", wheels=meanwhile)
    assert not (tmp_path / "study.tar").exists()


def test_an_archive_that_appears_meanwhile_stays(tmp_path: Path, run: RunFolder) -> None:
    other = archived(run, tmp_path / "other.tar", names="kept").file.read_bytes()
    target = tmp_path / "study.tar"

    def meanwhile(done: int, total: int | None) -> None:
        target.write_bytes(other)

    with pytest.raises(CaHpcError, match="is there already"):
        archived(run, target, progress=meanwhile)
    assert target.read_bytes() == other
    archived(run, target, progress=meanwhile, overwrite=True)
    assert target.read_bytes() != other


def test_where_the_file_system_has_no_links_it_is_archived_too(
    tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    Archive.open(archived(run, tmp_path / "study.tar").file).verify(lambda done, total: None)


def test_a_run_that_has_lost_its_nnunet_folder_is_archived(tmp_path: Path, run: RunFolder) -> None:
    before = archived(run, tmp_path / "before.tar")
    shutil.rmtree(run.file("nnunet"))
    assert archived(run, tmp_path / "after.tar").sha256 == before.sha256


def test_of_a_run_by_another_version_the_wheels_are_not_those_of_this_one(
    tmp_path: Path, run: RunFolder
) -> None:
    run.write("pins.json", replace(run.pins, ca_hpc="0.0.9"))
    with pytest.raises(CaHpcError, match=r"submitted by ca-hpc 0\.0\.9") as refused:
        archived(run, tmp_path / "study.tar")
    assert refused.value.hint == "archive it with ca-hpc 0.0.9, or --without wheels"
    made = archived(run, tmp_path / "study.tar", without=["wheels"])
    text = Archive.open(made.file).text(archives.README)
    assert "is a run of ca-hpc 0.0.9" in text and "With ca-hpc 0.0.9 installed" in text


def test_beside_the_image_only_its_record_is_archived(tmp_path: Path, run: RunFolder) -> None:
    linked(tmp_path, tmp_path / "neck.sif.json")
    made = archived(run, tmp_path / "study.tar")
    assert archives.IMAGE_RECORD not in Archive.open(made.file).files
    assert b"hunter2" not in made.file.read_bytes()


DAMAGED: dict[str, tuple[Callable[[RunFolder], Path], bytes]] = {
    "plans": (lambda run: run.plans / PLANS, b"\xff\xfe"),
    "test sets": (lambda run: run.file("test_sets.json"), b"\xff\xfe"),
    "splits": (lambda run: run.file("splits.json"), b"[1]"),
    "scores, cut": (lambda run: run.file("evaluation/scores.json"), b'[{"arm": "fine'),
    "scores of no case": (lambda run: run.file("evaluation/scores.json"), b""),
    "cases": (lambda run: run.file("cases.tsv"), b"case\timage_sha256"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_of_a_damaged_run_the_file_is_named(tmp_path: Path, run: RunFolder, what: str) -> None:
    find, raw = DAMAGED[what]
    file = find(run)
    if raw:
        file.write_bytes(raw)
    else:
        file.write_text(file.read_text().replace("s1-anna-1", "s1-dora-1"))
    for folder in (run.path, run.plans):
        (folder / "sealed.json").unlink()
    with pytest.raises(CaHpcError, match=r"cannot be read|none of its cases"):
        archived(run, tmp_path / "study.tar")
    assert not (tmp_path / "study.tar").exists()


def test_a_run_that_has_no_plans_yet_cannot_be_archived(tmp_path: Path, run: RunFolder) -> None:
    run.file("arms.json").unlink()
    with pytest.raises(CaHpcError, match="no plans that a rerun"):
        archived(run, tmp_path / "study.tar")
    run.write("arms.json", {"finetune": "nnUNetPlans"})
    with pytest.raises(CaHpcError, match="no plans of the arm scratch"):
        archived(run, tmp_path / "study.tar")


def test_what_is_unpacked_is_taken_again_and_repaired(tmp_path: Path, run: RunFolder) -> None:
    archived(run, tmp_path / "study.tar")
    first = opened(tmp_path / "study.tar", tmp_path / "there")
    assert first.weights is not None
    Path(first.weights).write_bytes(b"damaged")
    again = opened(tmp_path / "study.tar", tmp_path / "there")
    assert again.weights == first.weights
    assert Path(first.weights).read_bytes() == b"weights"
    left = [p for p in (tmp_path / "there").rglob("*") if ".unpacking" in p.name]
    assert left == []


def forged(source: Path, target: Path, *, manifest: Any = None, **texts: str) -> Path:
    """The archive with other members of these names, sealed anew; what the ``manifest`` says."""
    was = Archive.open(source)

    def content(name: str) -> Content:
        chunks = b"".join(was.chunks(name))
        return Content.of_bytes(name, texts.get(name, chunks.decode(errors="replace")).encode())

    def said(files: Any) -> Manifest:
        return replace(Manifest(1, "0.1", was.name, "kept", files), **manifest or {})

    write_sealed(
        [content(name) for name in was.files],
        target,
        kind=KIND,
        manifest=said,
        progress=lambda done, total: None,
    )
    return target


def hostile(cases: Cases) -> Iterator[tuple[str, dict[str, str]]]:
    first = cases.cases[0]
    renamed = replace(cases, cases=(replace(first, id="../x"), *cases.cases[1:]))
    yield "its id is none", {"cases.json": encode(renamed)}
    elsewhere = replace(cases, dataset="../../../../victim")
    yield "no name of a data set", {"cases.json": encode(elsewhere)}
    yield "no name of a test set", {"given/test_sets.json": '{"../up": []}'}
    yield "is no case", {"given/splits.json": '[{"train": ["c9"], "val": []}]'}
    yield "cannot be read", {"given/splits.json": "{"}
    yield "cannot be read", {"run.json": "{}"}
    yield "cannot be read", {"spec.json": '{"kind": "finetune"}'}
    yield "its image is none", {"image.sif": "another"}


def test_an_archive_of_somebody_elses_names_no_paths_here(tmp_path: Path, run: RunFolder) -> None:
    archived(run, tmp_path / "study.tar", without=["wheels"])
    cases = opened(tmp_path / "study.tar", tmp_path / "there").cases
    for number, (why, texts) in enumerate(hostile(cases)):
        bad = forged(tmp_path / "study.tar", tmp_path / f"{number}.tar", **texts)
        with pytest.raises(CaHpcError, match=why) as refused:
            opened(bad, tmp_path / "there")
        assert "\n" not in refused.value.message


def test_a_flipped_byte_in_an_archive_is_seen(tmp_path: Path, run: RunFolder) -> None:
    file = archived(run, tmp_path / "study.tar").file
    known = Archive.open(file)
    raw = bytearray(file.read_bytes())
    raw[known.start + known.member(archives.IMAGE).at] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DigestMismatch, match=archives.IMAGE):
        unpack(Archive.open(file), site=site(tmp_path), say=lambda text: None)
    assert not list((tmp_path / "there").rglob(archives.IMAGE))


def test_archived_twice_drifts_in_nothing_but_places(tmp_path: Path, run: RunFolder) -> None:
    archived(run, tmp_path / "one.tar")
    archived(run, tmp_path / "two.tar", names="kept")
    one, two = (opened(tmp_path / f"{name}.tar", tmp_path / "there") for name in ("one", "two"))
    others = [row.aspect for row in drift(one.facts, two.facts) if row.verdict != "same"]
    assert others == ["splits.folds", "folder"]
