"""Task assemble: prepared cases become one data set, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ca_hpc.core.data_spec import Crop, Folds, Label, PackSource, Prepare, Shares
from ca_hpc.core.record import Case
from ca_hpc.core.run_record import File, Rerun
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.orientation import to_orientation
from ca_hpc.sources.pack import packed_cases
from ca_hpc.steps.assemble import assemble
from ca_hpc.steps.prepare import prepare
from ca_hpc.store.digests import identity_of, sha256_file
from ca_hpc.store.given import Given, write_given
from ca_hpc.store.pack_writer import write_pack
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import read_seals
from tests.prepare_runs import (
    DATASET,
    call,
    case,
    contents,
    image,
    make,
    mask,
    pair,
    run_of,
    save,
)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return [pair(tmp_path / "data", f"sub-{index}", seed=index) for index in range(4)]


def small(folder: Path, cases: list[Case], **given: Any) -> RunFolder:
    return run_of(folder / "run", cases, **{"splits": Folds(2), **given})


def rows(run: RunFolder) -> dict[str, dict[str, str]]:
    with run.file("cases.tsv").open() as stream:
        return {row["case"]: row for row in csv.DictReader(stream, dialect="excel-tab")}


def names(folder: Path) -> set[str]:
    return {file.name.removesuffix(".nii.gz") for file in folder.iterdir()}


def test_image_and_label_of_each_case_are_there_once(tmp_path: Path, cases: list[Case]) -> None:
    run = small(tmp_path, cases)
    for shard in range(run.spec.prepare.shards):
        prepare(call(run, shard=shard))
    inodes = {file.stat().st_ino for file in run.prepared.rglob("*.nii.gz")}
    assemble(call(run))
    dataset = run.raw / DATASET
    assert names(dataset / "imagesTr") == {f"sub-{index}_0000" for index in range(4)}
    assert names(dataset / "labelsTr") == {f"sub-{index}" for index in range(4)}
    assert {file.stat().st_ino for file in dataset.rglob("*.nii.gz")} == inodes  # links
    assert [path.name for path in run.raw.iterdir()] == [DATASET]
    assert not run.prepared.exists()
    assert run.file("data.html").is_file()


def test_where_the_file_system_has_no_links_files_are_copied(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = contents(make(small(tmp_path / "linked", cases)))

    def refused(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refused)
    assert contents(make(small(tmp_path / "copied", cases))) == linked


def test_shards_and_workers_change_nothing(tmp_path: Path, cases: list[Case]) -> None:
    one = contents(make(small(tmp_path / "one", cases)))
    three = make(small(tmp_path / "three", cases, prepare=Prepare(shards=3)), cpus=2)
    assert contents(three) == one


def test_from_a_pack_it_is_the_same_data_set(tmp_path: Path, cases: list[Case]) -> None:
    cases = [  # two labels in one file
        replace(one, labels=tuple(replace(one.labels[0], label=name) for name in ("cord", "spine")))
        for one in cases
    ]
    labels = {"cord": Label(1), "spine": Label(2, from_values=(7,))}
    plain = small(tmp_path / "plain", cases, labels=labels)
    archive = tmp_path / "data.tar"
    write_pack(plain.cases, archive, ca_hpc="1", progress=lambda done, total: None)
    members = packed_cases(PackSource(type="pack", path=str(archive))).cases
    packed = small(tmp_path / "packed", list(members), labels=labels)
    assert contents(make(packed)) == contents(make(plain))
    assert packed.file("cases.tsv").read_text() == plain.file("cases.tsv").read_text()


def test_what_is_wrong_with_a_packed_file_names_pack_and_member(
    tmp_path: Path, cases: list[Case]
) -> None:
    save(mask(0), Path(cases[0].labels[0].path))
    Path(cases[1].images[0]).write_bytes(b"no image")
    plain = small(tmp_path / "plain", cases)
    archive = tmp_path / "data.tar"
    write_pack(plain.cases, archive, ca_hpc="1", progress=lambda done, total: None)
    members = packed_cases(PackSource(type="pack", path=str(archive))).cases
    run = small(
        tmp_path / "run",
        list(members),
        prepare=Prepare(on_error="skip", empty_label="skip"),
    )
    make(run)
    assert (
        rows(run)["sub-0"]["problem"] == f"{archive}: {members[0].labels[0].path}: no voxel of cord"
    )
    assert rows(run)["sub-1"]["problem"].startswith(f"{archive}: {members[1].images[0]}: cannot be")


def test_dataset_json_says_what_there_is_to_learn(tmp_path: Path, cases: list[Case]) -> None:
    run = small(tmp_path, cases, crop=Crop(margin=2.0))
    assert json.loads((make(run) / "dataset.json").read_text()) == {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "cord": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
        "image_orientation": "RPI",
        "crop": {"to": "cord", "margin_mm": 2.0},
    }


def test_regions_and_masks_are_in_dataset_json_in_the_form_of_nnunet(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    cases = []
    for index in range(2):
        picture, cord, lesion, canal = (
            save(array, tmp_path / "data" / f"{index}-{name}.nii.gz")
            for name, array in (
                ("i", image(index)), ("cord", mask()), ("lesion", mask(0)), ("canal", mask(255)),
            )
        )  # fmt: skip
        cases.append(case(f"c{index}", [picture], {"cord": cord, "lesion": lesion}, masks=(canal,)))
    run = small(
        tmp_path,
        cases,
        labels={"cord": Label(1), "lesion": Label(2)},
        regions={"cord": (1, 2), "lesion": (2,)},
        mask_channels={"canal": "_canal"},
    )
    found = json.loads((make(run) / "dataset.json").read_text())
    assert found["labels"] == {"background": 0, "cord": [1, 2], "lesion": 2}
    assert found["regions_class_order"] == [1, 2]
    # not normalised: a mask stays 0 and 1
    assert found["channel_names"] == {"0": "MRI", "1": "noNorm"}
    assert found["mask_channels"] == {"1": "canal"}
    voxels = int(mask().sum())
    assert rows(run)["c0"]["label_voxels"] == f"cord:{voxels},lesion:0"
    assert rows(run)["c0"]["volume_mm3"] == f"cord:{2.0 * voxels},lesion:0.0"
    assert len(rows(run)["c0"]["image_sha256"].split(",")) == 2


def test_what_was_cut_can_be_put_back(
    tmp_path: Path, cases: list[Case], capsys: pytest.CaptureFixture[str]
) -> None:
    run = small(tmp_path, cases, crop=Crop(to="cord", margin=1.0))
    dataset = make(run)
    for one in cases:
        whole = to_orientation(nib.load(one.labels[0].path), "RPI")
        cut = nib.load(dataset / "labelsTr" / f"{one.id}.nii.gz")
        sides = rows(run)[one.id]["crop_rpi"].split(",")
        back = np.zeros(whole.shape, dtype=np.uint8)
        back[tuple(slice(*map(int, side.split(":"))) for side in sides)] = np.asanyarray(
            cut.dataobj
        )
        np.testing.assert_array_equal(back, np.asanyarray(whole.dataobj))
        assert cut.shape < whole.shape
    assert "4 of them cut to cord and 1 mm on each side\n" in capsys.readouterr().out


# --- what each case is used for ------------------------------------------------------------------


def test_a_test_set_is_where_training_never_looks(tmp_path: Path) -> None:
    roles = {"a": None, "b": None, "c": "test", "d": "other-site"}
    cases = [
        pair(tmp_path / "data", name, seed=seed, split=role)
        for seed, (name, role) in enumerate(roles.items())
    ]
    run = small(tmp_path, cases)
    dataset = make(run)
    assert names(dataset / "labelsTr") == {"a", "b"}
    assert names(dataset / "imagesTs") == {"c_0000"} and names(dataset / "labelsTs") == {"c"}
    assert names(dataset / "imagesTs_other-site") == {"d_0000"}
    assert names(dataset / "labelsTs_other-site") == {"d"}
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 2
    assert run.test_sets == {"test": ("c",), "other-site": ("d",)}
    folds = json.loads(run.file("splits.json").read_text())
    assert {case for fold in folds for role in fold.values() for case in role} == {"a", "b"}
    table = rows(run)
    assert {name: row["split"] for name, row in table.items()} == {
        "a": "folds", "b": "folds", "c": "test", "d": "other-site",
    }  # fmt: skip
    for name in ("a", "b"):
        assert folds[int(table[name]["fold"])]["val"] == [name]


def test_of_one_division_the_table_says_train_and_val(tmp_path: Path, cases: list[Case]) -> None:
    run = small(tmp_path, cases, splits=Shares(train=0.75, val=0.25))
    make(run)
    (fold,) = json.loads(run.file("splits.json").read_text())
    assert {name for name, row in rows(run).items() if row["split"] == "train"} == {*fold["train"]}
    assert {name for name, row in rows(run).items() if row["split"] == "val"} == {*fold["val"]}


# --- what cannot be used -------------------------------------------------------------------------


def test_the_same_image_twice_is_told_with_both_files(tmp_path: Path, cases: list[Case]) -> None:
    again = nib.load(cases[1].images[0])
    turned = to_orientation(nib.Nifti1Image(again.get_fdata(), again.affine), "AIL")
    nib.save(turned, file := tmp_path / "data" / "renamed.nii")
    double = case("z", [str(file)], cases[1].labels[0].path)
    with pytest.raises(CaHpcError) as refused:
        make(small(tmp_path / "fail", [double, *cases]))
    told = f"{file}: holds the same image as {cases[1].images[0]}"
    assert refused.value.message == f"1 of 5 cases cannot be used\n{told}"
    run = small(tmp_path / "skip", [double, *cases], prepare=Prepare(on_error="skip"))
    assert names(make(run) / "labelsTr") == {f"sub-{index}" for index in range(4)}
    assert (rows(run)["z"]["split"], rows(run)["z"]["problem"]) == ("skipped", told)
    assert rows(run)["z"]["content_sha256"] == rows(run)["sub-1"]["content_sha256"]


def test_what_is_wrong_with_cases_and_with_the_splits_is_told_at_once(
    tmp_path: Path, cases: list[Case]
) -> None:
    Path(cases[0].images[0]).write_bytes(b"")
    places = [
        pair(tmp_path / "data", name, seed=20 + seed, person="one", split=split)
        for seed, (name, split) in enumerate((("x", "train"), ("y", "test")))
    ]
    with pytest.raises(CaHpcError) as refused:
        make(small(tmp_path, [*cases, *places]))
    lines = refused.value.message.split("\n")
    assert lines[0] == "1 of 6 cases cannot be used"
    assert lines[1].startswith(f"{cases[0].images[0]}: cannot be read")
    assert lines[2].startswith("one of s1 is in test and train")


def test_a_case_may_be_left_out_for_an_empty_label_without_being_a_failure(
    tmp_path: Path, cases: list[Case], capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(mask(0), Path(cases[3].labels[0].path))
    run = small(tmp_path, cases, prepare=Prepare(empty_label="skip"))
    assert names(make(run) / "labelsTr") == {"sub-0", "sub-1", "sub-2"}
    assert rows(run)["sub-3"]["problem"] == f"{file}: no voxel of cord"
    assert f"1 left out:\n{file}: no voxel of cord\n" in capsys.readouterr().out


def test_where_no_case_can_be_used_skipping_does_not_help(
    tmp_path: Path, cases: list[Case]
) -> None:
    for one in cases:
        Path(one.images[0]).write_bytes(b"")
    with pytest.raises(CaHpcError, match="4 of 4 cases cannot be used"):
        make(small(tmp_path, cases, prepare=Prepare(on_error="skip")))


def test_cases_of_different_numbers_of_channels_are_refused(
    tmp_path: Path, cases: list[Case]
) -> None:
    (one,) = cases[0].images
    second = save(image(77), tmp_path / "data" / "second.nii.gz")
    cases[0] = case("sub-0", [one, second], cases[0].labels[0].path)
    run = small(tmp_path, cases)
    with pytest.raises(CaHpcError, match=r"different numbers of channels: \[1, 2\]"):
        make(run)
    assert not list(run.raw.glob("*"))


# --- again ---------------------------------------------------------------------------------------


def test_again_nothing_is_written(
    tmp_path: Path, cases: list[Case], capsys: pytest.CaptureFixture[str]
) -> None:
    run = small(tmp_path, cases)
    make(run)
    before = {path: path.stat().st_mtime_ns for path in run.raw.rglob("*")}
    assemble(call(run))
    assert {path: path.stat().st_mtime_ns for path in run.raw.rglob("*")} == before
    assert capsys.readouterr().out.endswith("Dataset501_small is there already\n")


def test_what_shards_left_undone_is_done(tmp_path: Path, cases: list[Case]) -> None:
    whole = contents(make(small(tmp_path / "whole", cases)))
    run = small(tmp_path / "run", cases)
    prepare(call(run))
    (run.prepared / "records/sub-1.json").unlink()
    (run.prepared / "images/sub-2_0000.nii.gz").unlink()
    assemble(call(run))
    assert contents(run.raw / DATASET) == whole


def test_files_that_have_changed_make_another_data_set_and_no_mixture(
    tmp_path: Path, cases: list[Case]
) -> None:
    run = small(tmp_path, cases)
    first = contents(make(run))
    save(image(55), Path(cases[0].images[0]))
    second = contents(make(run))
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"imagesTr/sub-0_0000.nii.gz"}


def test_repaired_files_are_taken_by_the_next_attempt(tmp_path: Path, cases: list[Case]) -> None:
    good = Path(cases[0].images[0]).read_bytes()
    Path(cases[0].images[0]).write_bytes(good[:50])
    run = small(tmp_path, cases)
    with pytest.raises(CaHpcError):
        make(run)
    Path(cases[0].images[0]).write_bytes(good)
    assemble(call(run))
    assert len(names(run.raw / DATASET / "labelsTr")) == 4


def test_a_test_set_of_which_nothing_is_left_is_not_passed_over(
    tmp_path: Path, cases: list[Case]
) -> None:
    lost = pair(tmp_path / "data", "lost", seed=30, split="site-b")
    Path(lost.images[0]).write_bytes(b"")
    run = small(tmp_path, [lost, *cases], prepare=Prepare(on_error="skip"))
    with pytest.raises(CaHpcError, match="of the test set site-b no case can be used"):
        make(run)
    assert not list(run.raw.glob("*"))


def test_an_image_with_a_negative_zero_is_the_same_image(tmp_path: Path, cases: list[Case]) -> None:
    whole = nib.load(cases[1].images[0])
    values = whole.get_fdata(dtype=np.float32)
    values[values == 0] = -0.0
    values[0, 0, 0] = -0.0
    nib.save(nib.Nifti1Image(values, whole.affine), file := tmp_path / "data" / "float.nii.gz")
    values[0, 0, 0] = 0.0
    nib.save(nib.Nifti1Image(values, whole.affine), other := tmp_path / "data" / "plus.nii.gz")
    label = cases[1].labels[0].path
    doubles = [case("y", [str(file)], label), case("z", [str(other)], label)]
    with pytest.raises(CaHpcError, match="holds the same image as"):
        make(small(tmp_path, [*cases, *doubles]))


def test_splits_and_test_sets_are_sealed_with_the_data_set(
    tmp_path: Path, cases: list[Case]
) -> None:
    run = small(tmp_path, cases)
    make(run)
    sealed = {each.path: each for each in read_seals(run.file("sealed.json")).files}
    assert set(sealed) == {"splits.json", "test_sets.json"}
    for name, each in sealed.items():
        assert each.sha256 == sha256_file(run.file(name))
        assert each.identity == identity_of(run.file(name))


def test_a_rerun_is_divided_as_it_was_given(tmp_path: Path, cases: list[Case]) -> None:
    first = small(tmp_path / "first", cases)
    make(first)
    folds = json.loads(first.file("splits.json").read_text())
    folds = [{"train": fold["val"], "val": fold["train"]} for fold in folds]
    texts = json.dumps(folds, indent=1) + "\n", "{}\n"
    again = small(tmp_path / "again", cases)
    write_given(again, Given(*texts, plans={}, rerun=Rerun(File("first", "a" * 64, 1))))
    make(again)
    assert again.file("splits.json").read_text() == texts[0]
    assert texts[0] != first.file("splits.json").read_text()


def test_a_case_of_the_recorded_splits_that_cannot_be_used_stops_a_rerun(
    tmp_path: Path, cases: list[Case]
) -> None:
    folds = [{"train": [case.id for case in cases[1:]], "val": [cases[0].id]}]
    again = small(tmp_path, cases, prepare=Prepare(on_error="skip"))
    given = Given(json.dumps(folds), "{}", plans={}, rerun=Rerun(File("first", "a" * 64, 1)))
    write_given(again, given)
    save(image(1, (3, 3, 3)), Path(cases[0].labels[0].path))
    with pytest.raises(CaHpcError, match="1 cases of the recorded splits") as refused:
        make(again)
    assert cases[0].id in refused.value.message
