"""Figures with a row per source: every value has its dot, crowds are thinned, scales fit."""

from __future__ import annotations

import re

import pytest

from ca_hpc.report.dataset_view import VolumeUnit, ranges
from ca_hpc.report.strips import stacked_bars, strip_plot


def dots(svg: str) -> int:
    return svg.count("<use ")


def strip(**groups: list[float]) -> str:
    return strip_plot({"cord": groups}, xlabel="volume", description="Volume per source")


def test_each_value_is_a_dot_and_each_source_a_row() -> None:
    some, more = strip(lab=[10, 20, 40], clinic=[15]), strip(lab=[10, 20, 30, 40], clinic=[15])
    assert dots(more) == dots(some) + 1
    assert ">lab</text>" in some and ">clinic</text>" in some


def test_a_crowd_takes_no_more_room_than_can_be_seen() -> None:
    crowd = [10 + (k % 100) / 10 for k in range(2000)]
    assert len(strip(lab=crowd)) < 80_000


def test_values_over_orders_of_magnitude_have_a_logarithmic_axis_with_plain_numbers() -> None:
    wide = strip(lab=[1, 10, 1000])
    assert {">10</text>", ">100</text>"} <= set(re.findall(r">[\d.]+</text>", wide))
    assert ">100</text>" not in strip(lab=[990, 1000, 1010])


def test_equal_values_and_zero_are_drawn() -> None:
    assert dots(strip(lab=[5, 5])) == dots(strip(lab=[5])) + 1
    assert dots(strip(lab=[0, 400])) > 0


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.12345, 0.1236], [0.5, 20, 30_000]])
def test_an_axis_has_no_more_ticks_than_have_room(values: list[float]) -> None:
    svg = strip_plot({"cord": {"lab": values}}, xlabel="x", description="x", from_zero=False)
    ticks = re.findall(r">[\d.\N{MINUS SIGN}]+</text>", svg)
    assert 2 <= len(ticks) <= 7


def test_a_source_without_values_keeps_its_row() -> None:
    assert ">clinic</text>" in strip(lab=[1, 2], clinic=[])


def test_rare_parts_of_a_bar_are_put_together() -> None:
    parts = {f"C{number}": 20 - number for number in range(12)}
    svg = stacked_bars({"lab": parts}, xlabel="images", description="Images")
    assert ">C0</text>" in svg and ">C5</text>" in svg
    assert ">C6</text>" not in svg and ">6 others</text>" in svg


def test_names_with_dollar_signs_are_not_formulas() -> None:
    svg = stacked_bars({"$a$": {"$x$": 1, "y": 2}}, xlabel="images", description="Images")
    assert ">$a$</text>" in svg and ">$x$</text>" in svg


@pytest.mark.parametrize(
    ("volumes", "unit", "text"), [((17_612.0,), "cm³", "17.6"), ((4.75, 120.0), "mm³", "4.75")]
)
def test_volumes_have_the_unit_that_suits_them(
    volumes: tuple[float, ...], unit: str, text: str
) -> None:
    found = VolumeUnit.of(volumes)
    assert (found.name, found.text(volumes[0])) == (unit, text)


def test_ranges_say_one_number_where_there_is_one() -> None:
    assert ranges([(0.5, 0.8), (0.699951, 0.7), (3, 5)]) == "0.5–0.8 × 0.7 × 3–5"
    assert ranges([(24, 24), (1024, 1280)], 6) == "24 × 1024–1280"
    assert ranges([]) == "not known"
