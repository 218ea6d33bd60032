"""The text of a YAML file: every value has a place, and none has two meanings."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.yaml_door import MOST_NODES, Document, read_yaml

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=15,
)


def texts(document: Document) -> list[str]:
    return [f"{problem.place}: {problem.text}" for problem in document.problems]


def holds_exponents(value: Any) -> bool:
    """1E0 is a number to YAML 1.2 and here, but text to PyYAML, which writes it without quotes."""
    if isinstance(value, dict):
        return any(map(holds_exponents, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(holds_exponents, value))
    return isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value) is not None


@given(plain_values.filter(lambda value: not holds_exponents(value)))
def test_what_a_yaml_writer_quotes_where_needed_is_read_back(value: Any) -> None:
    document = read_yaml(yaml.safe_dump(value))
    assert not document.problems
    assert document.value == value


@given(st.text(max_size=60))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    document = read_yaml(text)
    assert document.value is None or isinstance(document.value, str | int | float | list | dict)


def test_every_key_and_item_has_its_line_and_column() -> None:
    document = read_yaml("name: x\nfolds: [0, 1]\ntraining:\n  epochs: 2\n")
    assert {path: str(place) for path, place in document.places.items()} == {
        (): "1:1",
        ("name",): "1:1",
        ("folds",): "2:1",
        ("folds", 0): "2:9",
        ("folds", 1): "2:12",
        ("training",): "3:1",
        ("training", "epochs"): "4:3",
    }


def test_what_is_not_there_stands_where_its_nearest_parent_stands() -> None:
    document = read_yaml("a: 1\ntraining:\n  epochs: 2\n")
    assert str(document.place(("training", "seed"))) == "2:1"
    assert str(document.place(("missing", 3))) == "1:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),  # text to a YAML 1.1 reader
        ("1.5", 1.5),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("1-00:00:00", "1-00:00:00"),
        ("3h", "3h"),
        ("n", "n"),
        ("nan", "nan"),
        ("/data/a b", "/data/a b"),
    ],
)
def test_a_plain_scalar_is_null_true_false_a_number_or_text(text: str, value: object) -> None:
    document = read_yaml(f"key: {text}")
    assert not document.problems
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("24:00:00", 'is a number to some YAML readers; write "24:00:00"'),
        ("12:30", 'is a number to some YAML readers; write "12:30"'),
        ("no", 'is true or false to some YAML readers; write true or false, or "no"'),
        ("Yes", 'write true or false, or "Yes"'),
        ("on", 'write true or false, or "on"'),
        ("OFF", 'write true or false, or "OFF"'),
        ("2025-01-01", 'is a date to some YAML readers; write "2025-01-01"'),
        ("2025-01-01 10:00:00", "is a date"),
        ("0777", 'write it in decimal digits, or "0777"'),
        ("1_000", 'write it in decimal digits, or "1_000"'),
        ("0x1F", 'write it in decimal digits, or "0x1F"'),
        ("0b11", "write it in decimal digits"),
        (".inf", "write it in digits"),
    ],
)
def test_what_yaml_readers_disagree_about_must_be_quoted(text: str, told: str) -> None:
    (problem,) = texts(read_yaml(f"key: {text}"))
    assert problem.startswith(f"1:6: {text} without quotes is")
    assert told in problem
    quoted = read_yaml(f'key: "{text}"')
    assert (quoted.value, quoted.problems) == ({"key": text}, ())


@pytest.mark.parametrize("key", ["yes", "no", "on", "off"])
def test_a_key_that_is_true_or_false_to_some_readers_must_be_quoted(key: str) -> None:
    (problem,) = texts(read_yaml(f"a: 1\n{key}: 2\n"))
    assert problem.startswith(f"2:1: {key} without quotes is true or false")


def test_a_number_as_a_key_is_the_text_that_was_written() -> None:
    assert read_yaml("1: a\n").value == {"1": "a"}


@pytest.mark.parametrize("key", ["null", "true", "[a, b]", "{a: 1}"])
def test_a_key_must_be_text(key: str) -> None:
    (problem,) = texts(read_yaml(f"? {key}\n: 1\n"))
    assert problem == "1:3: a key must be text"


def test_a_key_given_twice_is_told_at_its_second_place() -> None:
    assert texts(read_yaml("a: 1\nb: 2\na: 3\n")) == ["3:1: a is given twice"]


@pytest.mark.parametrize(
    "value",
    ["!!str 12", "!foo x", "!!binary aGVsbG8=", "!!set {a}", "!!python/object/apply:os.system [x]"],
)
def test_tags_are_refused(value: str) -> None:
    (problem,) = texts(read_yaml(f"key: {value}"))
    assert problem.startswith("1:6: tag ")
    assert problem.endswith(" is not known here")


def test_an_alias_stands_for_what_it_names() -> None:
    document = read_yaml("a: &x {cpus: 2}\nb: *x\n")
    assert (document.value, document.problems) == ({"a": {"cpus": 2}, "b": {"cpus": 2}}, ())


def test_an_alias_that_contains_itself_is_a_problem_not_an_endless_loop() -> None:
    assert texts(read_yaml("a: &x {b: *x}\n")) == ["1:4: an alias that contains itself"]


def test_an_alias_bomb_is_refused_before_it_fills_the_memory() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    document = read_yaml("\n".join(lines))  # 9 ** 9 items
    assert document.value is None
    assert [text.partition(" ")[2] for text in texts(document)] == ["too large for a spec"]
    assert MOST_NODES < 9**9


def test_endless_nesting_is_refused() -> None:
    assert texts(read_yaml("[" * 20_000)) == ["1:1: too deeply nested for a spec"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("kind:\tfinetune\n\tname: x\n", "1:6"),
        ("a: 1\nb: [unclosed\n", "3:1"),
        ("a: *nobody\n", "1:4"),
        ("a: 1\n---\nb: 2\n", "2:1"),
        ("a: \x00", "1:1"),
    ],
)
def test_text_that_is_no_yaml_is_told_with_its_place(text: str, place: str) -> None:
    document = read_yaml(text)
    assert document.value is None
    assert [str(problem.place) for problem in document.problems] == [place]


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "\ufeff"])
def test_an_empty_file_is_null(text: str) -> None:
    assert read_yaml(text).value is None


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert read_yaml("\ufeffname: x\n").value == {"name": "x"}
