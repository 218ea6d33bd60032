"""BIDS folders: which images have their labels, and what their names tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc.core.record import Case, LabelFile
from tests.unit.sources.scanning import BIDS, LABELS, by_id, problems, scanned, stems, with_keys

Put = Callable[..., None]

TWO = "labels: {cord: {value: 1, suffix: _seg}, lesion: {value: 2, suffix: _lesion}}"
PLAIN = "{type: bids, path: HERE/bids}"


def test_images_with_a_label_are_found_with_subject_session_and_contrast(
    tmp_path: Path, put: Put
) -> None:
    put(
        "bids/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        f"{LABELS}/sub-01/ses-a/anat/sub-01_ses-a_T1w_seg.nii.gz",
        "bids/sub-02/anat/sub-02_acq-sag_T2w.nii",
        f"{LABELS}/sub-02/anat/sub-02_acq-sag_T2w_seg.nii.gz",
        "bids/sub-03/anat/sub-03_T2w.nii.gz",  # nobody labelled it
        "bids/sub-02/anat/sub-02_acq-sag_T2w.json",
        "bids/sub-02/anat/._sub-02_acq-sag_T2w.nii",  # macOS
    )
    found = scanned(tmp_path, BIDS)
    assert found.dataset == "Dataset501_my_job"
    assert found.labels == {"cord": 1}
    assert found.channel_names == ("MRI",)
    assert found.remarks == ("1 image of s1 without a label, left out: sub-03_T2w",)
    first, second = found.cases
    assert first == Case(
        id="s1-sub-01-ses-a-T1w",
        source="s1",
        images=(f"{tmp_path}/bids/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",),
        labels=(LabelFile(f"{tmp_path}/{LABELS}/sub-01/ses-a/anat/sub-01_ses-a_T1w_seg.nii.gz"),),
        subject="sub-01",
        person="sub-01",
        session="a",
        contrast="T1w",
        people="s1",
    )
    assert (second.subject, second.session, second.contrast) == ("sub-02", None, "T2w")


def test_images_and_labels_may_lie_in_folders_of_their_own(tmp_path: Path, put: Put) -> None:
    put(
        "bids/sub-01/anat/sub-01_T2w.nii.gz",
        "bids/derivatives/resampled/sub-01/anat/sub-01_space-other_T2w.nii.gz",
        "bids/derivatives/soft/sub-01/anat/sub-01_space-other_T2w_label-SC_seg.nii.gz",
    )
    keys = "images: derivatives/resampled, labels: derivatives/soft"
    source = with_keys(BIDS.replace("_seg", "_label-SC_seg.nii.gz"), keys)  # an ending is ignored
    (case,) = scanned(tmp_path, source).cases
    assert Path(case.images[0]).name == "sub-01_space-other_T2w.nii.gz"


def test_the_label_may_lie_beside_its_image(tmp_path: Path, put: Put) -> None:
    put("bids/sub-01/anat/sub-01_T2w.nii.gz", "bids/sub-01/anat/sub-01_T2w_seg.nii.gz")
    found = scanned(tmp_path, with_keys(BIDS, "labels: ."))
    assert stems(found) == ["sub-01_T2w"]


# --- several labels ------------------------------------------------------------------------------


def test_each_label_may_have_a_file_of_its_own(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w", suffixes=("_seg", "_lesion"))
    (case,) = scanned(tmp_path, PLAIN, more=TWO).cases
    folder = f"{tmp_path}/{LABELS}/sub-01/anat"
    assert case.labels == (
        LabelFile(f"{folder}/sub-01_T2w_seg.nii.gz", "cord"),
        LabelFile(f"{folder}/sub-01_T2w_lesion.nii.gz", "lesion"),
    )


def test_a_sources_suffixes_by_label_go_before_those_of_the_labels(
    tmp_path: Path, put_bids: Put
) -> None:
    put_bids("sub-01_T2w", suffixes=("_a", "_b", "_seg", "_lesion"))
    source = with_keys(PLAIN, "label_suffix: {lesion: _b, cord: _a}")
    (case,) = scanned(tmp_path, source, more=TWO).cases
    named = {label.label: Path(label.path).name for label in case.labels}
    assert named == {"lesion": "sub-01_T2w_b.nii.gz", "cord": "sub-01_T2w_a.nii.gz"}


def test_one_suffix_is_a_map_of_all_labels(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w")
    (case,) = scanned(tmp_path, BIDS, more="labels: {cord: 1, lesion: 2}").cases
    assert [label.label for label in case.labels] == [None]


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        (PLAIN, "labels: {lesion: 1}"),
        (with_keys(PLAIN, "label_suffix: {cord: _seg}"), "labels: {cord: 1, lesion: 2}"),
        (PLAIN, "labels: {cord: {value: 1, suffix: _seg}, lesion: 2}"),
    ],
)
def test_a_label_without_a_suffix_is_a_problem_that_says_what_to_write(
    tmp_path: Path, put_bids: Put, source: str, labels: str
) -> None:
    put_bids("sub-01_T2w")
    assert problems(tmp_path, source, more=labels) == [
        "data[0].label_suffix: say what the files of lesion end in: one suffix for a map of all "
        "labels, one for each label here, or labels.lesion.suffix"
    ]


def test_images_with_some_of_their_labels_are_left_out_in_one_remark(
    tmp_path: Path, put_bids: Put
) -> None:
    put_bids("sub-01_T2w", suffixes=("_seg", "_lesion"))
    put_bids(*(f"sub-{n:02}_T2w" for n in range(2, 7)))
    put_bids("sub-07_T2w", suffixes=("_lesion",))
    put_bids("sub-08_T2w", suffixes=())
    found = scanned(tmp_path, PLAIN, more=TWO)
    assert stems(found) == ["sub-01_T2w"]
    assert found.remarks == (
        "5 images of s1 have a cord but no lesion file; left out: "
        "sub-02_T2w, sub-03_T2w, sub-04_T2w, …",
        "1 image of s1 has a lesion but no cord file; left out: sub-07_T2w",
        "1 image of s1 without a label, left out: sub-08_T2w",
    )


def test_if_all_images_lack_a_label_that_is_the_problem(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w")
    assert problems(tmp_path, PLAIN, more=TWO) == [
        "data[0]: 1 image of s1 has a cord but no lesion file; left out: sub-01_T2w"
    ]


def test_mask_channels_are_needed_and_come_in_the_specs_order(
    tmp_path: Path, put_bids: Put
) -> None:
    put_bids("sub-01_T2w", suffixes=("_seg", "_levels", "_canal"))
    put_bids("sub-02_T2w", suffixes=("_seg", "_levels"))
    found = scanned(tmp_path, BIDS, more="mask_channels: {levels: _levels, canal: _canal}")
    (case,) = found.cases
    assert [Path(mask).name for mask in case.masks] == [
        "sub-01_T2w_levels.nii.gz",
        "sub-01_T2w_canal.nii.gz",
    ]
    assert found.channel_names == ("MRI", "noNorm", "noNorm")
    assert found.remarks == ("1 image of s1 has a label but no canal file; left out: sub-02_T2w",)


# --- contrasts, sessions, pathologies ------------------------------------------------------------


@pytest.fixture
def two_contrasts(put_bids: Put) -> None:
    for subject in ("01", "02"):
        for session in ("1", "2"):
            for contrast in ("acq-ax_T2w", "acq-sag_T2w", "T1w"):
                put_bids(f"sub-{subject}_ses-{session}_{contrast}")


@pytest.mark.usefixtures("two_contrasts")
@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ("", 12),
        ("contrasts: [T1w]", 4),
        ("contrasts: [T2w]", 8),
        ("contrasts: [acq-ax_T2w, T1w]", 8),
        ("sessions: ['2']", 6),
        ("sessions: [ses-2]", 6),
        ("sessions: ['1'], contrasts: [acq-sag_T2w]", 2),
    ],
)
def test_contrasts_and_sessions_choose_among_the_images(
    tmp_path: Path, keys: str, count: int
) -> None:
    found = scanned(tmp_path, with_keys(BIDS, keys))
    assert len(found.cases) == count
    assert found.remarks == ()


@pytest.mark.usefixtures("two_contrasts")
def test_a_contrast_is_the_longest_entry_that_the_name_ends_in(tmp_path: Path) -> None:
    found = by_id(scanned(tmp_path, with_keys(BIDS, "contrasts: [T2w, acq-ax_T2w]")))
    assert found["s1-sub-01-ses-1-acq-ax-T2w"].contrast == "acq-ax_T2w"
    assert found["s1-sub-01-ses-1-acq-sag-T2w"].contrast == "T2w"


@pytest.mark.usefixtures("two_contrasts")
def test_a_contrast_or_session_that_no_image_has_is_told(tmp_path: Path) -> None:
    source = with_keys(BIDS, "contrasts: [T2w, T2star, T1W], sessions: ['1', '3']")
    assert scanned(tmp_path, source).remarks == (
        "s1: contrasts: nothing is called T2star, T1W",
        "s1: sessions: nothing is called 3",
    )


@pytest.mark.usefixtures("two_contrasts")
def test_pathologies_come_from_the_column_that_is_named(tmp_path: Path) -> None:
    table = "participant_id\tpathology\tdiagnosis\nsub-01\tMS\tRRMS\n02\tn/a\t\n"
    (tmp_path / "bids/participants.tsv").write_text(table)
    for keys, wanted in (("", "MS"), ("pathology: diagnosis", "RRMS")):
        found = scanned(tmp_path, with_keys(BIDS, keys))
        assert {(case.subject, case.pathology) for case in found.cases} == {
            ("sub-01", wanted),
            ("sub-02", None),
        }


# --- who it is -----------------------------------------------------------------------------------


def test_a_person_can_be_told_by_a_pattern_on_the_subject(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-lab1x01_T2w", "sub-lab2x01_T2w", "sub-lab1x02_T2w")
    source = with_keys(BIDS, "person: {pattern: 'x(\\d+)$'}")
    assert [case.person for case in scanned(tmp_path, source).cases] == ["01", "02", "01"]
    wrong = with_keys(BIDS, "person: {pattern: '^sub-(lab1.*)$'}")
    assert problems(tmp_path, wrong) == ["person.pattern ^sub-(lab1.*)$ does not match sub-lab2x01"]


@pytest.mark.usefixtures("two_contrasts")
def test_a_person_can_be_told_by_a_column_of_participants_tsv(tmp_path: Path) -> None:
    table = "participant_id\tperson\nsub-02\tanna\nsub-77\tnobody\nsub-01\tanna\n"
    (tmp_path / "bids/participants.tsv").write_text("\ufeff" + table, encoding="utf-8")
    source = with_keys(BIDS, "contrasts: [T1w], person: {column: person}")
    found = scanned(tmp_path, source)
    assert {case.person for case in found.cases} == {"anna"}
    assert {case.subject for case in found.cases} == {"sub-01", "sub-02"}


@pytest.mark.usefixtures("two_contrasts")
def test_a_column_that_is_empty_or_missing_is_a_problem(tmp_path: Path) -> None:
    table = tmp_path / "bids/participants.tsv"
    table.write_text("participant_id\tperson\nsub-01\tanna\nsub-02\t\n")
    source = with_keys(BIDS, "person: {column: person}")
    assert problems(tmp_path, source) == ["person.column: no person for sub-02"]
    assert problems(tmp_path, source.replace("column: person", "column: Person")) == [
        "data[0].person.column: participants.tsv has no column Person; "
        "its columns: participant_id, person"
    ]
    table.unlink()
    assert problems(tmp_path, source) == ["data[0].person.column: there is no participants.tsv"]


@pytest.mark.usefixtures("two_contrasts")
def test_a_table_that_cannot_be_read_matters_only_where_it_is_needed(tmp_path: Path) -> None:
    table = tmp_path / "bids/participants.tsv"
    table.write_bytes(b"participant_id\tname\nsub-01\tRen\xe9\n")
    reason = f"{table} cannot be read as a table: it is no UTF-8 text"
    assert scanned(tmp_path, BIDS).remarks == (reason,)
    assert reason in problems(tmp_path, with_keys(BIDS, "where: {name: [x]}"))


@pytest.mark.usefixtures("two_contrasts")
def test_a_subject_with_two_rows_is_a_problem_where_rows_decide(tmp_path: Path) -> None:
    table = tmp_path / "bids/participants.tsv"
    table.write_text("participant_id\tsex\nsub-01\tF\nsub-01\tM\n")
    assert len(scanned(tmp_path, BIDS).cases) == 12
    assert problems(tmp_path, with_keys(BIDS, "where: {sex: [F]}")) == [
        f"{table}: a participant_id is missing or given twice"
    ]


# --- nothing found -------------------------------------------------------------------------------


def test_nothing_found_tells_what_was_looked_for_and_what_lies_there(
    tmp_path: Path, put: Put
) -> None:
    put(
        "bids/sub-01/anat/sub-01_T2w.nii.gz",
        f"{LABELS}/sub-01/anat/sub-01_T2w_label-SC_mask.nii.gz",
    )
    (problem,) = problems(tmp_path, with_keys(BIDS, "contrasts: [T1w, T2w]"))
    assert problem == (
        f"data[0]: no labels found for images of T1w or T2w in {tmp_path}/{LABELS}: "
        "for sub-01_T2w.nii.gz one would be sub-01_T2w_seg.nii.gz; "
        "a file there is sub-01_T2w_label-SC_mask.nii.gz"
    )


def test_nothing_found_in_an_empty_folder_says_so(tmp_path: Path, put: Put) -> None:
    put("bids/dataset_description.json")
    (problem,) = problems(tmp_path, BIDS)
    assert problem == f"data[0]: no images found: {tmp_path}/bids holds no sub-*/**/*.nii.gz"


def test_nothing_left_by_the_filters_says_so(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w", "sub-02_T2w")
    source = with_keys(BIDS, "contrasts: [T1w], exclude: [sub-01]")
    assert problems(tmp_path, source) == [
        "data[0]: none of its 2 images is left by exclude and contrasts; "
        "s1: contrasts: nothing is called T1w"
    ]


# --- the file system -----------------------------------------------------------------------------


def test_one_image_as_nii_and_nii_gz_would_become_one_case_and_is_refused(
    tmp_path: Path, put: Put, put_bids: Put
) -> None:
    put_bids("sub-01_T2w")
    put("bids/sub-01/anat/sub-01_T2w.nii")
    (problem,) = problems(tmp_path, BIDS)
    assert problem.endswith("would both become case s1-sub-01-T2w")


@pytest.mark.parametrize("mask", ["", "mask_channels: {levels: _levels}"])
def test_one_label_or_mask_as_nii_and_nii_gz_is_refused(
    tmp_path: Path, put: Put, put_bids: Put, mask: str
) -> None:
    name = "_levels" if mask else "_seg"
    put_bids("sub-01_T2w", "sub-02_T2w", suffixes=("_seg", "_levels"))
    put(f"{LABELS}/sub-02/anat/sub-02_T2w{name}.nii")
    start = f"{tmp_path}/{LABELS}/sub-02/anat/sub-02_T2w{name}"
    assert problems(tmp_path, BIDS, more=mask) == [
        f"{start}.nii.gz and {start}.nii are both there: leave one"
    ]
    assert len(scanned(tmp_path, with_keys(BIDS, "exclude: [sub-02]"), more=mask).cases) == 1


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("sub-05/anat/sub-01_T2w", "its folder says sub-05, its name sub-01"),
        ("sub-01/ses-2/anat/sub-01_ses-1_T2w", "its folder says ses-2, its name ses-1"),
    ],
)
def test_a_folder_and_a_name_that_disagree_are_a_problem(
    tmp_path: Path, put: Put, image: str, said: str
) -> None:
    put(f"bids/{image}.nii.gz", f"{LABELS}/{image}_seg.nii.gz")
    assert problems(tmp_path, BIDS) == [f"{tmp_path}/bids/{image}.nii.gz: {said}"]


def test_a_session_may_be_told_by_the_folder_alone(tmp_path: Path, put: Put) -> None:
    for session in ("1", "2"):
        image = f"sub-01/ses-{session}/anat/sub-01_acq-ax_T2w"
        put(f"bids/{image}.nii.gz", f"{LABELS}/{image}_seg.nii.gz")
    source = with_keys(BIDS, "contrasts: [acq-ax_T2w]")
    found = by_id(scanned(tmp_path, source))
    assert {name: case.session for name, case in found.items()} == {
        "s1-sub-01-ses-1-acq-ax-T2w": "1",
        "s1-sub-01-ses-2-acq-ax-T2w": "2",
    }
    assert len(scanned(tmp_path, with_keys(BIDS, "sessions: ['2']")).cases) == 1
    (problem,) = problems(tmp_path, source.replace("_seg", "_lesion"))
    assert "for sub-01_acq-ax_T2w.nii.gz one would be sub-01_acq-ax_T2w_lesion" in problem


def test_loops_of_links_have_an_end(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w")
    (tmp_path / "bids/sub-01/anat/again").symlink_to(tmp_path / "bids")
    (tmp_path / "bids/sub-01/up").symlink_to("..")
    (tmp_path / "bids/sub-loop").symlink_to("sub-loop")
    assert stems(scanned(tmp_path, BIDS)) == ["sub-01_T2w"]


def test_a_name_of_several_lines_is_told_on_one(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-0\n1_T2w")
    assert problems(tmp_path, BIDS) == [
        r"sub-0\n1_T2w: its subject 'sub-0\n1' is more than a line of text"
    ]


def test_names_with_commas_and_quotes_are_names(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-0,1'_T2w", 'sub-0"2_T2w')
    assert len(scanned(tmp_path, BIDS).cases) == 2


def test_a_name_that_is_no_text_is_told(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-0\udce9_T2w")
    lines = problems(tmp_path, BIDS)
    assert any(r"sub-0\udce9_T2w.nii.gz: its name is no UTF-8 text" in line for line in lines)
