"""What the tables of a data set count."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca_hpc.report.case_rows import read_rows
from ca_hpc.report.contact_sheet import representatives
from ca_hpc.report.dataset import DatasetContent
from ca_hpc.report.dataset_tables import Fold, dataset_content
from tests.unit.report.data_runs import Row, cases_of, row, skipped, write_rows

TARGETS = ("cord", "lesion")


def content(
    folder: Path, rows: list[Row], *, folds: tuple[Fold, ...] = (), people: str = ""
) -> DatasetContent:
    write_rows(rows, folder / "cases.tsv")
    cases = cases_of(rows, people=people)
    return dataset_content(read_rows(folder / "cases.tsv", cases.cases), cases, folds=folds)


ROWS = [
    row("a", person="01"),
    row("b", person="01", contrast="T1w", split="val"),
    row("c", person="02", split="train"),
    row("d", source="clinic", person="01", split="site-b"),
    row("e", source="clinic", person="02", split="test"),
    skipped("f", source="clinic", person="03", problem="/f.nii.gz: is truncated"),
]


def test_images_and_people_are_counted_by_what_they_are_for(tmp_path: Path) -> None:
    found = content(tmp_path, ROWS)
    assert found.splits == ("folds", "train", "val", "site-b", "test")
    counts = {(r.source, r.contrast): (r.images, r.people, r.by_split) for r in found.counts}
    assert counts == {
        ("clinic", "T2w"): (2, 2, (0, 0, 0, 1, 1)),
        ("lab", "T1w"): (1, 1, (0, 0, 1, 0, 0)),
        ("lab", "T2w"): (2, 2, (1, 1, 0, 0, 0)),
        ("lab", None): (3, 2, (1, 1, 1, 0, 0)),
        (None, "T2w"): (4, 4, (1, 1, 0, 1, 1)),
        (None, None): (5, 4, (1, 1, 1, 1, 1)),
    }
    assert found.counts[-1].source is None and found.counts[-1].contrast is None


def test_shared_people_count_once(tmp_path: Path) -> None:
    rows = [row("a", source="3t"), row("b", source="7t")]
    assert content(tmp_path, rows, people="hospital").counts[-1].people == 1
    assert content(tmp_path, rows).counts[-1].people == 2


def test_what_is_left_out_is_listed_and_not_counted(tmp_path: Path) -> None:
    (left_out,) = content(tmp_path, ROWS).skipped
    assert (left_out.case, left_out.source, left_out.person, left_out.reason) == (
        "f",
        "clinic",
        "03",
        "/f.nii.gz: is truncated",
    )


def test_when_nothing_could_be_used_the_reasons_remain(tmp_path: Path) -> None:
    found = content(tmp_path, [skipped("a", problem="a: bad")])
    assert (found.counts, found.grids, len(found.skipped)) == ((), (), 1)


def test_grids_are_told_as_they_were_stored(tmp_path: Path) -> None:
    rows = [
        row("a", orientation="AIL", spacing_mm="0.8x3x0.5", shape="32x16x24"),
        row("b", spacing_mm="0.6x0.8x3", shape="24x40x16"),
        row("c"),
    ]
    (grid,) = content(tmp_path, rows).grids
    assert grid.orientations == (("RPI", 2), ("AIL", 1))
    assert grid.spacing_mm == ((0.5, 0.6), (0.8, 0.8), (3.0, 3.0))
    assert grid.shape == ((24, 24), (32, 40), (16, 16))


def test_labels_are_counted_and_measured_by_source(tmp_path: Path) -> None:
    rows = [
        row("a", volume_mm3="cord:100,lesion:8"),
        row("b", volume_mm3="cord:300,lesion:2", label_voxels_lost="cord:0,lesion:1"),
        row("c", label_voxels="cord:90,lesion:0", volume_mm3="cord:110,lesion:0"),
        row("d", source="clinic", label_voxels="cord:9,lesion:0", volume_mm3="cord:5,lesion:0"),
    ]
    found = content(tmp_path, rows)
    told = {(r.label, r.source): (r.images, r.empty, r.cut, r.volume_mm3) for r in found.labels}
    assert told == {
        ("cord", "clinic"): (1, 0, 0, (5, 5, 5)),
        ("cord", "lab"): (3, 0, 0, (100, 110, 300)),
        ("lesion", "clinic"): (1, 1, 0, None),
        ("lesion", "lab"): (3, 1, 1, (2, 5, 8)),
    }
    assert found.volumes["lesion"] == {"clinic": (), "lab": (8, 2)}


def test_pathologies_are_those_of_sources_that_know_any(tmp_path: Path) -> None:
    rows = [
        row("a", pathology="MS"),
        row("b", pathology="MS"),
        row("c", person="02"),
        row("d", source="clinic"),
    ]
    found = content(tmp_path, rows).pathologies
    assert [(r.source, r.pathology, r.images, r.people) for r in found] == [
        ("lab", None, 1, 1),
        ("lab", "MS", 2, 1),
    ]
    assert content(tmp_path, rows[3:]).pathologies == ()


def test_folds_show_how_they_are_balanced_over_sources_and_contrasts(tmp_path: Path) -> None:
    rows = [
        row("a"),
        row("b", person="02", contrast="T1w"),
        row("c", source="clinic"),
        row("d", source="unseen", split="site-b"),
    ]
    folds = ({"train": ["a"], "val": ["b", "c"]}, {"train": ["b", "c"], "val": ["a"]})
    by_source, by_contrast = content(tmp_path, rows, folds=folds).folds
    assert (by_source.kind, by_source.groups) == ("source", ("clinic", "lab"))
    assert [r.by_group for r in by_source.rows] == [(1, 1), (0, 1)]
    assert (by_source.rows[0].train, by_source.rows[0].val) == ((1, 1), (2, 2))
    assert (by_contrast.kind, by_contrast.groups) == ("contrast", ("T1w", "T2w"))
    assert [r.by_group for r in by_contrast.rows] == [(1, 1), (0, 1)]


def test_one_division_has_no_table_of_folds(tmp_path: Path) -> None:
    assert content(tmp_path, ROWS, folds=({"train": ["c"], "val": ["b"]},)).folds == ()


def test_a_picture_stands_for_each_source_and_contrast(tmp_path: Path) -> None:
    rows = [
        row("small", volume_mm3="cord:10,lesion:1"),
        row("large", volume_mm3="cord:90,lesion:1"),
        row("middle", volume_mm3="cord:50,lesion:1"),
        row("other", contrast="T1w"),
        row("clinic", source="clinic", split="site-b"),
        skipped("bad", source="third", problem="bad"),
    ]
    write_rows(rows, tmp_path / "cases.tsv")
    found = read_rows(tmp_path / "cases.tsv", cases_of(rows).cases)
    chosen = representatives(found, targets=TARGETS)
    assert [r.case for _, r in chosen] == ["clinic", "other", "middle"]


def test_a_target_is_shown_by_an_image_that_has_it_also_where_most_have_not(tmp_path: Path) -> None:
    rows = [
        row("a", volume_mm3="cord:10,lesion:0"),
        row("b", volume_mm3="cord:50,lesion:0"),
        row("c", volume_mm3="cord:90,lesion:3"),
        row("d", source="healthy", volume_mm3="cord:40,lesion:0"),
        row("e", source="unlabelled", volume_mm3="cord:0,lesion:0"),
    ]
    write_rows(rows, tmp_path / "cases.tsv")
    found = read_rows(tmp_path / "cases.tsv", cases_of(rows).cases)
    chosen = [(target, r.case) for target, r in representatives(found, targets=TARGETS)]
    assert chosen == [("cord", "d"), ("lesion", "c"), ("cord", "b"), ("", "e")]
    first = representatives(found, targets=TARGETS, most=3)
    assert [r.case for _, r in first] == ["d", "c", "e"]


@pytest.mark.parametrize(("most", "chosen"), [(3, "a1 b1 c1"), (4, "a1 a2 b1 c1")])
def test_where_pictures_are_too_many_every_source_has_one(
    tmp_path: Path, most: int, chosen: str
) -> None:
    rows = [
        row(f"{source}{number}", source=source, contrast=f"C{number}")
        for source in "abc"
        for number in (1, 2, 3)
    ]
    write_rows(rows, tmp_path / "cases.tsv")
    found = read_rows(tmp_path / "cases.tsv", cases_of(rows).cases)
    pictures = representatives(found, targets=TARGETS, most=most)
    assert " ".join(r.case for _, r in pictures) == chosen
