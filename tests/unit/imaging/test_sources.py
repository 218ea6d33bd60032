"""Which images there are, with which label, of whom: from file names alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc.core import door
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.sources import scan

Put = Callable[..., None]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Make empty files: a scan looks at names only."""

    def make(*names: str) -> None:
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    return make


def scanned(here: Path, *sources: str, labels: str = "{cord: 1}") -> Cases:
    """Scan sources whose paths count from ``here``."""
    text = "kind: finetune\nname: my-job\ncluster: local\nweights: w.pth\n"
    text += f"labels: {labels}\ndata:\n" + "".join(f"  - {source}\n" for source in sources)
    return scan(door.read(JobSpec, text.replace("HERE", str(here)), file="job.yaml"))


def problems(here: Path, *sources: str, labels: str = "{cord: 1}") -> list[str]:
    with pytest.raises(CaHpcError) as refused:
        scanned(here, *sources, labels=labels)
    count, *lines = refused.value.message.splitlines()
    assert count.startswith(f"{len(lines)} problem")
    return lines


def by_id(cases: Cases) -> dict[str, Case]:
    return {case.id: case for case in cases.cases}


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["bids/sub-01/anat/sub-01_T2w", "bids/derivatives/labels/sub-01/anat/sub-01_T2w_seg"]
)
def test_a_file_that_git_annex_has_not_fetched_is_told_and_not_left_out(
    tmp_path: Path, put: Put, file: str
) -> None:
    put("bids/sub-01/anat/sub-01_T2w.nii.gz", f"{LABELS}/sub-01/anat/sub-01_T2w_seg.nii.gz")
    put("bids/sub-02/anat/sub-02_T2w.nii.gz", f"{LABELS}/sub-02/anat/sub-02_T2w_seg.nii.gz")
    link = tmp_path / f"{file}.nii.gz"
    link.unlink()
    link.symlink_to(".git/annex/objects/none")
    assert problems(tmp_path, BIDS) == [f"{link} is a link to nothing: fetch it"]


def test_a_folder_named_as_an_image_is_told(tmp_path: Path, put: Put) -> None:
    put(f"{LABELS}/sub-01/anat/sub-01_T2w_seg.nii.gz")
    image = tmp_path / "bids/sub-01/anat/sub-01_T2w.nii.gz"
    image.mkdir(parents=True)
    assert problems(tmp_path, BIDS) == [f"{image} is no file"]


def test_an_image_is_not_its_own_label(tmp_path: Path, put: Put) -> None:
    put("a.nii.gz")
    source = pairs(tmp_path, "image,label,subject\na.nii.gz,a.nii.gz,1\n")
    assert problems(tmp_path, source) == [f"{tmp_path}/a.nii.gz is an image and its own label"]


# --- BIDS ----------------------------------------------------------------------------------------

BIDS = "{type: bids, path: HERE/bids, label_suffix: _seg}"
LABELS = "bids/derivatives/labels"


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
    )
    found = scanned(tmp_path, BIDS)
    assert found.dataset == "Dataset501_my_job"
    first, second = found.cases
    assert first == Case(
        id="s1-sub-01-ses-a-T1w",
        source="s1",
        images=(f"{tmp_path}/bids/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",),
        label=f"{tmp_path}/{LABELS}/sub-01/ses-a/anat/sub-01_ses-a_T1w_seg.nii.gz",
        subject="sub-01",
        person="sub-01",
        session="a",
        contrast="T1w",
    )
    assert (second.subject, second.session, second.contrast) == ("sub-02", None, "T2w")


@pytest.fixture
def two_contrasts(put: Put) -> None:
    for subject in ("01", "02"):
        for session in ("1", "2"):
            for contrast in ("acq-ax_T2w", "acq-sag_T2w", "T1w"):
                folder = f"sub-{subject}/ses-{session}/anat"
                stem = f"sub-{subject}_ses-{session}_{contrast}"
                put(f"bids/{folder}/{stem}.nii.gz", f"{LABELS}/{folder}/{stem}_seg.nii.gz")


@pytest.mark.usefixtures("two_contrasts")
@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ("", 12),
        ("contrasts: [T1w]", 4),
        ("contrasts: [T2w]", 8),
        ("contrasts: [acq-ax_T2w, T1w]", 8),
        ("sessions: ['2']", 6),
        ("sessions: ['1'], contrasts: [acq-sag_T2w]", 2),
    ],
)
def test_contrasts_and_sessions_choose_among_the_images(
    tmp_path: Path, keys: str, count: int
) -> None:
    source = BIDS.replace("}", f", {keys}}}") if keys else BIDS
    assert len(scanned(tmp_path, source).cases) == count


def test_nothing_found_tells_what_was_looked_for_and_what_lies_there(
    tmp_path: Path, put: Put
) -> None:
    put(
        "bids/sub-01/anat/sub-01_T2w.nii.gz",
        f"{LABELS}/sub-01/anat/sub-01_T2w_label-SC_mask.nii.gz",
    )
    (problem,) = problems(tmp_path, BIDS.replace("}", ", contrasts: [T1w, T2w]}"))
    assert problem == (
        f"data[0]: no labels found for images of T1w or T2w in {tmp_path}/{LABELS}: "
        "for sub-01_T2w.nii.gz one would be sub-01_T2w_seg.nii.gz; "
        "a file there is sub-01_T2w_label-SC_mask.nii.gz"
    )


def test_nothing_found_in_an_empty_folder_says_so(tmp_path: Path, put: Put) -> None:
    put("bids/dataset_description.json")
    (problem,) = problems(tmp_path, BIDS)
    assert problem == f"data[0]: no images found: {tmp_path}/bids holds no sub-*/**/*.nii.gz"


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path, BIDS) == [f"data[0]: {tmp_path}/bids does not exist"]


def test_a_person_can_be_told_by_a_pattern_on_the_subject(tmp_path: Path, put: Put) -> None:
    for subject in ("lab1x01", "lab2x01", "lab1x02"):
        put(
            f"bids/sub-{subject}/anat/sub-{subject}_T2w.nii.gz",
            f"{LABELS}/sub-{subject}/anat/sub-{subject}_T2w_seg.nii.gz",
        )
    source = BIDS.replace("}", ", person: {pattern: 'x(\\d+)$'}}")
    assert [case.person for case in scanned(tmp_path, source).cases] == ["01", "02", "01"]
    wrong = BIDS.replace("}", ", person: {pattern: '^sub-(lab1.*)$'}}")
    assert problems(tmp_path, wrong) == ["person.pattern ^sub-(lab1.*)$ does not match sub-lab2x01"]


@pytest.mark.usefixtures("two_contrasts")
def test_a_person_can_be_told_by_a_column_of_participants_tsv(tmp_path: Path) -> None:
    table = "participant_id\tperson\nsub-02\tanna\nsub-77\tnobody\nsub-01\tanna\n"
    (tmp_path / "bids/participants.tsv").write_text("\ufeff" + table, encoding="utf-8")
    source = BIDS.replace("}", ", contrasts: [T1w], person: {column: person}}")
    found = scanned(tmp_path, source)
    assert {case.person for case in found.cases} == {"anna"}
    assert {case.subject for case in found.cases} == {"sub-01", "sub-02"}


@pytest.mark.usefixtures("two_contrasts")
def test_a_column_that_is_missing_or_empty_is_a_problem(tmp_path: Path) -> None:
    table = tmp_path / "bids/participants.tsv"
    table.write_text("participant_id\tperson\nsub-01\tanna\nsub-02\t\n")
    keys = ", contrasts: [T1w], sessions: ['1'], person: {column: person}}"
    assert problems(tmp_path, BIDS.replace("}", keys)) == ["person.column: no person for sub-02"]
    table.unlink()
    assert len(problems(tmp_path, BIDS.replace("}", keys))) == 2


def test_one_image_as_nii_and_nii_gz_would_become_one_case_and_is_refused(
    tmp_path: Path, put: Put
) -> None:
    put(
        "bids/sub-01/anat/sub-01_T2w.nii.gz",
        "bids/sub-01/anat/sub-01_T2w.nii",
        f"{LABELS}/sub-01/anat/sub-01_T2w_seg.nii.gz",
    )
    (problem,) = problems(tmp_path, BIDS)
    assert problem.endswith("would both become case s1-sub-01-T2w")


# --- nnU-Net -------------------------------------------------------------------------------------

NNUNET = "{type: nnunet, path: HERE/raw, contrast: T2w}"


def write_dataset(folder: Path, labels: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))


def test_an_nnunet_data_set_keeps_its_channels_in_order(tmp_path: Path, put: Put) -> None:
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
    assert [Path(image).name for image in by_id(found)["s1-neck-b"].images] == [
        "neck_b_0000.nii.gz",
        "neck_b_0001.nii.gz",
    ]
    assert {case.contrast for case in found.cases} == {"T2w"}
    assert {case.person for case in found.cases} == {"neck_a", "neck_b"}


def test_names_of_channels_are_kept_since_nnunet_normalises_by_them(
    tmp_path: Path, put: Put
) -> None:
    put("raw/imagesTr/a_0000.nii.gz", "raw/labelsTr/a.nii.gz")
    put("other/imagesTr/b_0000.nii.gz", "other/labelsTr/b.nii.gz")
    told = {"labels": {"background": 0, "cord": 1}, "channel_names": {"0": "CT"}}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(told))
    assert scanned(tmp_path, NNUNET).channel_names == ("CT",)
    told["channel_names"] = {"0": "T2"}
    (tmp_path / "other/dataset.json").write_text(json.dumps(told))
    (problem,) = problems(tmp_path, NNUNET, NNUNET.replace("raw", "other"))
    assert "channels ('T2',) differ from ('CT',)" in problem


def test_a_label_without_its_image_is_a_problem(tmp_path: Path, put: Put) -> None:
    put("raw/labelsTr/a.nii.gz", "raw/labelsTr/b[1].nii.gz", "raw/imagesTr/b[1]_0000.nii.gz")
    write_dataset(tmp_path / "raw", {"background": 0, "cord": 1})
    assert problems(tmp_path, NNUNET) == [
        f"{tmp_path}/raw/labelsTr/a.nii.gz: no image a_0000 in imagesTr"
    ]


@pytest.mark.parametrize(
    "labels",
    [{}, {"cord": [1, 2]}, {"cord": "x"}, {"cord": 3}, {"cord": -1}, {"a": 1, "b": 1}, {"a": 1.5}],
)
def test_labels_that_are_not_numbered_without_gaps_are_a_problem(
    tmp_path: Path, put: Put, labels: dict[str, object]
) -> None:
    put("raw/labelsTr/a.nii.gz", "raw/imagesTr/a_0000.nii.gz")
    write_dataset(tmp_path / "raw", {"background": 0, **labels})
    assert problems(tmp_path, NNUNET) == [
        f"{tmp_path}/raw/dataset.json: labels {labels} are not numbered 1, 2, …"
    ]


@pytest.mark.parametrize("labels", [None, ["cord"], 7])
def test_labels_that_cannot_be_read_are_a_problem(tmp_path: Path, put: Put, labels: object) -> None:
    put("raw/labelsTr/a.nii.gz", "raw/imagesTr/a_0000.nii.gz")
    write_dataset(tmp_path / "raw", labels)
    (problem,) = problems(tmp_path, NNUNET)
    assert problem.startswith(f"{tmp_path}/raw/dataset.json: labels cannot be read (")


def test_sources_with_different_labels_do_not_go_together(tmp_path: Path, put: Put) -> None:
    put("raw/labelsTr/a.nii.gz", "raw/imagesTr/a_0000.nii.gz")
    write_dataset(tmp_path / "raw", {"background": 0, "canal": 1})
    put("bids/sub-01/anat/sub-01_T2w.nii.gz", f"{LABELS}/sub-01/anat/sub-01_T2w_seg.nii.gz")
    assert problems(tmp_path, BIDS, NNUNET) == [
        "data[1]: labels {'canal': 1} differ from {'cord': 1} before it"
    ]


# --- tables of pairs -----------------------------------------------------------------------------


def pairs(folder: Path, text: str, *, name: str = "pairs.csv") -> str:
    (folder / name).write_bytes(text.encode())
    return f"{{type: pairs, path: HERE/{name}}}"


@pytest.mark.parametrize(
    ("name", "comma", "mark"),
    [("pairs.csv", ",", ""), ("pairs.tsv", "\t", ""), ("pairs.csv", ",", "\ufeff")],
)
def test_a_table_names_files_from_its_own_folder(
    tmp_path: Path, put: Put, name: str, comma: str, mark: str
) -> None:
    put("images/a.nii.gz", "labels/a.nii.gz", "elsewhere/b.nii.gz")
    rows = [
        ["image", "label", "subject", "session", "contrast", "site"],
        ["images/a.nii.gz", "labels/a.nii.gz", "anna", "", "", "x"],
        [f"{tmp_path}/elsewhere/b.nii.gz", "labels/a.nii.gz", "ben", "2", "T1w", "y"],
    ]
    text = mark + "".join(comma.join(row) + "\r\n" for row in rows)
    source = pairs(tmp_path, text, name=name).replace("}", ", person: {column: site}}")
    first, second = scanned(tmp_path, source).cases
    assert first.images == (f"{tmp_path}/images/a.nii.gz",)
    assert (first.subject, first.person, first.session, first.contrast) == (
        "anna", "x", None, "MRI"
    )  # fmt: skip
    assert second.images == (f"{tmp_path}/elsewhere/b.nii.gz",)
    assert (second.session, second.contrast, second.person) == ("2", "T1w", "y")


def test_missing_columns_and_files_are_told_by_line(tmp_path: Path, put: Put) -> None:
    put("a.nii.gz")
    text = "image,label,subject\na.nii.gz,,\n,a.nii.gz,anna\na.nii.gz,gone.nii.gz,ben\n"
    assert problems(tmp_path, pairs(tmp_path, text)) == [
        f"{tmp_path}/pairs.csv:2: no label and no subject",
        f"{tmp_path}/pairs.csv:3: no image",
        f"{tmp_path}/pairs.csv:4: {tmp_path}/gone.nii.gz does not exist",
    ]


def test_a_table_without_rows_is_a_problem(tmp_path: Path) -> None:
    source = pairs(tmp_path, "image,label,subject\n")
    assert problems(tmp_path, source) == [f"data[0]: {tmp_path}/pairs.csv has no rows"]


def test_a_table_that_is_no_text_or_no_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes(b"image,label,subject\n\xff\xfe\n")
    with pytest.raises(CaHpcError, match=r"pairs\.csv cannot be read as a table"):
        scanned(tmp_path, "{type: pairs, path: HERE/pairs.csv}")
    with pytest.raises(CaHpcError, match="cannot be read as a table: Is a directory"):
        scanned(tmp_path, "{type: pairs, path: HERE}")


# --- all sources ---------------------------------------------------------------------------------


def test_cases_of_several_sources_have_different_names(tmp_path: Path, put: Put) -> None:
    put("bids/sub-01/anat/sub-01_T2w.nii.gz", f"{LABELS}/sub-01/anat/sub-01_T2w_seg.nii.gz")
    found = scanned(tmp_path, BIDS, BIDS.replace("}", ", name: again}"))
    assert [case.id for case in found.cases] == ["s1-sub-01-T2w", "again-sub-01-T2w"]


def test_a_case_is_named_in_letters_digits_and_dashes(tmp_path: Path, put: Put) -> None:
    put("a b_ü(1).nii.gz", "seg.nii.gz")
    text = "image,label,subject\na b_ü(1).nii.gz,seg.nii.gz,anna\n"
    (case,) = scanned(tmp_path, pairs(tmp_path, text)).cases
    assert re.fullmatch(r"[A-Za-z0-9-]+", case.id)


def test_of_many_problems_the_first_20_are_shown(tmp_path: Path) -> None:
    text = "image,label,subject\n" + "gone.nii.gz,gone.nii.gz,a\n" * 30
    with pytest.raises(CaHpcError) as refused:
        scanned(tmp_path, pairs(tmp_path, text))
    lines = refused.value.message.splitlines()
    assert lines[0] == "60 problems with the data"
    assert lines[-1] == "… and 40 more"
    assert len(lines) == 22
