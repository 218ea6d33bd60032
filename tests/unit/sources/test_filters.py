"""``include``, ``exclude`` and ``where``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_hpc.core.data_spec import PairsSource
from ca_hpc.sources.filters import take
from ca_hpc.sources.found import Found, Listing
from tests.unit.sources.scanning import BIDS, problems, scanned, stems, with_keys

Put = Callable[..., None]

ALL = ["sub-01_T1w", "sub-01_T2w", "sub-02_ses-a_T2w", "sub-02_ses-b_T2w", "sub-site03_T2w"]


@pytest.fixture(autouse=True)
def images(put_bids: Put) -> None:
    put_bids(*ALL)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("sub-01", ["sub-01_T1w", "sub-01_T2w"]),
        ("'01'", ["sub-01_T1w", "sub-01_T2w"]),
        ("sub-02_ses-a", ["sub-02_ses-a_T2w"]),
        ("sub-02/ses-a", ["sub-02_ses-a_T2w"]),
        ("sub-01_T2w", ["sub-01_T2w"]),
        ("sub-01_T2w.nii.gz", ["sub-01_T2w"]),
        ("sub-01_T2w_seg.nii.gz", ["sub-01_T2w"]),
        ("sub-01/anat/sub-01_T2w.nii.gz", ["sub-01_T2w"]),
        ("./sub-01/anat/sub-01_T2w.nii.gz", ["sub-01_T2w"]),
        ("site", ["sub-site03_T2w"]),
    ],
)
def test_images_may_be_called_by_subject_session_name_or_path(
    tmp_path: Path, entry: str, names: list[str]
) -> None:
    included = scanned(tmp_path, with_keys(BIDS, f"include: [{entry}]"))
    excluded = scanned(tmp_path, with_keys(BIDS, f"exclude: [{entry}]"))
    assert stems(included) == names
    assert stems(excluded) == sorted(set(ALL) - set(names))
    assert included.remarks == excluded.remarks == ()


def test_what_is_included_can_be_excluded(tmp_path: Path) -> None:
    source = with_keys(BIDS, "include: [sub-01, sub-02], exclude: [sub-02_ses-b, sub-01_T1w]")
    assert stems(scanned(tmp_path, source)) == ["sub-01_T2w", "sub-02_ses-a_T2w"]


def test_an_entry_that_matches_nothing_is_told_with_what_is_like_it(tmp_path: Path) -> None:
    source = with_keys(BIDS, "exclude: [sub-01, sub-site3, sub-01_T2W, x, y, z]")
    assert scanned(tmp_path, source).remarks == (
        "s1: exclude: nothing is called sub-01_T2W (did you mean sub-01_T2w?), "
        "sub-site3 (did you mean sub-site03?), x and 2 more",
    )


def test_an_entry_for_a_contrast_that_is_not_wanted_is_no_typo(tmp_path: Path) -> None:
    source = with_keys(BIDS, "contrasts: [T2w], exclude: [sub-01_T1w]")
    found = scanned(tmp_path, source)
    assert len(found.cases) == 4
    assert found.remarks == ()


# --- files of lists ------------------------------------------------------------------------------

LISTS = {
    "qc_fail.yml": "FILES_SEG:\n- sub-01_T2w.nii.gz\nFILES_LABEL:\n- sub-02_ses-a_T2w.nii.gz\n",
    "exclude.yml": "csa_t1:\n- sub-01_T2w  # Motion\ncsa_t2:\n- sub-02/ses-a  # wrong FOV\nmtr:\n",
    "reasons.yaml": "sub-01_T2w.nii.gz: motion\nsub-02_ses-a_T2w.nii.gz: 'cut: half'\n",
    "items.yaml": "- sub-01_T2w.nii.gz: motion\n- sub-02_ses-a_T2w.nii.gz\n",
    "topics.yml": "qc:\n  sub-01_T2w: motion\n  sub-02_ses-a_T2w:\n",
    "LIST.YML": "[sub-01_T2w, sub-02_ses-a]",
    "list.txt": "# of 2024\nsub-01_T2w  # motion\n\n  sub-02_ses-a\r\n",
    "list.json": json.dumps(["sub-01_T2w", "sub-02_ses-a"]),
    "topics.json": json.dumps({"seg": ["sub-01_T2w"], "disc": ["sub-02_ses-a"]}),
    "list.csv": "image,why\nsub-01_T2w.nii.gz,motion\nsub-02_ses-a_T2w.nii.gz,\n",
    "files.tsv": "file\nsub-01/anat/sub-01_T2w.nii.gz\nsub-02_ses-a_T2w\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_every_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LISTS[name])
    found = scanned(tmp_path, with_keys(BIDS, f"exclude: [HERE/{name}]"))
    assert stems(found) == ["sub-01_T1w", "sub-02_ses-b_T2w", "sub-site03_T2w"]
    assert found.remarks == ()


def test_a_table_of_subjects_may_name_sessions(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("participant_id\tsession_id\n02\tses-a\nsub-01\t\n")
    found = scanned(tmp_path, with_keys(BIDS, "exclude: [HERE/a.tsv]"))
    assert stems(found) == ["sub-02_ses-a_T2w", "sub-02_ses-b_T2w", "sub-site03_T2w"]
    assert found.remarks == (
        "s1: exclude a.tsv: nothing is called 02_ses-a (did you mean sub-02_ses-a?)",
    )


def test_lists_and_entries_go_together_and_each_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("sub-01\nsub-77\n")
    source = with_keys(BIDS, "include: [sub-site03, HERE/a.txt, nobody]")
    found = scanned(tmp_path, source)
    assert stems(found) == ["sub-01_T1w", "sub-01_T2w", "sub-site03_T2w"]
    assert found.remarks == (
        "s1: include: nothing is called nobody",
        "s1: include a.txt: nothing is called sub-77",
    )


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yml", "a:\n\t- b\n", "a.yml:2:1: found character '\\t' that cannot start any token"),
        ("a.yml", "FILES_SEG: [a]\nFILES_SEG: [b]\n", "a.yml:2:1: FILES_SEG is given twice"),
        ("a.yml", "- [a, b]\n", "a.yml: ['a', 'b'] is no subject and no image"),
        ("a.yml", "a: &a [*a]\n", "a.yml:1:4: found unconstructable recursive node"),
        ("a.yml", "- {image: a, label: b}\n", "'image': 'a', 'label': 'b'} is no subject"),
        ("a.json", '{"a": [], "a": []}', "a.json: a is given twice"),
        ("a.yml", "just text\n", "a.yml: should be a list of subjects or images"),
        ("a.yml", "a\n---\nb\n", "a.yml:2:1: but found another document"),
        ("a.yml", "[" * 5000, "a.yml"),
        ("a.yml", "- \x01\n", "a.yml: unacceptable character"),
        ("a.yml", "? [a]\n: b\n", "a.yml:1:3: found unhashable key"),
        ("a.json", "[true]", "a.json: True is no subject and no image"),
        ("a.json", "7", "a.json: should be a list of subjects or images"),
        ("a.csv", "name\nx\n", "a.csv: no column image or participant_id; columns: name"),
        ("a.txt", "\udcff", "a.txt cannot be read as a list: it is no UTF-8 text"),
        ("gone.yml", None, "gone.yml cannot be read as YAML: No such file or directory"),
    ],
)
def test_a_list_that_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, name: str, text: str | None, reason: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    lines = problems(tmp_path, with_keys(BIDS, f"exclude: [HERE/{name}]"))
    assert len(lines) == 1
    assert lines[0].startswith(f"data[0].exclude: {tmp_path}/")
    assert reason in lines[0]


def test_a_list_is_not_waited_for_nor_read_without_end(tmp_path: Path) -> None:
    with (tmp_path / "big.yml").open("wb") as stream:
        stream.truncate(1 << 40)
    assert problems(tmp_path, with_keys(BIDS, "exclude: [HERE/big.yml, /dev/zero.txt]")) == [
        f"data[0].exclude: {tmp_path}/big.yml cannot be read as YAML: it is larger than 4 MB",
        "data[0].exclude: /dev/zero.txt cannot be read as a list: No such file or directory",
    ]


def test_aliases_of_aliases_do_not_grow(tmp_path: Path) -> None:
    levels = [f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    (tmp_path / "a.yml").write_text(f"- [&a0 [x], {', '.join(levels)}]")
    (problem,) = problems(tmp_path, with_keys(BIDS, "exclude: [HERE/a.yml]"))
    assert problem.endswith("is no subject and no image")


# --- where ---------------------------------------------------------------------------------------

TABLE = "participant_id\tpathology\tage\nsub-01\tMS\t30\nsub-02\tDCM\t40\nsub-site03\tMS\t40\n"


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("{pathology: [MS]}", ["sub-01_T1w", "sub-01_T2w", "sub-site03_T2w"]),
        ("{pathology: [MS], age: ['40']}", ["sub-site03_T2w"]),
        ("{age: ['30', '40']}", ALL),
    ],
)
def test_columns_choose_by_their_text(tmp_path: Path, where: str, names: list[str]) -> None:
    (tmp_path / "bids/participants.tsv").write_text(TABLE)
    assert stems(scanned(tmp_path, with_keys(BIDS, f"where: {where}"))) == names


def test_a_value_that_nobody_has_is_told(tmp_path: Path) -> None:
    (tmp_path / "bids/participants.tsv").write_text(TABLE)
    found = scanned(tmp_path, with_keys(BIDS, "where: {pathology: [MS, DCMs]}"))
    assert found.remarks == ("s1: where.pathology: nothing is called DCMs (did you mean DCM?)",)


def test_an_unknown_column_is_a_problem_that_lists_the_columns(tmp_path: Path) -> None:
    (tmp_path / "bids/participants.tsv").write_text(TABLE)
    source = with_keys(BIDS, "where: {Pathology: [MS]}, pathology: diagnosis")
    assert problems(tmp_path, source) == [
        f"data[0].{key}: participants.tsv has no column {column}; "
        "its columns: participant_id, pathology, age"
        for key, column in (("where.Pathology", "Pathology"), ("pathology", "diagnosis"))
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    subjects=st.lists(st.from_regex(r"[a-z]{1,3}[0-9]{1,2}", fullmatch=True), unique=True),
    chosen=st.sets(st.from_regex(r"(sub-)?[a-z]{1,3}[0-9]{0,2}", fullmatch=True)),
)
def test_include_and_exclude_of_the_same_entries_divide_the_images(
    subjects: list[str], chosen: set[str]
) -> None:
    found = tuple(
        Found(
            stem=f"sub-{label}_T2w",
            folder=Path("/x"),
            images=(Path(f"/x/sub-{label}/anat/sub-{label}_T2w.nii.gz"),),
            labels=(),
            subject=f"sub-{label}",
        )
        for label in subjects
    )
    listing = Listing(found=found, empty="")

    def left(**keys: tuple[str, ...]) -> list[Found]:
        source = PairsSource(type="pairs", path="/x", **keys)
        return [*take(listing, source, key="data[0]", name="s1").found]

    entries = tuple(sorted(chosen))
    if entries:
        inside, outside = left(include=entries), left(exclude=entries)
        assert sorted(map(id, inside + outside)) == sorted(map(id, found))
        named = [each for each in inside if each.subject in chosen]
        assert named == [each for each in found if each.subject in chosen]
