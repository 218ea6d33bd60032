"""Durations and sizes: what people write, and what is read back of what was printed."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ca_hpc.core.units import (
    MOST_MIB,
    MOST_S,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@given(st.integers(min_value=1, max_value=MOST_S))
@example(MOST_S)
def test_a_duration_that_was_printed_is_read_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=1, max_value=MOST_MIB))
@example(MOST_MIB)
def test_a_size_that_was_printed_is_read_back(mib: int) -> None:
    assert parse_size(format_size(mib)) == mib


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24:00:00", 86400),
        ("1-00:00:00", 86400),
        ("1-02:03:04", 93784),
        ("100:00:00", 360000),
        ("90min", 5400),
        ("3h", 10800),
        ("1.5h", 5400),
        ("45 s", 45),
        ("2d", 172800),
    ],
)
def test_durations_are_whole_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "24",
        "24:00",
        "1:60:00",
        "1:00:61",
        "-1h",
        "3 hrs",
        "h",
        "1h30",
        "0h",
        "00:00:00",
        "10000d",
        "9" * 400 + "h",
    ],
)
def test_what_is_no_duration_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ValueError, match="duration") as refused:
        parse_duration(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "mib"),
    [("512MB", 512), ("16GB", 16384), ("16 GiB", 16384), ("1.5TB", 1572864), ("2G", 2048)],
)
def test_a_gigabyte_is_1024_megabytes_as_in_slurm(text: str, mib: int) -> None:
    assert parse_size(text) == mib


@pytest.mark.parametrize(
    "text", ["", "16", "16 gb", "GB", "-1GB", "0GB", "1e3GB", "65TB", "9" * 400 + "GB"]
)
def test_what_is_no_size_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ValueError, match="size") as refused:
        parse_size(text)
    assert repr(text) in str(refused.value)
