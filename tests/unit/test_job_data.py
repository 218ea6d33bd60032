"""What is found of a job's data at submission: divisions, missing paths, what is not fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca_hpc.actions.job_data import JobData, find, silent
from ca_hpc.core import door
from ca_hpc.core.spec import JobSpec, completed
from ca_hpc.core.splits import divide
from ca_hpc.errors import CaHpcError

JOB = "kind: train\nname: x\ncluster: local\n"


def bids(folder: Path, *, people: int) -> Path:
    """File names alone: nothing is read at submission."""
    for number in range(people):
        stem = f"sub-{number:02d}/anat/sub-{number:02d}_T2w"
        for file in (f"{stem}.nii.gz", f"derivatives/labels/{stem}_seg.nii.gz"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(bytes(2000))
    return folder


def found(text: str, *, store: Path, fetch: bool = False) -> JobData:
    spec = completed(door.read(JobSpec, JOB + text, file="job.yaml"))
    return find(spec, store=store, fetch=fetch, say=silent)


def test_a_sources_own_shares_are_settled_here_and_hold_on_the_node(tmp_path: Path) -> None:
    a, b = (bids(tmp_path / name, people=10) for name in "ab")
    text = f"""
data:
  - type: bids
    path: {a}
    name: a
    label_suffix: _seg
    split: {{train: 0.5, val: 0.2, test: 0.3}}
  - {{type: bids, path: {b}, name: b, label_suffix: _seg}}
splits: {{train: 0.8, val: 0.2}}
"""
    data = found(text, store=tmp_path)
    roles = [case.split for case in data.cases.cases if case.source == "a"]
    assert sorted(map(str, roles)) == ["test"] * 3 + ["train"] * 5 + ["val"] * 2
    assert {case.split for case in data.cases.cases if case.source == "b"} == {None}
    assert list(map(len, data.division.tests.values())) == [3]
    spec = door.read(JobSpec, JOB + text, file="job.yaml")
    assert divide(data.cases.cases, spec.splits) == data.division


def test_with_folds_only_the_test_part_of_own_shares_is_settled(tmp_path: Path) -> None:
    a = bids(tmp_path / "a", people=10)
    split = "split: {train: 0.5, val: 0.2, test: 0.3}"
    data = found(
        f"data: [{{type: bids, path: {a}, name: a, label_suffix: _seg, {split}}}]\n"
        "splits: {folds: 3}\n",
        store=tmp_path,
    )
    assert sorted({str(case.split) for case in data.cases.cases}) == ["test", "train"]
    assert [len(fold["val"]) for fold in data.division.folds] == [3, 2, 2]


def test_people_of_two_sources_that_share_them_are_divided_once(tmp_path: Path) -> None:
    a, b = (bids(tmp_path / name, people=8) for name in "ab")
    split = "split: {train: 0.5, val: 0.25, test: 0.25}"
    data = found(
        "data:\n"
        + "".join(
            f"  - {{type: bids, path: {p}, name: {n}, people: z, label_suffix: _seg, {split}}}\n"
            for n, p in (("a", a), ("b", b))
        )
        + "splits: {train: 0.5, val: 0.5}\n",
        store=tmp_path,
    )
    by_person: dict[str, set[str | None]] = {}
    for case in data.cases.cases:
        by_person.setdefault(case.person, set()).add(case.split)
    assert all(len(roles) == 1 for roles in by_person.values())


def test_local_paths_are_checked_before_anything_is_cloned(tmp_path: Path) -> None:
    text = f"""
data:
  - {{type: git, name: g, url: {tmp_path / "no-repository"}, label_suffix: _seg}}
  - {{type: bids, name: a, path: {tmp_path / "a"}, label_suffix: _seg}}
  - {{type: pack, path: {tmp_path / "b.tar"}}}
"""
    with pytest.raises(CaHpcError) as refused:
        found(text, store=tmp_path / "store", fetch=True)
    first, *lines = refused.value.message.splitlines()
    assert first == "2 problems with the data"
    assert lines == [
        f"data[1]: {tmp_path / 'a'} does not exist",
        f"data[2]: {tmp_path / 'b.tar'} does not exist",
    ]
    assert not (tmp_path / "store").exists()


def test_a_repository_that_was_never_fetched_is_said_to_be(tmp_path: Path) -> None:
    text = f"data: [{{type: git, url: {tmp_path / 'x'}, label_suffix: _seg}}]\n"
    with pytest.raises(CaHpcError, match="is not fetched yet") as refused:
        found(text, store=tmp_path / "store")
    assert "ca-hpc data fetch" in str(refused.value.hint)
    assert not (tmp_path / "store").exists()


def test_a_list_of_other_names_is_told_with_what_it_leaves_empty(tmp_path: Path) -> None:
    a = bids(tmp_path / "a", people=2)
    (tmp_path / "split.yaml").write_text("train: [sub-00_T9w]\nval: [sub-77]\n")
    with pytest.raises(CaHpcError) as refused:
        found(
            f"data: [{{type: bids, path: {a}, label_suffix: _seg}}]\n"
            f"splits: {{file: {tmp_path}/split.yaml}}\n",
            store=tmp_path,
        )
    assert "nobody is in train" in refused.value.message
    assert "note: " in refused.value.message and "sub-77" in refused.value.message
