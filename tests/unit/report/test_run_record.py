"""The record of a run, put together from what its parts wrote about themselves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.model import Pin, TaskState
from ca_hpc.core.remarks import remarks
from ca_hpc.core.run_record import File, Image, Row, RunRecord, Software
from ca_hpc.errors import CaHpcError
from ca_hpc.report import run_record
from ca_hpc.report.run_files import write_run_files
from ca_hpc.report.run_record import compose
from tests.recorded_run import (
    IMAGE,
    MACHINE,
    MODEL,
    RETRIED,
    attempt,
    end,
    finished,
    sha256,
    submitted,
)
from tests.rerunnable import PLANS, rerunnable


def test_a_submitted_run_has_what_is_known_by_then(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    record = compose(run)
    assert (record.name, record.state, record.ended) == ("neck-001", "PENDING", None)
    assert record.created == "2025-01-01T08:00:00+00:00"
    assert record.host == Software({"ca-hpc": "0.1.0", "slurm": "22.05.8"})
    assert (record.cases, record.people) == (4, 2)
    assert record.image == IMAGE
    assert record.weights == File("/model.pth", "cd" * 32, 0)
    assert record.job == File(
        "job.yaml", sha256(run.file("job.yaml")), run.file("job.yaml").stat().st_size
    )
    assert [file.path for file in record.trainers] == ["trainers/my trainer.py"]
    assert (record.data, record.splits, record.attempts, record.results) == (None, None, (), ())
    assert record.warnings == ("few people",)
    arm = record.arms["finetune"]
    assert (arm.plans, arm.folds) == (None, {})
    assert arm.settings is not None
    assert (arm.settings.epochs, arm.settings.seed, arm.settings.threads) == (3, 7, None)
    assert record.arms["scratch"].settings is not None
    assert record.arms["scratch"].settings.weights == "random"


def test_a_finished_run_has_its_arms_attempts_and_results(tmp_path: Path) -> None:
    run = finished(tmp_path)
    record = compose(run)
    assert (record.state, record.ended) == ("COMPLETED", "2025-01-01T11:00:00+00:00")
    arm = record.arms["finetune"]
    assert arm.plans is not None
    assert arm.plans.path == "plans/nnUNetPlans.json"
    assert arm.settings is not None and (arm.settings.threads, arm.settings.workers) == (4, 3)
    fold = arm.folds["1"]
    assert (fold.weights_sha256, fold.attempts) == ("11" * 32, 2)
    assert fold.checkpoint.path == f"results/finetune/{MODEL}/fold_1/checkpoint_final.pth"
    named = [file.path for file in record.results[:3]]
    assert named == ["evaluation/scores.csv", "data.html", "report.html"]
    assert f"results/scratch/{MODEL}/fold_0/validation/summary.json" in {
        file.path for file in record.results
    }
    first, second = (each for each in record.attempts if each.task == RETRIED)
    assert (first.state, first.exit_code, first.failure) == ("FAILED", 1, "gpu")
    assert (second.state, second.exit_code, second.failure) == ("COMPLETED", 0, None)
    assert second.machine == MACHINE
    assert second.software is not None and second.software.versions == {
        "ca-hpc": "0.1.0",
        "torch": "2.13.0",
        "cuda": "13.0",
        "cudnn": "92000",
        "torch-cpu-capability": "AVX2",
    }
    (own,) = (each for each in record.attempts if each.task == "report")
    assert (own.state, own.ended) == ("UNKNOWN", None)


def test_every_digest_of_a_file_in_the_run_is_its_own(tmp_path: Path) -> None:
    run = finished(tmp_path)
    document = json.loads(encode(compose(run)))
    files = [found for found in _files(document) if not found["path"].startswith("/")]
    assert len(files) > 15
    for file in files:
        path = run.file(file["path"])
        assert (file["sha256"], file["size_bytes"]) == (sha256(path), path.stat().st_size)


def _files(value: object) -> list[dict[str, str]]:
    if isinstance(value, dict):
        own = [value] if {"path", "sha256", "size_bytes"} == value.keys() else []
        return own + [file for each in value.values() for file in _files(each)]
    return [file for each in value for file in _files(each)] if isinstance(value, list) else []


def test_the_record_is_written_as_composed_and_the_same_each_time(tmp_path: Path) -> None:
    run = finished(tmp_path)
    record = write_run_files(run)
    files = ("run.json", "ro-crate-metadata.json", "test/finetune/dataset_description.json")
    before = [run.file(name).read_bytes() for name in files]
    assert decode(RunRecord, run.file("run.json").read_text()) == record
    for name in files:
        run.file(name).unlink()
    write_run_files(run)
    assert [run.file(name).read_bytes() for name in files] == before


def test_before_anything_has_ended_there_is_a_record_and_no_crate(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    write_run_files(run)
    assert run.file("run.json").is_file()
    assert not run.file("ro-crate-metadata.json").exists()


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ((None,), "RUNNING"),
        ((TaskState.COMPLETED,), "RUNNING"),
        ((TaskState.FAILED,), "FAILED"),
        ((TaskState.FAILED, TaskState.COMPLETED), "RUNNING"),  # done again
        ((TaskState.FAILED, None), "RUNNING"),  # is being done again
        ((TaskState.PREEMPTED,), "RUNNING"),  # goes on by itself
        ((TaskState.TIMEOUT,), "RUNNING"),
        ((TaskState.PREEMPTED, TaskState.FAILED), "FAILED"),
    ],
)
def test_the_state_is_what_the_results_say(
    tmp_path: Path, states: tuple[TaskState | None, ...], state: str
) -> None:
    run = submitted(tmp_path)
    task = run.workflow.tasks[0].id
    for hour, each in enumerate(states, start=9):
        attempt(run, task, state=each, hour=hour)
    record = compose(run)
    assert record.state == state
    assert (record.ended is not None) == (state == "FAILED")


@pytest.mark.parametrize("last", [TaskState.TIMEOUT, None])
def test_what_has_not_gone_on_when_the_report_begins_has_failed(
    tmp_path: Path, last: TaskState | None
) -> None:
    run = finished(tmp_path)
    attempt(run, "train-scratch-fold0", state=TaskState.COMPLETED, hour=10)
    for folder in run.attempts("train-scratch-fold0"):
        (folder / "result.json").unlink()
    if last is not None:
        end(run, "train-scratch-fold0", state=last, hour=10)
    assert compose(run).state == "FAILED"
    attempt(run, "train-scratch-fold0", state=None, hour=14)  # by ca-hpc retry
    assert compose(run).state == "RUNNING"


def test_neither_record_nor_crate_names_a_subject(tmp_path: Path) -> None:
    run = finished(tmp_path)
    first, *others = run.cases.cases
    people = [replace(first, person=f"carl_ses{number}") for number in (1, 2)]
    cases = replace(run.cases, cases=(*people, *others), remarks=("anna has no label",))
    told = remarks(cases)
    assert len(told) == 2 and "carl_ses1" in told[1]
    run.write("cases.json", cases)
    run.write("pins.json", replace(run.pins, warnings=("few people", *told)))
    assert write_run_files(run).warnings == ("few people",)
    text = run.file("run.json").read_text() + run.file("ro-crate-metadata.json").read_text()
    assert not [name for name in ("anna", "ben", "carl") if name in text]


def test_what_was_sealed_is_recorded_as_it_was(tmp_path: Path) -> None:
    run = rerunnable(tmp_path)
    before = compose(run)
    files = (run.plans / PLANS, run.file("splits.json"), run.trainers / "my trainer.py")
    for file in files:
        file.write_text("changed since")
    (run.trainers / "added.py").write_text("")
    record = compose(run)
    assert record == before
    plans = record.arms["finetune"].plans
    assert plans is not None and plans.sha256 != sha256(files[0])


def test_plans_are_known_when_the_nnunet_folder_is_gone(tmp_path: Path) -> None:
    run = finished(tmp_path)
    before = write_run_files(run)
    shutil.rmtree(run.file("nnunet"))
    assert compose(run) == before


def test_a_run_without_image_and_weights_has_none(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    flow, pins = run.workflow, run.pins
    runtime = replace(flow.runtime, kind="none", image=None)
    run.write("workflow.json", replace(flow, runtime=runtime))
    run.write("pins.json", replace(pins, image=None, weights=None, host=None))
    record = compose(run)
    assert (record.image, record.weights) == (None, None)
    assert record.host == Software({"ca-hpc": "0.1.0"})


def test_of_an_image_that_nobody_described_the_digest_is_known(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    sif = tmp_path / "neck.sif"
    sif.write_bytes(b"sif")
    flow = run.workflow
    runtime = replace(flow.runtime, image=Pin(str(sif), "ef" * 32))
    run.write("workflow.json", replace(flow, runtime=runtime))
    run.write("pins.json", replace(run.pins, image=None))
    assert compose(run).image == Image(File(str(sif), "ef" * 32, 3))


def test_what_a_rerun_allowed_is_taken_into_the_record(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    row = Row("data", "a", "b", "drift")
    of = File("/old/run.json", "ab" * 32, 10)
    rerun = {"of": of, "allowed": ["data"], "drift": [row]}
    run.write("rerun.json", rerun)
    found = compose(run).rerun
    assert found is not None
    assert (found.of, found.allowed, found.drift) == (of, ("data",), (row,))
    run.file("rerun.json").write_text("{}")
    with pytest.raises(CaHpcError, match=r"rerun\.json cannot be read"):
        compose(run)


def test_an_attempt_whose_worker_died_at_once_has_nothing_to_tell(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    task = run.workflow.tasks[0].id
    run.new_attempt(task, job="1", restart=0)
    attempt(run, task, hour=9)
    assert [each.attempt for each in compose(run).attempts] == ["0002-101-r0"]


def test_a_large_file_is_hashed_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_record, "_LARGE_BYTES", 3)
    run = finished(tmp_path)
    before = compose(run).arms["finetune"].folds["0"].checkpoint
    assert run.file("digests.json").is_file()
    file = run.file(before.path)
    file.write_text("other bytes")
    after = compose(run).arms["finetune"].folds["0"].checkpoint
    assert before.sha256 != after.sha256 == sha256(file)


def test_a_run_whose_job_is_gone_is_said_to_be_incomplete(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    run.file("job.yaml").unlink()
    with pytest.raises(CaHpcError, match=r"job\.yaml cannot be read"):
        compose(run)
