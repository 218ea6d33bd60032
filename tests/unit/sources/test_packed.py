"""Packs beside other sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc.core.record import Cases
from ca_hpc.errors import DigestMismatch
from ca_hpc.sources.scan import missing_files
from ca_hpc.store.pack_writer import write_pack
from tests.unit.sources.scanning import BIDS, problems, scanned, with_keys

Put = Callable[..., None]

PACK = "{type: pack, path: HERE/study.tar}"
NAMED = with_keys(BIDS, "name: brno, test_set: held-out")


@pytest.fixture
def packed(tmp_path: Path, put_bids: Put) -> Cases:
    """What was found where the pack was made."""
    put_bids("sub-01_T2w", "sub-02_T2w")
    found = scanned(tmp_path, NAMED)
    write_pack(found, tmp_path / "study.tar", ca_hpc="1", progress=lambda done, total: None)
    return found


def test_cases_of_a_pack_keep_their_names_people_and_test_sets(
    tmp_path: Path, packed: Cases
) -> None:
    (tmp_path / "split.yaml").write_text("train: [sub-01]\nval: [sub-02]\n")
    for more in ("", "splits: {file: HERE/split.yaml}"):
        found = scanned(tmp_path, PACK, more=more)
        assert [case.id for case in found.cases] == [case.id for case in packed.cases]
        assert {(c.source, c.people, c.split) for c in found.cases} == {
            ("brno", "brno", "held-out")
        }
        assert {case.archive for case in found.cases} == {f"{tmp_path}/study.tar"}
        assert missing_files(found) == []
    assert (found.labels, found.channel_names) == (packed.labels, packed.channel_names)


def test_a_pack_goes_beside_sources_with_other_names_and_the_same_labels(
    tmp_path: Path, packed: Cases
) -> None:
    assert len(scanned(tmp_path, PACK, BIDS).cases) == 4
    assert problems(tmp_path, PACK, NAMED)[-1] == (
        "data[1]: has a source named brno, as data[0] has; give it another name"
    )
    assert problems(tmp_path, PACK, BIDS, more="labels: {canal: 1}") == [
        "data[1]: labels {'canal': 1} differ from {'cord': 1} before it"
    ]


@pytest.mark.usefixtures("packed")
def test_a_pack_that_is_none_or_another(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch):
        scanned(tmp_path, with_keys(PACK, f"sha256: '{'0' * 64}'"))
    (tmp_path / "study.tar").write_text("no pack")
    (problem,) = problems(tmp_path, PACK)
    assert problem.startswith("data[0]: ")
    (tmp_path / "study.tar").unlink()
    (problem,) = problems(tmp_path, PACK)
    assert problem.startswith("data[0]: ")
