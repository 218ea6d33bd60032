"""Files of recorded cases are found by what they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc.actions.relocate import Relocated, holding, relocate
from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.store.digests import DigestCache, sha256_file
from ca_hpc.store.pack_writer import write_pack
from ca_hpc.store.recorded_cases import recorded_cases
from ca_hpc.store.run_folder import RunFolder
from tests.rerunnable import rerunnable


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return rerunnable(tmp_path)


def found(run: RunFolder, *places: Path, former: bool = True) -> Relocated:
    cache = DigestCache(run.path / "cache.json")
    return relocate(
        recorded_cases(run),
        [holding(place, cache=cache) for place in places],
        former={case.id: case for case in run.cases.cases} if former else {},
        cache=cache,
    )


def used(run: RunFolder) -> tuple[Case, ...]:
    return tuple(case for case in run.cases.cases if case.person != "carl")


def test_where_they_were_nothing_has_changed(run: RunFolder) -> None:
    here = found(run)
    assert here.cases.cases == used(run)
    assert here.by_content == recorded_cases(run)
    assert here.changed == ()


def test_under_other_names_they_are_found_in_a_folder(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    for number, file in enumerate(sorted((tmp_path / "data").iterdir())):
        file.rename(tmp_path / f"elsewhere/deep/{number}.nii.gz")
    there = found(run, tmp_path / "elsewhere")
    assert there.by_content == recorded_cases(run)
    before = {case.id: Path(case.images[0]).name for case in used(run)}
    assert before.keys() == {case.id for case in there.cases.cases}
    assert all(Path(file).is_file() for case in there.cases.cases for file in case.files)


def test_in_a_pack_they_are_members(run: RunFolder, tmp_path: Path) -> None:
    study = replace(run.cases, cases=used(run), remarks=())
    write_pack(study, tmp_path / "study.tar", ca_hpc="0.1", progress=lambda done, total: None)
    there = found(run, tmp_path / "study.tar", former=False)
    assert {case.archive for case in there.cases.cases} == {str(tmp_path / "study.tar")}
    assert there.by_content == recorded_cases(run)


def test_a_changed_file_is_taken_from_elsewhere_or_told(run: RunFolder, tmp_path: Path) -> None:
    image = Path(used(run)[0].images[0])
    (tmp_path / "kept").mkdir()
    for file in used(run)[0].files:
        (tmp_path / "kept" / Path(file).name).write_bytes(Path(file).read_bytes())
    image.write_text("another image")
    told = found(run)
    assert told.by_content != recorded_cases(run)
    assert told.cases.cases == used(run)
    (sentence,) = told.changed
    assert sentence.startswith(f"file {image} is sha256:") and sentence.count("sha256:") == 2
    instead = found(run, tmp_path / "kept")
    assert instead.by_content == recorded_cases(run)
    assert instead.cases.cases[0].images == (str(tmp_path / "kept" / image.name),)


def test_what_is_nowhere_is_named(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    Path(used(run)[1].labels[0].path).unlink()
    name = used(run)[1].id
    with pytest.raises(
        CaHpcError, match=f"of 1 of 4 cases not all files are here: {name}"
    ) as refused:
        found(run, tmp_path / "nothing")
    assert f"label of {name} is nowhere, recorded is sha256:" in refused.value.message
    assert f"image of {name}" not in refused.value.message
    assert refused.value.exit_code == ExitCode.USAGE


def test_a_changed_file_in_a_folder_is_told_by_both_digests(run: RunFolder, tmp_path: Path) -> None:
    case = used(run)[0]
    (changed,) = (tmp_path / "data").glob(f"{case.id}.nii.gz")
    recorded = sha256_file(changed)
    changed.write_text("another image")
    with pytest.raises(DigestMismatch) as refused:
        found(run, tmp_path / "data", former=False)
    told = refused.value.message.splitlines()
    assert told == [
        f"of 1 of 4 cases not all files are here: {case.id}",
        f"image of {case.id} is nowhere, recorded is sha256:{recorded}",
        f"of another content: {changed} is sha256:{sha256_file(changed)}",
    ]


def test_images_and_labels_may_lie_in_two_folders(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for file in (tmp_path / "data").glob("*_seg.nii.gz"):
        file.rename(tmp_path / "labels" / file.name)
    for there in (
        found(run, tmp_path / "labels"),  # the images are where they were
        found(run, tmp_path / "data", tmp_path / "labels", former=False),
    ):
        assert there.by_content == recorded_cases(run)
        assert [case.images for case in there.cases.cases] == [case.images for case in used(run)]
        folders = {Path(case.labels[0].path).parent for case in there.cases.cases}
        assert folders == {tmp_path / "labels"}


def test_a_case_comes_whole_out_of_a_pack(run: RunFolder, tmp_path: Path) -> None:
    study = replace(run.cases, cases=used(run)[:1], remarks=())
    write_pack(study, tmp_path / "one.tar", ca_hpc="0.1", progress=lambda done, total: None)
    first, *others = used(run)
    Path(first.images[0]).unlink()
    there = found(run, tmp_path / "one.tar")
    assert there.cases.cases == (there.cases.cases[0], *others)
    assert there.cases.cases[0].archive == str(tmp_path / "one.tar")
    own = replace(others[0], images=first.images, id="other")
    study = replace(run.cases, cases=(own,), remarks=())
    Path(first.images[0]).write_text("another image")
    write_pack(study, tmp_path / "other.tar", ca_hpc="0.1", progress=lambda done, total: None)
    Path(others[0].labels[0].path).unlink()
    with pytest.raises(CaHpcError) as refused:
        found(run, tmp_path / "other.tar")
    assert refused.value.message.splitlines()[1] == (
        f"in several packs, or in a pack and beside it: {others[0].id}"
    )


def test_a_changed_file_of_a_case_that_is_not_whole_is_told_by_both_digests(
    run: RunFolder,
) -> None:
    case = used(run)[0]
    image, label = case.files
    recorded = sha256_file(Path(image))
    Path(image).write_text("another image")
    Path(label).unlink()
    with pytest.raises(DigestMismatch) as refused:
        found(run)
    _, first, second = refused.value.message.splitlines()
    assert first == (
        f"image of {case.id}, {image}, is sha256:{sha256_file(Path(image))}, "
        f"recorded is sha256:{recorded}"
    )
    assert second.startswith(f"label of {case.id} is nowhere, recorded is sha256:")


def test_links_to_folders_are_followed_and_none_in_a_circle(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links/study").symlink_to(tmp_path / "data")
    (tmp_path / "data/again").symlink_to(tmp_path / "links")
    there = found(run, tmp_path / "links", former=False)
    assert there.by_content == recorded_cases(run)


CUT: dict[str, Callable[[bytes], bytes]] = {
    "within a digest": lambda raw: raw[: raw.index(b"\n") + 60],
    "after a line": lambda raw: raw[: raw.index(b"\n") + 1],
    "no text": lambda raw: b"\xff" + raw,
    "nothing left": lambda raw: b"",
}


@pytest.mark.parametrize("how", CUT)
def test_a_damaged_table_of_cases_is_named(run: RunFolder, how: str) -> None:
    file = run.file("cases.tsv")
    file.write_bytes(CUT[how](file.read_bytes()))
    with pytest.raises(CaHpcError, match=r"cases\.tsv cannot be read"):
        recorded_cases(run)


def test_what_is_neither_folder_nor_pack_holds_no_data(run: RunFolder, tmp_path: Path) -> None:
    for place in (tmp_path / "neck.sif", tmp_path / "absent"):
        with pytest.raises(CaHpcError, match="neither a folder nor a pack"):
            found(run, place)
