"""The figures of `make test-gpu`, from records whose answers are known."""

from __future__ import annotations

import pytest

from tests.gpu.figures import Record, Report, StockRow, together


def record(*, start: float, step: float, wait: float, count: int) -> Record:
    """``count`` steps of ``step`` seconds, each after ``wait`` seconds; it begins at ``start``."""
    steps = [start + index * (wait + step) + wait for index in range(count)]
    return Record(start, tuple((began, began + step) for began in steps), 1000, 1200)


def test_only_the_last_iterations_count() -> None:
    written = {
        "steps": [[0.0, 60.0], [60.0, 61.0], [61.5, 62.0], [62.5, 63.0]],
        "gpu_allocated_mib": None,
        "gpu_reserved_mib": None,
    }
    found = Record.parse(written, measured=2)
    assert found.before == 61.0
    assert found.seconds_per_iteration == 1.0
    assert found.waiting == 0.5


def test_a_training_that_did_not_warm_up_is_no_record() -> None:
    written = {"steps": [[0.0, 1.0]], "gpu_allocated_mib": None, "gpu_reserved_mib": None}
    with pytest.raises(ValueError):
        Record.parse(written, measured=1)


def test_folds_at_once_count_only_while_all_of_them_are_measured() -> None:
    early = record(start=0, step=0.75, wait=0.25, count=40)  # until 40
    late = record(start=20, step=1.5, wait=0.5, count=40)  # from 20
    assert together([early, late]) == pytest.approx(1.5)


def test_folds_that_hardly_met_give_no_rate() -> None:
    records = [record(start=start, step=1, wait=0, count=10) for start in (0, 8)]
    with pytest.raises(ValueError, match=r"\[2, 2\] iterations only"):
        together(records)


def test_a_row_compares_time_and_memory() -> None:
    slow = record(start=0, step=1.5, wait=0.5, count=10)
    row = StockRow(8, 7, ours=slow, stock=record(start=30, step=1, wait=0, count=10))
    assert (row.ratio, row.memory_ratio) == (2.0, 1.0)
    table = Report({"device": "card"}, beside_stock=[row]).markdown()
    assert (
        "| 8 | 7 | 2.000 s | 1.000 s | 2.00 | 25%, 0% | 1000 (1200) | 1000 (1200) | 1.00 |" in table
    )
