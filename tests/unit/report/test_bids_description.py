"""``dataset_description.json`` of what a run has predicted; its schema: tests/local."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ca_hpc.core.record import Origin
from ca_hpc.report.bids_description import description
from ca_hpc.report.run_files import write_run_files
from ca_hpc.report.run_record import compose
from tests.recorded_run import IMAGE, finished

SHA256 = IMAGE.file.sha256


def test_predictions_say_what_made_them_and_from_what(tmp_path: Path) -> None:
    run = finished(tmp_path)
    write_run_files(run)
    made = json.loads(run.file("test/finetune/dataset_description.json").read_text())
    assert made["DatasetType"] == "derivative"
    (by,) = made["GeneratedBy"]
    assert (by["Name"], by["Version"]) == ("ca-hpc", "0.1.0")
    assert by["Container"] == {
        "Type": "apptainer",
        "Tag": f"sha256-{SHA256}",
        "URI": f"urn:hash::sha256:{SHA256}",
    }
    assert made["SourceDatasets"] == [{"URL": "https://example.org/neck", "Version": "0b" * 20}]


def test_an_image_of_a_registry_is_named_by_its_address(tmp_path: Path) -> None:
    reference = f"oras://registry.example.org/neck@sha256:{'ef' * 32}"
    record = replace(compose(finished(tmp_path)), image=replace(IMAGE, reference=reference))
    (by,) = description(record, arm="finetune")["GeneratedBy"]
    assert by["Container"]["URI"] == reference
    assert by["Container"]["Tag"] == f"sha256-{SHA256}"


def test_without_an_image_there_is_no_container(tmp_path: Path) -> None:
    record = replace(compose(finished(tmp_path)), image=None)
    made = description(record, arm="finetune")
    assert "Container" not in made["GeneratedBy"][0]
    assert made["GeneratedBy"][0]["Version"] == "0.1.0"
    assert "SourceDatasets" not in made


def test_a_source_is_known_by_commit_or_digest_or_name(tmp_path: Path) -> None:
    record = compose(finished(tmp_path))
    origins = (
        Origin("a", "https://a", ref="main", commit="0b1c"),
        Origin("b", "https://b", sha256="ab" * 32),
        Origin("c", "https://c", ref="r2025"),
        Origin("d", "https://d"),
    )
    made = description(record, arm="finetune", origins=origins)
    versions = [source.get("Version") for source in made["SourceDatasets"]]
    assert versions == ["0b1c", f"sha256:{'ab' * 32}", "r2025", None]


def test_a_source_without_an_address_has_no_url(tmp_path: Path) -> None:
    record = compose(finished(tmp_path))
    origins = (Origin("a", "", commit="0b1c"), Origin("b", "/data/neck.tar"), Origin("c", ""))
    made = description(record, arm="finetune", origins=origins)
    assert made["SourceDatasets"] == [{"Version": "0b1c"}]
    assert "SourceDatasets" not in description(record, arm="finetune", origins=origins[1:])
