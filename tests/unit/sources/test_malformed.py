"""Whatever stands in a file that others wrote: cases, or problems in words, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_hpc.core.record import Cases
from ca_hpc.errors import CaHpcError
from tests.unit.sources.scanning import BIDS, scanned, with_keys

Put = Callable[..., None]

# the keys that are looked for, so that what lies under them is reached
KEYS = st.sampled_from(
    ["labels", "channel_names", "train", "val", "test", "image", "label", "mask", "subject", "s1",
     "cord", "background", "0", "1", "sub-01", "case", "split"]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a.nii.gz", "sub-01", "sub-01_T2w.nii.gz", "train"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
CELLS = st.sampled_from(
    ["image", "label", "subject", "split", "a.nii.gz", "", '"', "\n", ",", "\0"]
)
TABLES = st.lists(st.lists(CELLS, max_size=5).map(",".join), max_size=5).map("\n".join)
CONTENTS = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | VALUES.map(lambda value: json.dumps(value).encode())
    | TABLES.map(str.encode)
    | TABLES.map(lambda text: b"image,label,subject,split\n" + text.encode())
)

SOURCES = {
    "raw/dataset.json": "{type: nnunet, path: HERE/raw}",
    "list.json": "{type: msd, path: HERE/list.json}",
    "pairs.csv": "{type: pairs, path: HERE/pairs.csv}",
    "pairs.tsv": "{type: pairs, path: HERE/pairs.tsv}",
    "bids/participants.tsv": with_keys(BIDS, "where: {subject: [a]}"),
    "a.yml": with_keys(BIDS, "exclude: [HERE/a.yml]"),
    "a.json": with_keys(BIDS, "include: [HERE/a.json]"),
    "a.csv": with_keys(BIDS, "exclude: [HERE/a.csv]"),
    "a.txt": with_keys(BIDS, "exclude: [HERE/a.txt]"),
    "split.yaml": with_keys(BIDS, "split: {file: HERE/split.yaml}"),
    "split.json": with_keys(BIDS, "split: {file: HERE/split.json}"),
}


@pytest.mark.parametrize("name", SOURCES)
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=CONTENTS)
def test_any_content_gives_cases_or_problems(
    tmp_path: Path, put: Put, put_bids: Put, name: str, content: bytes
) -> None:
    put_bids("sub-01_T2w", "sub-02_T2w")
    put("raw/imagesTr/a_0000.nii.gz", "raw/labelsTr/a.nii.gz", "a.nii.gz", name)
    (tmp_path / name).write_bytes(content)
    try:
        found = scanned(tmp_path, SOURCES[name])
    except CaHpcError as error:
        count, *lines = error.message.splitlines()
        assert count.startswith(f"{len(lines)} problem")
    else:
        assert isinstance(found, Cases)
        assert all(remark.isprintable() for remark in found.remarks)
