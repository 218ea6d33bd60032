"""Packs beside other sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.core.record import Cases, LabelFile
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


def each(**given: Any) -> Callable[[Cases], Cases]:
    return lambda cases: replace(cases, cases=tuple(replace(case, **given) for case in cases.cases))


def whole(**given: Any) -> Callable[[Cases], Cases]:
    return lambda cases: replace(cases, **given)


TWO = {"cord": 1, "lesion": 2}
LIES = {
    "a value that is not 1": (whole(labels={"cord": 3}), "numbered"),
    "a value twice": (whole(labels={"cord": 1, "lesion": 1}), "numbered"),
    "no labels": (whole(labels={}), "numbered"),
    "a label that is a path": (whole(labels={"../x": 1}), "no name of a label"),
    "a label without a name": (whole(labels={"": 1}), "no name of a label"),
    "the background": (whole(labels={"background": 1}), "no name of a label"),
    "a data set that is a path": (whole(dataset="../../../x"), "no name of a data set"),
    "a region that is a path": (whole(labels=TWO, regions={"a/b": (1, 2)}), "name of a label"),
    "a region of other values": (whole(regions={"cord": (1, 7)}), "values of the labels"),
    "a label in no region": (whole(labels=TWO, regions={"cord": (1,)}), "values of the labels"),
    "regions that overlap": (
        whole(labels=TWO | {"x": 3}, regions={"a": (1, 2), "b": (2, 3)}),
        "without one being in the other",
    ),
    "the inner region first": (
        whole(labels=TWO, regions={"lesion": (2,), "cord": (1, 2)}),
        "outer ones first",
    ),
    "names of more channels": (whole(channel_names=("T1w", "T2w")), "names of channels"),
    "names of masks there are none of": (whole(mask_channels=("canal",)), "names of masks"),
    "a mask that is a path": (whole(mask_channels=("../x",)), "no name of a mask"),
    "a split of another meaning": (each(split="folds"), "something else"),
    "a file of no label": (each(labels=(LabelFile("HERE", "lesion"),)), "which there is not"),
}


@pytest.mark.parametrize(("lie", "told"), LIES.values(), ids=LIES)
def test_a_pack_that_no_job_can_rely_on_is_refused(
    tmp_path: Path, packed: Cases, lie: Callable[[Cases], Cases], told: str
) -> None:
    changed = lie(packed)
    label = packed.cases[0].labels[0].path
    if changed.cases[0].labels[0].path == "HERE":
        named = (replace(changed.cases[0].labels[0], path=label),)
        changed = each(labels=named)(changed)
    write_pack(changed, tmp_path / "study.tar", ca_hpc="1", progress=lambda done, total: None)
    (problem,) = problems(tmp_path, PACK)
    assert problem.startswith("data[0]: these cases make no pack") and told in problem


def test_what_nnunet_data_sets_have_can_be_packed(tmp_path: Path, packed: Cases) -> None:
    labels = {"edema": 1, "whole tumor": 2}
    regions = {"whole tumor": (1, 2), "edema": (1,)}
    own = whole(labels=labels, regions=regions, dataset="Dataset042_other")(packed)
    write_pack(own, tmp_path / "study.tar", ca_hpc="1", progress=lambda done, total: None)
    found = scanned(tmp_path, PACK)
    assert (found.labels, found.regions) == (labels, regions)
    assert found.dataset == "Dataset501_my_job"  # by the job: no folder is named by a pack
