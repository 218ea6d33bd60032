"""The run folder: names are never used twice, records come back as they were."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from ca_hpc.core.model import Element, Resources, Runtime, Stage, Task, TaskState, Workflow
from ca_hpc.core.record import Pins, Result, Submission
from ca_hpc.errors import CaHpcError
from ca_hpc.store.run_folder import RunFolder

WORKFLOW = Workflow(
    run_folder="/runs/neck-001",
    executor="slurm",
    node_python="python3",
    node_local=None,
    setup=(),
    runtime=Runtime("none", "python3"),
    mounts=(),
    threads=None,
    stages=(
        Stage(
            "train",
            (Element("train.0", (Task("train-a-fold0", "m"),)),),
            Resources(60, 1, 1024),
            {"requeue": True, "time": "00:01:00"},
            at_once=1,
        ),
    ),
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "neck")


def test_runs_of_one_name_are_numbered(tmp_path: Path) -> None:
    assert RunFolder.next_path(tmp_path, "neck").name == "neck-001"
    made = [RunFolder.create(tmp_path, "neck").path.name for _ in range(3)]
    assert made == ["neck-001", "neck-002", "neck-003"]
    assert RunFolder.next_path(tmp_path, "neck").name == "neck-004"
    assert RunFolder.create(tmp_path, "cord").path.name == "cord-001"


def test_a_number_that_a_file_has_taken_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "neck-001").touch()
    assert RunFolder.create(tmp_path, "neck").path.name == "neck-002"


def test_many_who_make_runs_at_once_get_one_each(tmp_path: Path) -> None:
    count = 12
    together = Barrier(count)

    def make(_: int) -> Path:
        together.wait()
        return RunFolder.create(tmp_path, "neck").path

    with ThreadPoolExecutor(count) as pool:
        made = list(pool.map(make, range(count)))
    assert len(set(made)) == count
    assert {path.name for path in made} == {f"neck-{n:03d}" for n in range(1, count + 1)}


def test_many_attempts_at_once_get_a_folder_and_a_number_each(run: RunFolder) -> None:
    count = 12
    together = Barrier(count)

    def make(job: int) -> tuple[int, Path]:
        together.wait()
        return run.new_attempt("t", job=str(job), restart=0)

    with ThreadPoolExecutor(count) as pool:
        made = list(pool.map(make, range(count)))
    assert len({path for _, path in made}) == count
    assert all(path.is_dir() and path.name.startswith(f"{number:04d}-") for number, path in made)


def test_a_run_is_for_the_user_and_the_group_at_most(run: RunFolder) -> None:
    assert stat.S_IMODE(run.path.stat().st_mode) & 0o007 == 0


def test_attempts_are_numbered_in_order_and_named_after_their_job(run: RunFolder) -> None:
    for restart in range(11):
        run.new_attempt("t", job="101_3", restart=restart)
    names = [path.name for path in run.attempts("t")]
    assert names[0] == "0001-101_3-r0"
    assert names[-1] == "0011-101_3-r10"
    assert run.attempts("another") == []


def test_an_attempt_that_was_removed_does_not_give_its_successors_name_away(
    run: RunFolder,
) -> None:
    _, first = run.new_attempt("t", job="1", restart=0)
    run.new_attempt("t", job="1", restart=1)
    first.rmdir()
    number, third = run.new_attempt("t", job="1", restart=2)
    assert (number, third.name) == (3, "0003-1-r2")


def test_a_folder_that_cannot_be_written_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CaHpcError, match="cannot make a run folder") as refused:
        RunFolder.create(tmp_path / "file", "neck")
    assert "--output" in str(refused.value.hint)


def test_records_come_back_as_they_were(run: RunFolder) -> None:
    run.write("workflow.json", WORKFLOW)
    run.write("pins.json", Pins("1", "0badcafe", "2025-01-01T00:00:00+00:00", weights=None))
    draft = Submission(0, "train", "", ("train.0",))
    submission = run.confirm(run.new_submission(draft), [("train.0", "101")])
    result = Result("t", "0001-1-r0", TaskState.FAILED, 1, "a", "b", 1.5, "n1", "why", "hint")
    _, attempt = run.new_attempt("t", job="1", restart=0)
    run.write_result(attempt, result)
    again = RunFolder.open(run.path)
    assert again.workflow == WORKFLOW
    assert again.submissions() == (submission,)
    assert submission.job_name == "neck-001.train.0badcafe.0001"
    assert again.result("t") == result
    assert again.result("another") is None
    assert again.model is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match="is not a run folder"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"stages": 3}'])
def test_a_damaged_record_is_told_by_its_file(run: RunFolder, text: str) -> None:
    run.file("workflow.json").write_text(text)
    with pytest.raises(CaHpcError, match=r"workflow\.json cannot be read"):
        _ = run.workflow


def test_published_folds_are_found_by_arm(run: RunFolder) -> None:
    model = "Dataset501_neck/nnUNetTrainer__nnUNetPlans__3d_fullres"
    for arm, fold in (("finetune", "1"), ("finetune", "0"), ("scratch", "0")):
        (run.results(arm) / model / f"fold_{fold}").mkdir(parents=True)
    assert [fold for fold, _ in run.folds("finetune")] == ["0", "1"]
    ((fold, folder),) = run.folds("scratch")
    assert (fold, folder.name) == ("0", "fold_0")
    assert list(run.folds("another")) == []
