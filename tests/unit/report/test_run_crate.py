"""The RO-Crate of a run: what the validator (tests/local/test_run_crate.py) does not see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from ca_hpc.core.run_record import RunRecord
from ca_hpc.report.run_crate import crate
from ca_hpc.report.run_files import write_run_files
from ca_hpc.report.run_record import record_file
from ca_hpc.store.run_folder import RunFolder
from tests.recorded_run import IMAGE, MODEL, RETRIED, finished, sha256

CRATE = "ro-crate-metadata.json"
Entity = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return finished(tmp_path)


@pytest.fixture
def record(run: RunFolder) -> RunRecord:
    return write_run_files(run)


@pytest.fixture
def graph(run: RunFolder, record: RunRecord) -> dict[str, Entity]:
    """Entities by id, as they are in the file."""
    return _by_id(json.loads(run.file(CRATE).read_text()))


def _by_id(document: Entity) -> dict[str, Entity]:
    entities = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(entities) == len(document["@graph"])
    return entities


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if value.keys() == {"@id"}:
            yield value["@id"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def test_every_reference_leads_to_an_entity(graph: dict[str, Entity]) -> None:
    outside = {"https://w3id.org/ro/crate/1.1"}
    outside.add("https://w3id.org/ro/terms/workflow-run#SIFImage")
    assert set(_references(list(graph.values()))) - graph.keys() <= outside


def test_every_file_is_there_with_this_digest_and_size(
    run: RunFolder, graph: dict[str, Entity]
) -> None:
    files = [entity for entity in graph.values() if "File" in entity["@type"]]
    assert len(files) > 15
    for file in files:
        path = run.file(unquote(file["@id"]))
        assert (file["sha256"], file["contentSize"]) == (sha256(path), str(path.stat().st_size))
    parts = {part["@id"] for part in graph["./"]["hasPart"]}
    assert parts == {file["@id"] for file in files}
    assert {"run.json", "job.yaml", "trainers/my%20trainer.py"} <= parts


def test_a_training_names_what_it_read_and_made(graph: dict[str, Entity]) -> None:
    task = graph[f"#task-{RETRIED}"]
    checkpoint = f"results/finetune/{MODEL}/fold_1/checkpoint_final.pth"
    assert {"@id": checkpoint} in task["result"]
    assert task["description"] == "attempts: 2"
    assert (task["startTime"], task["endTime"]) == (
        "2025-01-01T09:00:00+00:00",
        "2025-01-01T11:00:00+00:00",
    )
    assert task["actionStatus"].endswith("CompletedActionStatus")
    read = {each["@id"] for each in task["object"]}
    assert {f"#sha256-{'cd' * 32}", "splits.json"} <= read
    assert task["containerImage"] == {"@id": f"#image-{IMAGE.file.sha256}"}
    assert graph[task["containerImage"]["@id"]]["sha256"] == IMAGE.file.sha256


def test_what_trains_from_scratch_has_read_no_weights(run: RunFolder, record: RunRecord) -> None:
    arm = record.arms["finetune"]
    assert arm.settings is not None
    random = replace(arm, settings=replace(arm.settings, weights="random"))
    made = _by_id(crate(replace(record, arms={"finetune": random}), own=record_file(run)))
    read = {each["@id"] for each in made[f"#task-{RETRIED}"]["object"]}
    assert "splits.json" in read and f"#sha256-{'cd' * 32}" not in read


def test_results_are_of_the_tasks_that_made_them(graph: dict[str, Entity]) -> None:
    def made(task: str) -> set[str]:
        results = graph[f"#task-{task}"].get("result", [])
        return {each["@id"] for each in (results if isinstance(results, list) else [results])}

    assert made("evaluate") == {"evaluation/scores.csv"}
    assert {"splits.json", "data.html"} <= made("assemble")
    scores = f"results/finetune/{MODEL}/fold_1/validation/summary.json"
    assert scores in made(RETRIED) and scores not in made("evaluate")


def test_an_image_has_the_tag_and_the_address_that_it_is_pulled_by(
    run: RunFolder, record: RunRecord
) -> None:
    def named(reference: str | None) -> Entity:
        image = replace(IMAGE, reference=reference)
        document = crate(replace(record, image=image), own=record_file(run))
        return _by_id(document)[f"#image-{IMAGE.file.sha256}"]

    pulled = named(f"oras://registry.example.org:443/lab/ca-hpc@sha256:{IMAGE.file.sha256}")
    assert (pulled["registry"], pulled["name"]) == ("registry.example.org:443", "lab/ca-hpc")
    assert pulled["tag"] == f"sha256-{IMAGE.file.sha256}"
    assert "registry" not in named("/images/neck.sif")


def test_one_fold_is_counted_as_one(run: RunFolder, record: RunRecord) -> None:
    arm = record.arms["scratch"]
    one = replace(arm, folds={"0": arm.folds["0"]})
    document = crate(
        replace(record, arms={"scratch": one}, cases=1, people=1), own=record_file(run)
    )
    assert "1 image of 1 person, 1 trained fold, " in _by_id(document)["./"]["description"]


def test_no_path_of_the_site_is_in_it(run: RunFolder, record: RunRecord) -> None:
    text = run.file(CRATE).read_text()
    assert "/model.pth" not in text
    assert "/images/" not in text
    assert str(run.path.parent) not in text


def test_what_has_not_ended_is_no_part_of_it(graph: dict[str, Entity]) -> None:
    assert "#task-report" not in graph
    assert "#step-report" not in graph


def test_a_failure_is_called_by_its_class(run: RunFolder, record: RunRecord) -> None:
    failed = next(each for each in record.attempts if each.state == "FAILED")
    document = crate(replace(record, state="FAILED", attempts=(failed,)), own=record_file(run))
    graph = _by_id(document)
    task = graph[f"#task-{failed.task}"]
    assert (task["error"], task["actionStatus"]) == ("gpu", "http://schema.org/FailedActionStatus")
    assert graph["#run"]["actionStatus"] == "http://schema.org/FailedActionStatus"


def test_without_an_image_none_is_named(run: RunFolder, record: RunRecord) -> None:
    document = crate(replace(record, image=None), own=record_file(run))
    assert "containerImage" not in document["@graph"][-2]
    assert not any("ContainerImage" in entity["@type"] for entity in document["@graph"])
