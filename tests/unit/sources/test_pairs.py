"""Tables of pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc.core.record import LabelFile
from tests.unit.sources.scanning import problems, scanned, with_keys

Put = Callable[..., None]


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
        ["image", "label", "subject", "session", "contrast", "site", "pathology"],
        ["images/a.nii.gz", "labels/a.nii.gz", "anna", "", "", "x", ""],
        [f"{tmp_path}/elsewhere/b.nii.gz", "labels/a.nii.gz", "ben", "2", "T1w", "y", "MS"],
    ]
    text = mark + "".join(comma.join(row) + "\r\n" for row in rows)
    source = with_keys(pairs(tmp_path, text, name=name), "person: {column: site}")
    first, second = scanned(tmp_path, source).cases
    assert first.images == (f"{tmp_path}/images/a.nii.gz",)
    assert (first.subject, first.person, first.session, first.contrast, first.pathology) == (
        "anna", "x", None, "MRI", None,
    )  # fmt: skip
    assert second.images == (f"{tmp_path}/elsewhere/b.nii.gz",)
    assert (second.session, second.contrast, second.person, second.pathology) == (
        "2", "T1w", "y", "MS",
    )  # fmt: skip


def test_missing_cells_and_files_are_told_by_line(tmp_path: Path, put: Put) -> None:
    put("a.nii.gz")
    text = "image,label,subject\na.nii.gz,,\n,a.nii.gz,anna\n\na.nii.gz,gone.nii.gz,ben\n"
    assert problems(tmp_path, pairs(tmp_path, text)) == [
        f"{tmp_path}/pairs.csv:2: no label and no subject",
        f"{tmp_path}/pairs.csv:3: no image",
        f"{tmp_path}/pairs.csv:5: {tmp_path}/gone.nii.gz does not exist",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,subject\n", "no column label; its columns: image, subject"),
        ("label\n", "no column image and no subject; its columns: label"),
        ("", "no column image and no label and no subject; its columns: none"),
        ("image,label,subject,label_chord\n", "column label_chord: no such label; labels: cord"),
        ("image,label,subject,mask_x\n", "column mask_x: no such mask; masks: none"),
    ],
)
def test_missing_and_strange_columns_are_told_once(tmp_path: Path, text: str, reason: str) -> None:
    assert problems(tmp_path, pairs(tmp_path, text)) == [f"{tmp_path}/pairs.csv: {reason}"]


def test_a_table_without_rows_is_a_problem(tmp_path: Path) -> None:
    source = pairs(tmp_path, "image,label,subject\n")
    assert problems(tmp_path, source) == [f"data[0]: {tmp_path}/pairs.csv has no rows"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"image,label,subject\n\xff\xfe\n", " cannot be read as a table: it is no UTF-8 text"),
        (b'image,label,subject\n"a,b,c\n1,2,3\n', ":3: cannot be read as a table: unexpected end"),
        (b"image,label,subject\na,b,c,d\n", ":2: 4 cells under 3 columns"),
        (b"image,label,image\n", ":1: two columns are named image"),
        (b"image,label,subject\n" + b"x" * 200_000, ":2: cannot be read as a table: field larger"),
    ],
)
def test_what_is_no_table_is_told_as_such(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / "pairs.csv").write_bytes(text)
    (problem,) = problems(tmp_path, "{type: pairs, path: HERE/pairs.csv}")
    assert problem.startswith(f"{tmp_path}/pairs.csv{reason}")


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "{type: pairs, path: HERE}")
    assert problem == f"{tmp_path} cannot be read as a table: it is a folder"


def test_names_with_commas_quotes_and_null_characters(tmp_path: Path, put: Put) -> None:
    put('a,"b".nii.gz', "seg.nii.gz")
    text = 'image,label,subject\n"a,""b"".nii.gz",seg.nii.gz,1\n'
    (case,) = scanned(tmp_path, pairs(tmp_path, text)).cases
    assert case.id == "s1-1-a-b-"
    text = "image,label,subject\na\0.nii.gz,seg.nii.gz,1\n"
    (problem,) = problems(tmp_path, pairs(tmp_path, text))
    assert problem.startswith(f"{tmp_path}/pairs.csv:2: ")
    assert "null" in problem


def test_a_cell_of_several_lines_is_no_subject(tmp_path: Path, put: Put) -> None:
    put("a.nii.gz", "seg.nii.gz")
    text = 'image,label,subject\na.nii.gz,seg.nii.gz,"a\nb"\n'
    assert problems(tmp_path, pairs(tmp_path, text)) == [
        rf"{tmp_path}/pairs.csv:3: a\nb_a: its subject 'a\nb' is more than a line of text"
    ]


def test_an_image_is_not_its_own_label(tmp_path: Path, put: Put) -> None:
    put("a.nii.gz")
    source = pairs(tmp_path, "image,label,subject\na.nii.gz,a.nii.gz,1\n")
    assert problems(tmp_path, source) == [
        f"{tmp_path}/pairs.csv:2: {tmp_path}/a.nii.gz is an image and its own label"
    ]


# --- channels, labels, masks ---------------------------------------------------------------------


def test_channels_are_separated_by_semicolons(tmp_path: Path, put: Put) -> None:
    put("t1.nii.gz", "t2.nii.gz", "seg.nii.gz")
    text = "image,label,subject\nt1.nii.gz; t2.nii.gz,seg.nii.gz,1\n"
    found = scanned(tmp_path, pairs(tmp_path, text))
    assert found.cases[0].images == (f"{tmp_path}/t1.nii.gz", f"{tmp_path}/t2.nii.gz")
    assert found.channel_names == ("MRI", "MRI")
    text += "t1.nii.gz,seg.nii.gz,2\n"
    assert f"{tmp_path}/t1.nii.gz has 1 channels, {tmp_path}/t1.nii.gz 2" in problems(
        tmp_path, pairs(tmp_path, text)
    )


def test_labels_and_masks_may_have_columns_each(tmp_path: Path, put: Put) -> None:
    put("a.nii.gz", "cord.nii.gz", "lesion.nii.gz", "levels.nii.gz", "both.nii.gz", "b.nii.gz")
    text = (
        "image,label,label_lesion,label_cord,mask_levels,subject\n"
        "a.nii.gz,,lesion.nii.gz,cord.nii.gz,levels.nii.gz,1\n"
        "b.nii.gz,both.nii.gz,,,levels.nii.gz,2\n"
        "c.nii.gz,,,cord.nii.gz,levels.nii.gz,3\n"
        "d.nii.gz,both.nii.gz,,,,4\n"
    )
    more = "labels: {cord: 1, lesion: 2}\nmask_channels: {levels: _levels}"
    found = scanned(tmp_path, pairs(tmp_path, text), more=more)
    first, second = found.cases
    assert first.labels == (
        LabelFile(f"{tmp_path}/cord.nii.gz", "cord"),
        LabelFile(f"{tmp_path}/lesion.nii.gz", "lesion"),
    )
    assert first.masks == (f"{tmp_path}/levels.nii.gz",)
    assert second.labels == (LabelFile(f"{tmp_path}/both.nii.gz"),)
    assert found.channel_names == ("MRI", "noNorm")
    assert found.remarks == (
        "1 image of s1 has a cord but no lesion file; left out: 3_c",
        "1 image of s1 has a label but no levels file; left out: 4_d",
    )


def test_cases_may_have_a_column_for_their_names(tmp_path: Path, put: Put) -> None:
    put("1/t2.nii.gz", "2/t2.nii.gz", "seg.nii.gz")
    text = "image,label,subject\n1/t2.nii.gz,seg.nii.gz,1\n2/t2.nii.gz,seg.nii.gz,2\n"
    found = scanned(tmp_path, pairs(tmp_path, text))
    assert [case.id for case in found.cases] == ["s1-1-t2", "s1-2-t2"]
    again = text + "./1/t2.nii.gz,seg.nii.gz,1\n"
    (problem,) = problems(tmp_path, pairs(tmp_path, again))
    assert problem.endswith("would both become case s1-1-t2")
    text = "image,label,subject,case\n1/t2.nii.gz,seg.nii.gz,1,x\n2/t2.nii.gz,seg.nii.gz,2,y\n"
    found = scanned(tmp_path, pairs(tmp_path, text))
    assert [case.id for case in found.cases] == ["s1-x", "s1-y"]


# --- splits --------------------------------------------------------------------------------------


def test_a_table_may_have_its_split(tmp_path: Path, put: Put) -> None:
    put("a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz", "seg.nii.gz")
    roles = {"a": "train", "b": "validation", "c": "site-b", "d": ""}
    text = "image,label,subject,split\n"
    text += "".join(f"{n}.nii.gz,seg.nii.gz,{n},{role}\n" for n, role in roles.items())
    found = scanned(tmp_path, pairs(tmp_path, text))
    assert {case.subject: case.split for case in found.cases} == {
        "a": "train", "b": "val", "c": "site-b", "d": None,
    }  # fmt: skip
    assert problems(tmp_path, pairs(tmp_path, text.replace("site-b", "site/b"))) == [
        f"{tmp_path}/pairs.csv:4: split 'site/b': use letters, digits, - and _ only"
    ]
