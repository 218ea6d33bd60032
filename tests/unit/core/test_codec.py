"""Records as JSON: what was written comes back, and nothing else is taken for a record."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Case, Cases, LabelFile, Result
from ca_hpc.errors import CaHpcError

texts = st.text(st.characters(codec="utf-8"), max_size=20)
cases = st.builds(
    Case,
    id=texts, source=texts, images=st.lists(texts, max_size=3).map(tuple),
    labels=st.lists(st.builds(LabelFile, texts, st.none() | texts), max_size=2).map(tuple),
    subject=texts, person=texts, session=st.none() | texts, contrast=texts,
)  # fmt: skip
results = st.builds(
    Result,
    task=texts, attempt=texts, state=st.sampled_from(TaskState), exit_code=st.integers(-64, 255),
    started=texts, ended=texts, seconds=st.floats(0, 1e9), host=texts,
    cause=st.none() | texts, hint=st.none() | texts,
)  # fmt: skip


@given(st.builds(Cases, dataset=texts, labels=st.dictionaries(texts, st.integers(0, 255)),
                 cases=st.lists(cases, max_size=3).map(tuple)))  # fmt: skip
def test_cases_come_back_as_they_were(record: Cases) -> None:
    assert decode(Cases, encode(record)) == record


@given(results)
def test_a_result_comes_back_as_it_was(record: Result) -> None:
    assert decode(Result, encode(record)) == record


def test_json_is_for_people_too() -> None:
    text = encode(Result("t", "0001", TaskState.FAILED, 1, "a", "b", 1.0, "n", "naïve", None))
    assert text.startswith('{\n  "task": "t",\n')
    assert text.endswith("}\n")
    assert list(json.loads(text)) == [field.name for field in fields(Result)]
    assert (json.loads(text)["state"], json.loads(text)["cause"]) == ("FAILED", "naïve")


def test_a_path_is_text() -> None:
    assert decode(Path, encode(Path("/a b/ü"))) == Path("/a b/ü")


def test_a_path_that_is_no_text_is_told_and_not_written() -> None:
    with pytest.raises(CaHpcError, match=r"/data/caf\\udce9: its name is no UTF-8 text"):
        encode({"file": Path("/data/caf\udce9")})


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '{"task": 3}', '{"dataset": "d", "labels": {"a": "x"}, "cases": []}',
     '{"dataset": "d", "labels": {}, "cases": [], "new": ' + "[" * 200_000],
    ids=range(7),
)  # fmt: skip
def test_what_is_no_record_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        decode(Cases, text)
