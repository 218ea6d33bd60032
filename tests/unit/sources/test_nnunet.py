"""Raw nnU-Net data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.sources.scanning import BIDS, by_id, problems, scanned

Put = Callable[..., None]

NNUNET = "{type: nnunet, path: HERE/raw, contrast: T2w}"


def write_dataset(folder: Path, labels: object, **keys: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, **keys}))


@pytest.fixture
def one_case(put: Put) -> None:
    put("raw/labelsTr/a.nii.gz", "raw/imagesTr/a_0000.nii.gz")


def test_channels_are_kept_in_order(tmp_path: Path, put: Put) -> None:
    put(
        "raw/imagesTr/neck_b_0001.nii.gz",
        "raw/imagesTr/neck_b_0000.nii.gz",
        "raw/imagesTr/neck_a_0000.nii.gz",
        "raw/imagesTr/neck_a_0001.nii.gz",
        "raw/labelsTr/neck_a.nii.gz",
        "raw/labelsTr/neck_b.nii.gz",
    )
    write_dataset(tmp_path / "raw", {"background": 0, "cord": 1, "lesion": 2})
    found = scanned(tmp_path, NNUNET)
    assert found.labels == {"cord": 1, "lesion": 2}
    assert found.channel_names == ("MRI", "MRI")
    assert [Path(image).name for image in by_id(found)["s1-neck-b"].images] == [
        "neck_b_0000.nii.gz",
        "neck_b_0001.nii.gz",
    ]
    assert {case.contrast for case in found.cases} == {"T2w"}
    assert {case.person for case in found.cases} == {"neck_a", "neck_b"}
    assert {case.split for case in found.cases} == {None}


def test_names_of_channels_are_kept_since_nnunet_normalises_by_them(
    tmp_path: Path, put: Put
) -> None:
    put("raw/imagesTr/a_0000.nii.gz", "raw/labelsTr/a.nii.gz")
    put("other/imagesTr/b_0000.nii.gz", "other/labelsTr/b.nii.gz")
    write_dataset(tmp_path / "raw", {"cord": 1}, channel_names={"0": "CT"})
    assert scanned(tmp_path, NNUNET).channel_names == ("CT",)
    write_dataset(tmp_path / "other", {"cord": 1}, channel_names={"0": "T2"})
    (problem,) = problems(tmp_path, NNUNET, NNUNET.replace("raw", "other"))
    assert "channels ('T2',) differ from ('CT',)" in problem


def test_images_have_as_many_channels_as_there_are_names(tmp_path: Path, put: Put) -> None:
    put("raw/imagesTr/a_0000.nii.gz", "raw/imagesTr/a_0001.nii.gz", "raw/labelsTr/a.nii.gz")
    write_dataset(tmp_path / "raw", {"cord": 1}, channel_names={"0": "MRI"})
    assert problems(tmp_path, NNUNET) == [
        f"{tmp_path}/raw/imagesTr/a_0000.nii.gz has 2 channels, channel_names 1"
    ]


def test_a_label_without_its_images_is_a_problem(tmp_path: Path, put: Put) -> None:
    put("raw/labelsTr/a.nii.gz", "raw/labelsTr/b[1].nii.gz", "raw/imagesTr/b[1]_0000.nii.gz")
    put("raw/labelsTr/c.nii.gz", "raw/imagesTr/c_0000.nii.gz", "raw/imagesTr/c_0002.nii.gz")
    write_dataset(tmp_path / "raw", {"background": 0, "cord": 1})
    assert problems(tmp_path, NNUNET) == [
        f"{tmp_path}/raw/labelsTr/a.nii.gz: no image a_0000 in imagesTr",
        f"{tmp_path}/raw/labelsTr/c.nii.gz: no image c_0001 in imagesTr",
    ]
    assert len(scanned(tmp_path, NNUNET.replace("}", ", exclude: [a, c]}")).cases) == 1


def test_one_image_as_nii_and_nii_gz_is_a_problem_of_labels_and_of_each_channel(
    tmp_path: Path, one_case: None, put: Put
) -> None:
    write_dataset(tmp_path / "raw", {"cord": 1})
    put("raw/labelsTr/a.nii", "raw/imagesTr/a_0000.nii")
    assert problems(tmp_path, NNUNET) == [
        f"{tmp_path}/raw/{name}.nii and {tmp_path}/raw/{name}.nii.gz are both there: leave one"
        for name in ("labelsTr/a", "imagesTr/a_0000")
    ]


def test_images_without_a_label_are_told_and_left_out(
    tmp_path: Path, one_case: None, put: Put
) -> None:
    write_dataset(tmp_path / "raw", {"cord": 1})
    put("raw/imagesTr/b_0000.nii.gz")
    found = scanned(tmp_path, NNUNET)
    assert [case.id for case in found.cases] == ["s1-a"]
    assert found.remarks == ("1 image of s1 without a label, left out: b",)


# --- people --------------------------------------------------------------------------------------


def test_subject_and_session_are_told_by_entities_and_nobody_is_two_people(
    tmp_path: Path, put: Put
) -> None:
    for stem in ("sub-01_ses-01_T1w", "sub-01_ses-02_T2w"):
        put(f"sub-x/raw/imagesTr/{stem}_0000.nii.gz", f"sub-x/raw/labelsTr/{stem}.nii.gz")
    write_dataset(tmp_path / "sub-x/raw", {"cord": 1})
    found = scanned(tmp_path, NNUNET.replace("raw", "sub-x/raw"))
    assert [(case.person, case.session) for case in found.cases] == [
        ("sub-01", "01"),
        ("sub-01", "02"),
    ]
    assert found.remarks == ()


def test_images_that_tell_no_subject_are_people_of_their_own_and_that_is_told(
    tmp_path: Path, one_case: None, put: Put
) -> None:
    write_dataset(tmp_path / "raw", {"cord": 1})
    put("raw/labelsTr/b.nii.gz", "raw/imagesTr/b_0000.nii.gz")
    end = "counts as a person of its own; if some are of one person, say so: person: {pattern: …}"
    assert scanned(tmp_path, NNUNET).remarks == (f"each image of s1 {end}",)
    said = NNUNET.replace("}", ", person: {pattern: '(.)'}}")
    assert scanned(tmp_path, said).remarks == ()
    put("raw/labelsTr/sub-1_T2w.nii.gz", "raw/imagesTr/sub-1_T2w_0000.nii.gz")
    (remark,) = scanned(tmp_path, NNUNET).remarks
    assert remark == f"each image of s1 that tells no subject (a, b) {end}"


def test_a_published_split_may_list_nnunets_identifiers(tmp_path: Path, put: Put) -> None:
    for stem in ("sub-01_T2w", "sub-02_T2w"):
        put(f"raw/imagesTr/{stem}_0000.nii.gz", f"raw/labelsTr/{stem}.nii.gz")
    write_dataset(tmp_path / "raw", {"cord": 1})
    (tmp_path / "split.yaml").write_text("train: [sub-01_T2w]\nval: [sub-02_T2w]\n")
    found = scanned(tmp_path, NNUNET, more="splits: {file: HERE/split.yaml}")
    assert [case.split for case in found.cases] == ["train", "val"]


# --- test sets -----------------------------------------------------------------------------------


def test_images_for_tests_that_have_labels_are_test_sets(tmp_path: Path, put: Put) -> None:
    put(
        "raw/imagesTr/a_0000.nii.gz", "raw/labelsTr/a.nii.gz",
        "raw/imagesTs/b_0000.nii.gz", "raw/labelsTs/b.nii.gz",
        "raw/imagesTs/unlabelled_0000.nii.gz",
        "raw/imagesTs_site-b/c_0000.nii.gz", "raw/labelsTs_site-b/c.nii.gz",
        "raw/imagesTs_secret/d_0000.nii.gz",
    )  # fmt: skip
    write_dataset(tmp_path / "raw", {"cord": 1})
    found = scanned(tmp_path, NNUNET)
    assert {case.subject: case.split for case in found.cases} == {
        "a": None,
        "b": "test",
        "c": "site-b",
    }


@pytest.mark.parametrize("name", ["train", "val", "a b"])
def test_a_test_set_has_a_name_of_its_own(tmp_path: Path, put: Put, name: str) -> None:
    put(f"raw/imagesTs_{name}/a_0000.nii.gz", f"raw/labelsTs_{name}/a.nii.gz")
    write_dataset(tmp_path / "raw", {"cord": 1})
    (problem,) = problems(tmp_path, NNUNET)
    assert problem.startswith(f"{tmp_path}/raw/labelsTs_{name}: ")


def test_splits_that_nnunet_has_made_are_not_read(tmp_path: Path, one_case: None) -> None:
    write_dataset(tmp_path / "raw", {"cord": 1})
    (tmp_path / "raw/splits_final.json").write_text('[{"train": [], "val": ["a"]}]')
    assert [case.split for case in scanned(tmp_path, NNUNET).cases] == [None]


# --- labels and regions --------------------------------------------------------------------------


@pytest.mark.usefixtures("one_case")
@pytest.mark.parametrize(
    "labels",
    [{}, {"cord": "x"}, {"cord": 3}, {"cord": -1}, {"a": 1, "b": 1}, {"a": 1.5}, {"a": True},
     {"a": None}, {"a": {"b": 1}}],
)  # fmt: skip
def test_labels_that_are_not_numbered_without_gaps_are_a_problem(
    tmp_path: Path, labels: dict[str, object]
) -> None:
    write_dataset(tmp_path / "raw", {"background": 0, **labels})
    assert problems(tmp_path, NNUNET) == [
        f"{tmp_path}/raw/dataset.json: labels {labels} are not numbered 1, 2, …"
    ]


@pytest.mark.usefixtures("one_case")
@pytest.mark.parametrize("labels", [{"cord": 1, "ignore": 2}, {"cord": [1, 2], "ignore": 3}])
def test_an_ignore_label_is_refused_and_does_not_become_a_class(
    tmp_path: Path, labels: dict[str, object]
) -> None:
    write_dataset(tmp_path / "raw", {"background": 0, **labels})
    assert problems(tmp_path, NNUNET) == [
        f"{tmp_path}/raw/dataset.json: nnU-Net's label ignore is not supported: it would become a "
        "class"
    ]


@pytest.mark.usefixtures("one_case")
@pytest.mark.parametrize("text", ['{"labels": null}', '{"labels": ["cord"]}', "7", "[]", "{}"])
def test_labels_that_cannot_be_read_are_a_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "raw/dataset.json").write_text(text)
    assert problems(tmp_path, NNUNET) == [
        f"{tmp_path}/raw/dataset.json: labels cannot be read: should be names with values"
    ]


@pytest.mark.usefixtures("one_case")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"labels":\n {', "dataset.json:2:3: Expecting property name"),
        ("[" * 100_000, "dataset.json: too deeply nested"),
        ('{"a": ' + "1" * 5000 + "}", "dataset.json: Exceeds the limit"),
        ("\udc80", "dataset.json cannot be read as JSON: it is no UTF-8 text"),
    ],
)
def test_a_dataset_json_that_is_none_is_a_problem(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "raw/dataset.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (problem,) = problems(tmp_path, NNUNET)
    assert reason in problem


@pytest.mark.usefixtures("one_case")
def test_regions_become_labels_and_regions_the_outer_first(tmp_path: Path) -> None:
    write_dataset(
        tmp_path / "raw", {"background": 0, "lesion": [2], "cord": [1, 2], "canal": [1, 2, 3]}
    )
    found = scanned(tmp_path, NNUNET)
    assert list(found.regions.items()) == [
        ("canal", (1, 2, 3)),
        ("cord", (1, 2)),
        ("lesion", (2,)),
    ]
    assert found.labels == {"cord": 1, "lesion": 2, "canal": 3}


@pytest.mark.usefixtures("one_case")
def test_a_value_of_a_region_that_has_several_of_its_own_is_named_by_both(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", {"whole": [1, 2, 3], "core": 3})
    assert scanned(tmp_path, NNUNET).labels == {"whole": 1, "whole_2": 2, "core": 3}


@pytest.mark.usefixtures("one_case")
@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ({"a": [1, 2], "b": [2, 3]}, "a and b share [2]"),
        ({"a": [1, 2], "b": [1, 2]}, "a and b are the same values"),
        ({"a": [1, 3], "b": [1]}, "are not of values 1, 2, …"),
        ({"a": [1, "x"]}, "are not of values 1, 2, …"),
        ({"a": [1, [2]]}, "are not of values 1, 2, …"),
        ({"a": [1, 2], "b": []}, "are not of values 1, 2, …"),
    ],
)
def test_regions_are_nested_or_disjoint(
    tmp_path: Path, regions: dict[str, object], reason: str
) -> None:
    write_dataset(tmp_path / "raw", regions)
    (problem,) = problems(tmp_path, NNUNET)
    assert reason in problem


@pytest.mark.usefixtures("one_case")
def test_regions_of_a_job_hold_for_a_data_set_with_plain_labels(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", {"cord": 1, "lesion": 2})
    found = scanned(tmp_path, NNUNET, more="regions: {lesion: [2], both: [1, 2]}")
    assert list(found.regions.items()) == [("both", (1, 2)), ("lesion", (2,))]


@pytest.mark.usefixtures("one_case")
def test_masks_of_a_data_set_are_among_its_channels(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", {"cord": 1})
    assert problems(tmp_path, NNUNET, more="mask_channels: {levels: _levels}") == [
        "data[0]: an nnU-Net data set has its masks among its channels"
    ]


# --- beside other sources ------------------------------------------------------------------------


@pytest.mark.usefixtures("one_case")
def test_sources_with_different_labels_do_not_go_together(tmp_path: Path, put_bids: Put) -> None:
    write_dataset(tmp_path / "raw", {"background": 0, "canal": 1})
    put_bids("sub-01_T2w")
    assert problems(tmp_path, BIDS, NNUNET) == [
        "data[1]: labels {'canal': 1} differ from {'cord': 1} before it"
    ]


@pytest.mark.usefixtures("one_case")
def test_with_the_same_regions_what_a_value_is_called_does_not_matter(
    tmp_path: Path, put_bids: Put
) -> None:
    write_dataset(tmp_path / "raw", {"cord": [1, 2], "lesion": [2]})
    put_bids("sub-01_T2w", suffixes=("_seg", "_lesion"))
    bids = BIDS.replace("_seg", "{white: _seg, ms: _lesion}")
    labels = "labels: {white: 1, ms: 2}"
    regions = "regions: {cord: [1, 2], lesion: [2]}"
    found = scanned(tmp_path, NNUNET, bids, more=f"{labels}\n{regions}")
    assert found.labels == {"white": 1, "ms": 2}  # as the files of the masks are called
    assert found.regions == {"cord": (1, 2), "lesion": (2,)}
    assert problems(tmp_path, NNUNET, bids, more=labels) == [
        "data[1]: labels {'white': 1, 'ms': 2} differ from {'cord': 1, 'lesion': 2} before it"
    ]
    assert problems(tmp_path, NNUNET, bids, more=f"{labels}\nregions: {{cord: [1], ms: [2]}}") == [
        "data[1]: regions {'cord': (1,), 'ms': (2,)} differ from "
        "{'cord': (1, 2), 'lesion': (2,)} before it"
    ]


@pytest.mark.usefixtures("one_case")
def test_a_data_set_has_no_table_to_choose_by(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", {"cord": 1})
    source = NNUNET.replace("}", ", where: {site: [a]}, person: {column: who}}")
    assert problems(tmp_path, source) == [
        "data[0].where.site: there is no table",
        "data[0].person.column: there is no table",
    ]
