"""What is the same, what drifted, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ca_hpc.core.drift import (
    ASPECTS,
    data_fact,
    division_facts,
    drift,
    facts,
    refuse,
    settings,
)
from ca_hpc.core.record import Case, Cases, LabelFile
from ca_hpc.core.run_record import (
    ArmRecord,
    AttemptRecord,
    File,
    Gpu,
    Image,
    Machine,
    Row,
    RunRecord,
    Settings,
    Software,
)
from ca_hpc.core.splits import Division
from ca_hpc.errors import DigestMismatch, SpecError

A, B = "a" * 64, "b" * 64
SETTINGS = Settings("nnUNetTrainer", "3d_fullres", 3, 1, 1, 7, None, 0, 0, "random", 4, 3)
MACHINE = Machine("node1", "EPYC", 8, 1024, "6.1", (Gpu("H100", 81559, "580"),))
RECORD = RunRecord(
    format=1,
    name="neck-001",
    created="2025-01-01T08:00:00+00:00",
    state="COMPLETED",
    host=Software({"ca-hpc": "0.1.0"}),
    job=File("job.yaml", A, 1),
    spec=File("spec.json", A, 1),
    cluster=File("cluster.json", A, 1),
    cases=1,
    people=1,
    weights=File("/w.pth", B, 1),
    splits=File("splits.json", A, 1),
    arms={"scratch": ArmRecord(File("p.json", A, 1), SETTINGS)},
    attempts=(
        AttemptRecord("prepare-shard0", "1", "", "COMPLETED", machine=replace(MACHINE, cpu="Xeon")),
        AttemptRecord(
            *("train-scratch-fold0", "1", "", "COMPLETED"),
            machine=MACHINE,
            software=Software(
                {"python": "3.11", "torch": "2.13.0", "torch-cpu-capability": "AVX2"}
            ),
        ),
    ),
)


def verdicts(rows: tuple[Row, ...]) -> dict[str, str]:
    return {row.aspect: row.verdict for row in rows}


def test_a_record_tells_what_a_rerun_must_have_and_where_trainings_ran() -> None:
    assert facts(RECORD) == {
        "image": "none",
        "weights": B,
        "plans.scratch": A,
        "splits.folds": A,
        "splits.test": "none",
        "threads": "4",
        "workers": "3",
        "ca-hpc": "0.1.0",
        "software.python": "3.11",
        "software.torch": "2.13.0",
        "node": "node1",
        "cpu": "EPYC",
        "cpu.torch": "AVX2",
        "gpu": "H100",
        "driver": "580",
    }


def test_an_image_stands_for_the_software_in_it() -> None:
    told = facts(replace(RECORD, image=Image(File("/x.sif", A, 1))))
    assert told["image"] == A
    assert not [name for name in told if name.startswith("software")]


def test_what_did_not_run_on_a_node_yet_is_unknown_and_not_refused() -> None:
    rows = drift({"cpu": "EPYC", "weights": B}, {"weights": B})
    assert verdicts(rows) == {"weights": "same", "cpu": "unknown"}
    refuse(rows, allowed=())


def test_another_place_is_expected_another_input_is_refused_by_both_digests() -> None:
    rows = drift({"weights": A, "cluster": "lab"}, {"weights": B, "cluster": "other"})
    assert verdicts(rows) == {"weights": "drift", "cluster": "expected"}
    with pytest.raises(DigestMismatch) as refused:
        refuse(rows, allowed=("data",))
    assert refused.value.exit_code == 3
    assert refused.value.message == f"weights is sha256:{B}, recorded is sha256:{A}"
    assert "--allow weights" in (refused.value.hint or "")


def test_a_refusal_shows_no_more_than_text() -> None:
    with pytest.raises(DigestMismatch) as refused:
        refuse(drift({"ca-hpc": "1\x1b]0;x\x07\nerror: fake"}, {"ca-hpc": "1"}), allowed=())
    assert refused.value.message.isprintable()


def test_what_is_allowed_by_name_is_not_refused() -> None:
    refuse(drift({"plans.a": A, "plans.b": A}, {"plans.a": B, "plans.b": A}), allowed=("plans",))


@pytest.mark.parametrize("kind", ["pinned", "told"])
def test_absent_and_present_differ(kind: str) -> None:
    aspect = {"pinned": "image", "told": "gpu"}[kind]
    (row,) = drift({aspect: "none"}, {aspect: A})
    assert row.verdict == "drift"


def test_another_cpu_or_driver_is_told_and_not_refused() -> None:
    rows = drift({"cpu": "EPYC", "driver": "570"}, {"cpu": "Xeon", "driver": "580"})
    assert verdicts(rows) == {"cpu": "drift", "driver": "drift"}
    refuse(rows, allowed=())


def test_a_name_that_cannot_be_allowed_is_refused_at_once() -> None:
    for name in ("dta", "cpu", "cluster"):
        with pytest.raises(SpecError, match=name):
            refuse((), allowed=(name,))


def test_another_file_that_holds_the_same_is_expected() -> None:
    signed = drift({"image": A, "image.content": A}, {"image": B, "image.content": A})
    assert verdicts(signed) == {"image": "expected", "image.content": "same"}
    refuse(signed, allowed=())
    for now in ({"image": B, "image.content": B}, {"image": B}):
        others = drift({"image": A, "image.content": A}, now)
        with pytest.raises(DigestMismatch, match=f"image is sha256:{B}"):
            refuse(others, allowed=())


def test_what_a_file_holds_is_not_told_where_it_is_the_same_file() -> None:
    rows = drift({"image": A, "image.content": A}, {"image": A})
    assert verdicts(rows) == {"image": "same"}


def test_many_facts_that_are_the_same_are_one_row() -> None:
    before = {f"settings.{i}": "1" for i in range(9)}
    rows = drift(before, before | {"settings.3": "2"})
    assert [(row.aspect, row.verdict) for row in rows] == [
        ("settings", "same"),
        ("settings.3", "drift"),
    ]
    assert rows[0].before == "8 facts"


def test_rows_come_in_the_order_of_the_aspects() -> None:
    known = dict.fromkeys(reversed(list(ASPECTS)), "x")
    assert [row.aspect for row in drift(known, known)] == list(ASPECTS)


def test_settings_are_what_decides_about_results() -> None:
    spec = {
        "name": "neck",
        "cluster": "lab",
        "resources": {"train": {"cpus": 8}},
        "prepare": {"shards": 4, "on_error": "fail"},
        "training": {"seed": 7, "workers": 2, "epochs": 3},
        "labels": {"cord": 1},
        "folds": [0, 1],
    }
    assert settings(spec) == {
        "settings.prepare.on_error": "fail",
        "settings.training.epochs": "3",
        "settings.labels.cord": "1",
        "settings.folds": "0, 1",
        "seed": "7",
    }


def cases(*names: str, image: str = A) -> Cases:
    found = [
        Case(name, "s1", (image,), (LabelFile(B, "cord"),), name, name, None, "T2w")
        for name in names
    ]
    return Cases("Dataset501_x", {"cord": 1}, tuple(found))


def test_splits_are_the_same_by_what_cases_hold_under_any_names() -> None:
    def told(cases: Cases) -> dict[str, str]:
        first, second, third = (case.id for case in cases.cases)
        folds = ({"train": [first], "val": [second]},)
        return division_facts(cases, Division(folds, {"site-b": (third,)}))

    one, two = cases("anna"), cases("ben", image=B)
    mixed = replace(one, cases=(*one.cases, *two.cases, *cases("carl").cases))
    renamed = replace(
        mixed,
        cases=tuple(
            replace(case, id=f"c{number}", person=f"p{number}")
            for number, case in enumerate(mixed.cases)
        ),
    )
    assert told(renamed) == told(mixed)
    swapped = replace(mixed, cases=(mixed.cases[1], mixed.cases[0], mixed.cases[2]))
    assert told(swapped)["splits.folds.content"] != told(mixed)["splits.folds.content"]


def test_data_are_the_same_by_content_under_any_names() -> None:
    assert data_fact(cases("anna", "ben")) == data_fact(cases("c0001", "c0002"))
    assert data_fact(cases("anna", "ben")) != data_fact(cases("anna", "ben", image=B))
    assert data_fact(cases("anna", "ben")) != data_fact(cases("anna"))
