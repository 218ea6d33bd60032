"""Rows of ``cases.tsv`` as the report reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca_hpc.errors import CaHpcError
from ca_hpc.report.case_rows import CaseRow, read_rows
from tests.unit.report.data_runs import Row, cases_of, row, skipped, write_rows


def read(folder: Path, *rows: Row) -> tuple[CaseRow, ...]:
    write_rows(rows, folder / "cases.tsv")
    return read_rows(folder / "cases.tsv", cases_of(rows).cases)


@pytest.mark.parametrize(
    ("orientation", "spacing", "by_axis"),
    [
        ("RPI", "0.5x0.8x3", (0.5, 0.8, 3.0)),
        ("AIL", "0.8x3x0.5", (0.5, 0.8, 3.0)),
        ("SRA", "3x0.5x0.8", (0.5, 0.8, 3.0)),
        ("", "0.5x0.8x3", None),
        ("RPI", "", None),
    ],
)
def test_numbers_of_stored_axes_are_told_by_anatomical_axis(
    tmp_path: Path, orientation: str, spacing: str, by_axis: tuple[float, float, float] | None
) -> None:
    (found,) = read(tmp_path, row("a", orientation=orientation, spacing_mm=spacing))
    assert found.spacing_mm == by_axis


def test_counts_are_those_of_each_label(tmp_path: Path) -> None:
    (found,) = read(tmp_path, row("a", label_voxels_lost="cord:7,lesion:0"))
    assert found.voxels == {"cord": 96, "lesion": 4}
    assert found.lost == {"cord": 7, "lesion": 0}
    assert found.volume_mm3 == {"cord": 115.2, "lesion": 4.8}


def test_what_is_left_out_has_a_reason_and_nothing_else(tmp_path: Path) -> None:
    (found,) = read(tmp_path, skipped("a", problem="/a.nii.gz: is truncated"))
    assert found.skipped and found.problem == "/a.nii.gz: is truncated"
    assert (found.spacing_mm, found.shape, found.voxels) == (None, None, {})


def test_a_person_of_two_sources_that_share_people_is_one(tmp_path: Path) -> None:
    rows = [row("a", source="3t"), row("b", source="7t")]
    write_rows(rows, tmp_path / "cases.tsv")
    apart = read_rows(tmp_path / "cases.tsv", cases_of(rows).cases)
    shared = read_rows(tmp_path / "cases.tsv", cases_of(rows, people="hospital").cases)
    assert [found.owner for found in apart] == [("3t", "01"), ("7t", "01")]
    assert [found.owner for found in shared] == [("hospital", "01")] * 2


def test_before_there_is_a_table_there_are_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "cases.tsv", ()) == ()


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match=r"cases\.tsv cannot be read"):
        read(tmp_path, row("a", label_voxels="cord:many"))
