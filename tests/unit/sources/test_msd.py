"""Data lists in the style of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc.core.record import LabelFile
from tests.unit.sources.scanning import problems, scanned, with_keys

Put = Callable[..., None]

MSD = "{type: msd, path: HERE/lists/list.json}"
SPLITS = "splits: {train: 0.8, val: 0.2}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    def write(**lists: object) -> None:
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists/list.json").write_text(json.dumps(lists))

    return write


def entry(stem: str, **keys: object) -> dict[str, object]:
    return {"image": f"../{stem}.nii.gz", "label": "../seg.nii.gz", **keys}


@pytest.mark.parametrize(("train", "val"), [("train", "validation"), ("training", "val")])
def test_lists_are_the_split_and_paths_count_from_the_file(
    tmp_path: Path, put: Put, write: Put, train: str, val: str
) -> None:
    put("seg.nii.gz", "sub-01_ses-a_T2w.nii.gz", "b.nii.gz", "c.nii.gz")
    write(**{
        train: [entry("sub-01_ses-a_T2w")],
        val: [entry("b", subject="anna", session="ses-2", contrast="T1w", pathology="MS")],
        "test": [entry("c")],
        "numTraining": 1,
        "seed": 50,
    })  # fmt: skip
    first, second, third = scanned(tmp_path, MSD).cases
    assert first.images == (f"{tmp_path}/lists/../sub-01_ses-a_T2w.nii.gz",)
    assert (first.subject, first.session, first.contrast, first.split) == (
        "sub-01", "a", "T2w", "train",
    )  # fmt: skip
    assert (second.subject, second.session, second.contrast, second.pathology, second.split) == (
        "anna", "2", "T1w", "MS", "val",
    )  # fmt: skip
    assert (third.subject, third.contrast, third.split) == ("c", "MRI", "test")


def test_a_subject_is_also_told_by_a_folder(tmp_path: Path, put: Put, write: Put) -> None:
    put("seg.nii.gz", "sub-07/anat/t2.nii.gz")
    write(train=[entry("sub-07/anat/t2")])
    assert [case.subject for case in scanned(tmp_path, MSD).cases] == ["sub-07"]


def test_channels_labels_and_masks(tmp_path: Path, put: Put, write: Put) -> None:
    put("a.nii.gz", "b.nii.gz", "cord.nii.gz", "lesion.nii.gz", "levels.nii.gz")
    up = {"image": ["../a.nii.gz", "../b.nii.gz"], "mask": {"levels": "../levels.nii.gz"}}
    both = {"lesion": "../lesion.nii.gz", "cord": "../cord.nii.gz"}
    lacking = {"cord": "../cord.nii.gz"}
    write(
        train=[up | {"label": both}, up | {"label": lacking, "case": "x"}],
        modality={"0": "CT", "1": "MRI"},
    )
    more = "labels: {cord: 1, lesion: 2}\nmask_channels: {levels: _levels}"
    found = scanned(tmp_path, MSD, more=more)
    (case,) = found.cases
    assert len(case.images) == 2
    assert case.masks == (f"{tmp_path}/lists/../levels.nii.gz",)
    assert {label.label for label in case.labels} == {"cord", "lesion"}
    assert found.channel_names == ("CT", "MRI", "noNorm")
    assert found.remarks == ("1 image of s1 has a cord but no lesion file; left out: x",)


def test_images_without_a_label_are_told_and_left_out(tmp_path: Path, put: Put, write: Put) -> None:
    put("seg.nii.gz", "a.nii.gz")
    write(train=[entry("a")], test=["../imagesTs/b.nii.gz", {"image": "../c.nii.gz"}])
    found = scanned(tmp_path, MSD)
    assert [case.labels for case in found.cases] == [
        (LabelFile(f"{tmp_path}/lists/../seg.nii.gz"),)
    ]
    assert found.remarks == ("list.json: without a label, left out: b.nii.gz, c.nii.gz",)


def test_further_keys_serve_as_columns(tmp_path: Path, put: Put, write: Put) -> None:
    put("seg.nii.gz", "a.nii.gz", "b.nii.gz")
    write(train=[entry("a", site=1, who="x"), entry("b", site=2, who="y")])
    source = with_keys(MSD, "where: {site: ['2']}, person: {column: who}")
    assert [case.person for case in scanned(tmp_path, source).cases] == ["y"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "should have lists train, validation or test"),
        ({"cases": []}, "should have lists train, validation or test"),
        ({"train": {"a": 1}}, "train is no list"),
        ({"train": [7]}, "train[0]: should be {image: …, label: …}"),
        ({"train": [{"label": "x"}]}, "train[0]: image should be a path"),
        ({"train": [{"image": []}]}, "train[0]: image should be a path"),
        ({"train": [{"image": "a", "label": 1}]}, "train[0]: label should be a path, or a path"),
        ({"train": [{"image": "a", "label": {"x": "b"}}]}, "train[0]: label x: no such label"),
        ({"train": [{"image": "a", "label": {"cord": 1}}]}, "train[0]: label.cord should be"),
        ({"test": [{"image": "a", "label": "b", "mask": "c"}]}, "test[0]: mask should be a path"),
        ({"test": [{"image": "a.mha", "label": "b.nii"}]}, "a.mha is no .nii and no .nii.gz"),
        (
            {"test": [{"image": "\ud800.nii", "label": "b.nii"}]},
            r"\ud800.nii: its name is no UTF-8 text",
        ),
    ],
)
def test_a_malformed_list_is_told(tmp_path: Path, write: Put, value: object, reason: str) -> None:
    write()
    (tmp_path / "lists/list.json").write_text(json.dumps(value))
    assert any(reason in line for line in problems(tmp_path, MSD))


def test_files_that_are_not_there_are_told_by_their_entry(tmp_path: Path, write: Put) -> None:
    write(train=[entry("a")])
    assert problems(tmp_path, MSD) == [
        f"{tmp_path}/lists/list.json: train[0]: {tmp_path}/lists/../{name}.nii.gz does not exist"
        for name in ("a", "seg")
    ]


@pytest.mark.parametrize(
    ("source", "more"),
    [
        (with_keys(MSD, "split: {train: 0.5, val: 0.5}"), ""),
        (MSD, "splits: {train: 0.5, val: 0.5}"),
    ],
)
def test_shares_of_source_or_job_replace_the_lists_and_that_is_told(
    tmp_path: Path, put: Put, write: Put, source: str, more: str
) -> None:
    put("seg.nii.gz", "a.nii.gz")
    write(train=[entry("a")])
    found = scanned(tmp_path, source, more=more)
    assert [case.split for case in found.cases] == [None]
    assert found.remarks == ("s1: what it says of its split gives way to what the job says",)


def test_images_that_tell_no_subject_are_told(tmp_path: Path, put: Put, write: Put) -> None:
    put("seg.nii.gz", "a.nii.gz", "b.nii.gz")
    write(train=[entry("a"), entry("b")])
    assert scanned(tmp_path, MSD).remarks == (
        "each image of s1 counts as a person of its own; if some are of one person, say so: "
        "person: {pattern: …}",
    )
    write(train=[entry("a", subject="x"), entry("b", subject="y")])
    assert scanned(tmp_path, MSD).remarks == ()
