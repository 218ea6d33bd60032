"""The command line: what it prints, and what the shell sees."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ca_hpc import cli
from ca_hpc.actions.status import Asked, RunStatus, TaskStatus, status
from ca_hpc.core.model import Element, Resources, Runtime, Stage, Task, TaskState, Workflow
from ca_hpc.core.record import Pins, Result, Submission
from ca_hpc.core.states import parse_rows
from ca_hpc.report.model import CaseScore
from ca_hpc.report.scores import write_scores
from ca_hpc.screen import show_status
from ca_hpc.store.run_folder import RunFolder
from tests.command_line import Call, Shown, called

JOB = """\
kind: finetune
name: neck
cluster: local
runtime: none
data: [{type: bids, path: bids, label_suffix: _seg}]
weights: model.pth
model: demo
splits: {folds: 2}
"""


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """``call("status", "RUN")`` in the folder of the test, with no program on PATH."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CA_HPC_STORE", str(tmp_path / "store"))

    def run(*arguments: str) -> Shown:
        return called(*arguments, monkeypatch=monkeypatch, capsys=capsys)

    return run


@pytest.fixture
def job(tmp_path: Path, demo_checkpoint: Path) -> Path:
    """A job whose files are there, as names: three people, two of whom have a label."""
    folder = tmp_path / "jobs"
    for person in ("01", "02", "03"):
        image = folder / f"bids/sub-{person}/anat/sub-{person}_T2w.nii.gz"
        image.parent.mkdir(parents=True)
        image.touch()
        if person != "03":
            label = folder / f"bids/derivatives/labels/sub-{person}/anat"
            label.mkdir(parents=True)
            (label / f"sub-{person}_T2w_seg.nii.gz").touch()
    (folder / "model.pth").hardlink_to(demo_checkpoint)
    (folder / "job.yaml").write_text(JOB)
    return folder / "job.yaml"


UNLABELLED = "warning: 1 image of s1 without a label, left out: sub-03_T2w\n"


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "cache" not in path.parts)


# --- jobs ----------------------------------------------------------------------------------------


def test_a_valid_job_is_told_with_what_its_images_are_for(call: Call, job: Path) -> None:
    shown = call("validate", str(job))
    told = f"{job} is valid: 2 images of 2 people, 5 stages, 9 tasks on local; about "
    assert (shown.code, shown.err) == (0, UNLABELLED)
    divided, valid = shown.out.splitlines()
    assert divided == "images: 2 in 2 folds"
    assert valid.startswith(told)


def test_sessions_in_subject_labels_are_asked_about(call: Call, job: Path) -> None:
    for session in ("Ses1", "Ses2"):
        for folder, ending in (("", ""), ("derivatives/labels/", "_seg")):
            file = (
                job.parent / f"bids/{folder}sub-7{session}/anat/sub-7{session}_T2w{ending}.nii.gz"
            )
            file.parent.mkdir(parents=True)
            file.touch()
    shown = call("validate", str(job))
    assert shown.code == 0
    assert "warning: data: sub-7Ses1 and sub-7Ses2 of s1 count as several people" in shown.err
    job.write_text(
        JOB.replace("label_suffix: _seg}", "label_suffix: _seg, person: {pattern: '-([0-9]+)'}}")
    )
    assert call("validate", str(job)).err == UNLABELLED


def test_a_wrong_job_ends_with_2_and_all_problems_on_stderr(call: Call, job: Path) -> None:
    job.write_text(JOB + "training: {epochs: -1}\nlables: {}\n")
    shown = call("submit", str(job))
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.splitlines() == [
        f"error: 2 problems in {job}",
        f"{job}:9:12: training.epochs: should be greater than or equal to 0",
        f"{job}:10:1: unknown key lables; did you mean labels?",
        f"hint: correct the file, then: ca-hpc validate {job}",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "No such file or directory"), (b"name: \xff\n", "is not UTF-8 text")],
)
def test_a_job_file_that_cannot_be_read_is_told_as_such(
    call: Call, job: Path, content: bytes | None, told: str
) -> None:
    job.unlink()
    if content is not None:
        job.write_bytes(content)
    shown = call("validate", str(job))
    assert shown.code == 2
    assert shown.err.startswith(f"error: {job}: {told}\nhint: ")


def test_a_path_that_is_no_text_is_refused_before_anything_is_done(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.sif").write_bytes(b"an image")
    named = call("image", "pull", str(tmp_path / "x.sif"), "--store", str(tmp_path / "caf\udce9"))
    monkeypatch.setenv("CA_HPC_STORE", str(tmp_path / "caf\udce9"))
    for shown in (named, call("image", "pull", str(tmp_path / "x.sif"))):
        assert shown.code == 2
        assert f"{tmp_path}/caf\\udce9: its name is no UTF-8 text" in shown.err
    assert not (tmp_path / "caf\udce9").exists()


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("weights: ~nobody9/model.pth", "~nobody9/model.pth do not exist"),
        ("cluster: " + "x" * 300, "File name too long"),
    ],
)
def test_a_path_that_cannot_be_is_no_bug(call: Call, job: Path, key: str, told: str) -> None:
    name = key.partition(":")[0]
    job.write_text(re.sub(f"^{name}: .*", key, JOB, flags=re.MULTILINE))
    shown = call("validate", str(job))
    assert shown.code == 2
    assert told in shown.err
    assert "unexpected" not in shown.err


def test_a_disk_that_is_full_leaves_no_half_of_a_run(call: Call, job: Path) -> None:
    # a limit on the size of files is met at the same place as a full disk
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        shown = call("submit", str(job))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert shown.code == 2
    assert "File too large" in shown.err
    assert not list(Path("ca-hpc-runs").iterdir())


@pytest.mark.parametrize(
    ("missing", "told"),
    [("model.pth", "model.pth do not exist"), ("bids", "bids does not exist")],
)
def test_a_job_whose_files_are_not_there_is_not_valid(
    call: Call, job: Path, missing: str, told: str
) -> None:
    (job.parent / missing).rename(job.parent / "gone")
    shown = call("validate", str(job))
    assert shown.code == 2
    assert told in shown.err


def test_too_few_people_are_found_before_anything_is_queued(call: Call, job: Path) -> None:
    job.write_text(JOB.replace("folds: 2", "folds: 3"))
    shown = call("submit", str(job))
    assert shown.code == 2
    assert "3 folds need at least 3 people" in shown.err
    assert not Path("ca-hpc-runs").exists()


def test_a_dry_run_shows_every_command_and_writes_nothing(
    call: Call, job: Path, tmp_path: Path
) -> None:
    before = files_below(tmp_path)
    shown = call("submit", "-n", str(job))
    assert (shown.code, shown.err) == (0, UNLABELLED)
    assert files_below(tmp_path) == before
    assert shown.out.count("-m ca_hpc.steps.train ") == 4
    # the weights are mounted as a file: their folder may hold anything
    for name in ("bids", "model.pth"):
        assert f"mount       {job.parent / name} (read only)\n" in shown.out
    assert call("submit", "--dry-run", str(job)).out == shown.out


def test_a_dry_run_before_the_files_are_there_shows_what_it_can_and_fails(
    call: Call, job: Path
) -> None:
    (job.parent / "bids").rename(job.parent / "gone")
    shown = call("submit", "-n", str(job))
    assert shown.code == 2
    assert "-m ca_hpc.steps.train " in shown.out
    assert "bids does not exist" in shown.err


def test_paths_in_the_file_count_from_it_and_paths_on_the_line_from_here(
    call: Call, job: Path, demo_checkpoint: Path
) -> None:
    Path("other.pth").hardlink_to(demo_checkpoint)
    shown = call("submit", "-n", str(job), "--weights", "other.pth", "-o", "runs")
    assert shown.code == 0
    assert f"run folder  {Path.cwd()}/runs/neck-001\n" in shown.out
    assert f"mount       {Path.cwd()}/other.pth (read only)\n" in shown.out
    assert f"mount       {job.parent}/bids (read only)\n" in shown.out


def test_without_sbatch_nothing_is_submitted_or_written(
    call: Call, job: Path, tmp_path: Path
) -> None:
    before = files_below(tmp_path)
    shown = call("submit", str(job), "--cluster", "lab")
    assert shown.code == 4
    assert "sbatch is not on PATH" in shown.err
    assert files_below(tmp_path) == before


def test_a_cluster_that_runs_images_wants_one_named(call: Call, job: Path) -> None:
    job.write_text(JOB.replace("runtime: none\n", ""))
    shown = call("validate", str(job), "--cluster", "lab")
    assert shown.code == 2
    assert "cluster lab runs tasks in an image, but the job names none" in shown.err


@pytest.mark.parametrize("weights", ["./model.pth", "image", "contrast-agnostic-v2"])
def test_an_image_that_is_in_a_registry_is_no_reason_to_refuse_a_job(
    call: Call, job: Path, weights: str
) -> None:
    image = "oras://registry.invalid/lab/ca:v1"  # asking that host would fail
    text = re.sub("^weights: .*", f"weights: {weights}", JOB, flags=re.MULTILINE)
    job.write_text(text.replace("runtime: none", f"image: {image}"))
    told = (
        f"warning: image: {image} is pulled by submission, and what is in it is not checked "
        f"before; now: ca-hpc image pull --cluster lab {image}, which"
    )
    for command in (("validate",), ("submit", "--dry-run")):
        shown = call(*command, str(job), "--cluster", "lab")
        assert shown.code == 0, shown.err
        assert told in shown.err
    assert f"runtime     apptainer {image} sha256:not-known-yet" in shown.out


@pytest.mark.parametrize("arguments", [("submitt",), ("submit",), ("submit", "--nope", "x")])
def test_a_wrong_command_line_ends_with_2(call: Call, arguments: tuple[str, ...]) -> None:
    shown = call(*arguments)
    assert shown.code == 2
    assert shown.err


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run on SLURM: prepare is done, one fold failed, the other was submitted."""
    run = RunFolder.create(tmp_path / "runs", "neck")
    resources = Resources(60, 1, 1024)
    folds = ("train-a-fold0", "train-a-fold1")
    stages = (
        Stage("prepare", (Element("prepare.0", (Task("prepare", "m"),)),), resources, {}, 1),
        Stage(
            "train",
            tuple(Element(f"train.{i}", (Task(task, "m"),)) for i, task in enumerate(folds)),
            resources,
            {},
            at_once=2,
            after="prepare",
        ),
    )
    run.write(
        "workflow.json",
        Workflow(
            str(run.path),
            "slurm",
            "python3",
            None,
            (),
            Runtime("none", "python3"),
            (),
            None,
            stages,
        ),
    )
    run.write("pins.json", Pins("1", "0badcafe", "2025-01-01T00:00:00+00:00", weights=None))
    jobs = {
        "prepare": (("prepare.0", "100"),),
        "train": (("train.0", "101_0"), ("train.1", "101_1")),
    }
    for stage, ids in jobs.items():
        draft = Submission(0, stage, "", tuple(element for element, _ in ids))
        run.confirm(run.new_submission(draft), ids)
    end(run, "prepare", TaskState.COMPLETED)
    end(run, folds[0], TaskState.FAILED, cause="no space left", hint="free some")
    return run


def end(
    run: RunFolder,
    task: str,
    state: TaskState,
    *,
    cause: str | None = None,
    hint: str | None = None,
    failure: str | None = None,
) -> None:
    _, attempt = run.new_attempt(task, job="101", restart=0)
    (attempt / "log.txt").write_text(f"log of {task}\n")
    code = 0 if state is TaskState.COMPLETED else 1
    result = Result(task, attempt.name, state, code, "t0", "t1", 61, "node1", cause, hint, failure)
    run.write_result(attempt, result)


def test_a_status_without_a_scheduler_shows_the_results_that_there_are(
    call: Call, run: RunFolder
) -> None:
    shown = call("status", str(run.path))
    assert shown.code == 1
    rows = {line.split()[0]: line.split()[1] for line in shown.out.splitlines() if line.strip()}
    assert rows["prepare"] == "COMPLETED"
    assert rows["train-a-fold0"] == "FAILED"
    assert rows["train-a-fold1"] == "UNKNOWN"  # nobody could be asked: not failed
    assert "no space left" in shown.out
    assert "hint: free some" in shown.out
    assert "the scheduler could not be asked" in shown.out


def test_a_status_as_json_is_for_programs(call: Call, run: RunFolder) -> None:
    shown = call("status", "--json", str(run.path))
    told = json.loads(shown.out)
    tasks = {task["task"]: task for task in told["tasks"]}
    assert told["ended"] is False
    assert tasks["train-a-fold0"]["state"] == "FAILED"
    assert tasks["train-a-fold0"]["cause"] == "no space left"
    assert tasks["train-a-fold1"]["job"] == "101_1"
    assert tasks["prepare"]["seconds"] == 61


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((TaskState.COMPLETED, TaskState.COMPLETED), 0),
        ((TaskState.COMPLETED, TaskState.FAILED), 5),
        ((TaskState.OUT_OF_MEMORY, TaskState.FAILED), 1),
    ],
)
def test_the_exit_code_tells_all_done_some_lost_or_all_lost(
    call: Call, run: RunFolder, states: tuple[TaskState, TaskState], code: int
) -> None:
    for fold, state in enumerate(states):
        end(run, f"train-a-fold{fold}", state)
    assert call("status", str(run.path)).code == code


@pytest.mark.parametrize(
    "line",
    ["[1]", "null", "7", "{", '{"x": 1}', '{"event": "epoch"}', '{"event": 3}',
     '{"event": "case", "done": 1e999, "total": "x"}', "\0\0", '{"event": ["epoch"]}'],
)  # fmt: skip
def test_a_progress_file_with_rubbish_in_it_costs_the_bar_only(
    call: Call, run: RunFolder, line: str
) -> None:
    attempt = run.attempts("train-a-fold0")[-1]
    good = '{"event": "epoch", "epoch": 2, "epochs": 9}'
    (attempt / "progress.jsonl").write_text(f"{good}\n{line}\n")
    told = json.loads(call("status", "--json", str(run.path)).out)
    (fold,) = (task for task in told["tasks"] if task["task"] == "train-a-fold0")
    assert (fold["done"], fold["total"]) == (3, 9)


def test_progress_says_what_it_counts(call: Call, run: RunFolder) -> None:
    attempt = run.attempts("train-a-fold0")[-1]
    lines = ['{"event": "epoch", "epoch": 28, "epochs": 30}']
    for last, told in (
        ('{"event": "epoch", "epoch": 29, "epochs": 30}', "30/30 epochs"),
        ('{"event": "validation", "done": 2, "total": 3}', "2/3 cases"),
    ):
        lines.append(last)
        (attempt / "progress.jsonl").write_text("\n".join(lines) + "\n")
        assert told in call("status", str(run.path)).out


def a_task(name: str) -> TaskStatus:
    return TaskStatus(
        task=name,
        stage="train",
        element="train.0",
        job="12345678_10",
        state=TaskState.OUT_OF_MEMORY,
        attempts=3,
        node="node-with-a-long-name-0123",
        seconds=3600,
        done=11,
        total=30,
        cause="SLURM ended the job: it used more memory than it had asked for",
        hint=None,
        unit="epochs",
    )


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, ["task", "state", "job", "node", "attempts", "progress", "time", "cause"]),
        (100, ["task", "state", "progress", "time", "cause"]),
        (80, ["task", "state", "progress", "cause"]),
        (70, ["task", "state", "cause"]),
        (45, ["task", "state"]),
    ],
)
def test_a_narrow_terminal_has_task_and_state_in_full_and_less_of_the_rest(
    capsys: pytest.CaptureFixture[str], width: int, columns: list[str]
) -> None:
    names = ["train-finetune-fold0", "train-from-scratch-fold1"]
    now = RunStatus("RUN", tuple(map(a_task, names)), None)
    show_status(now, width=width)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == columns
    assert max(map(len, lines)) <= width
    rows = [line.split()[:2] for line in lines[1:] if "OUT_OF_MEMORY" in line]
    assert rows == [[name, "OUT_OF_MEMORY"] for name in names]
    cause = "SLURM ended the job: it used more memory than it had asked for"
    told = "".join(line[lines[0].index(columns[-1]) :] for line in lines[1:])  # in its column
    below = " ".join(lines)
    assert squeezed(cause) in squeezed(told) or f"{names[0]}: {cause}" in below


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("101_0|PENDING||Resources", "Resources; again after crash: it crashed"),
        ("101_0|PENDING||None", "again after crash: it crashed"),
        ("101_0|RUNNING|node1|None", "after crash: it crashed"),
        ("101_0|FAILED|node1|None", "it crashed"),
    ],
)
def test_what_is_tried_again_says_after_what(run: RunFolder, said: str, cause: str) -> None:
    end(run, "train-a-fold0", TaskState.NODE_FAIL, cause="it crashed", failure="crash")
    found = {task.task: task for task in status(run, asked=Asked(parse_rows(said))).tasks}
    assert found["train-a-fold0"].cause == cause
    assert found["train-a-fold1"].cause is None


@pytest.mark.parametrize("text", ["", "[1", "[1]", "null", '{"a": 1}', '[{"x": 1}]', "\0"])
def test_a_damaged_table_of_scores_is_named(call: Call, run: RunFolder, text: str) -> None:
    for fold in (0, 1):
        end(run, f"train-a-fold{fold}", TaskState.COMPLETED)
    file = run.file("evaluation", "scores.json")
    file.parent.mkdir()
    file.write_text(text)
    shown = call("status", str(run.path))
    assert shown.code == 2
    assert shown.err.startswith(f"error: {file} cannot be read: ")
    assert "COMPLETED" in shown.out


def test_a_damaged_spec_is_told_in_two_lines(call: Call, run: RunFolder) -> None:
    for fold in (0, 1):
        end(run, f"train-a-fold{fold}", TaskState.COMPLETED)
    run.file("evaluation").mkdir()
    row = CaseScore("a", 0, "c", "p", None, "T2w", "s1", "cord", 1.0, 1.0, 1.0, 0.0)
    write_scores([row], run.path)
    run.file("spec.json").write_text('{"x": 1}')
    shown = call("status", str(run.path))
    assert shown.code == 2
    assert len(shown.err.splitlines()) == 2


def test_a_folder_that_is_no_run_is_refused(call: Call, tmp_path: Path) -> None:
    for command in ("status", "logs", "cancel"):
        shown = call(command, str(tmp_path))
        assert shown.code == 2
        assert f"{tmp_path} is not a run folder" in shown.err


def test_logs_without_a_task_are_those_of_what_failed(call: Call, run: RunFolder) -> None:
    shown = call("logs", str(run.path))
    assert shown.out == "== train-a-fold0: FAILED: no space left\nlog of train-a-fold0\n"


def test_logs_of_a_task_are_its_newest_attempts(call: Call, run: RunFolder) -> None:
    end(run, "prepare", TaskState.COMPLETED)
    (run.attempts("prepare")[-1] / "log.txt").write_text("the second\n")
    assert call("logs", str(run.path), "prepare").out == "the second\n"


def test_logs_of_a_task_that_never_started_are_its_elements(call: Call, run: RunFolder) -> None:
    shown = call("logs", str(run.path), "train-a-fold1")
    assert shown.code == 2
    assert "train-a-fold1 has no log yet" in shown.err
    folder = run.file("submitit", "train")
    folder.mkdir(parents=True)
    (folder / "101_1_0_log.out").write_text("slurmstepd: error\n")
    assert call("logs", str(run.path), "train-a-fold1").out == "slurmstepd: error\n"


def test_a_task_that_does_not_exist_is_refused_with_those_that_do(
    call: Call, run: RunFolder
) -> None:
    shown = call("logs", str(run.path), "train")
    assert shown.code == 2
    assert "hint: tasks: prepare, train-a-fold0, train-a-fold1" in shown.err


def test_a_cancel_without_a_scheduler_ends_with_4(call: Call, run: RunFolder) -> None:
    assert call("cancel", str(run.path)).code == 4


def test_a_cancel_of_what_has_ended_cancels_nothing(call: Call, run: RunFolder) -> None:
    end(run, "train-a-fold1", TaskState.COMPLETED)
    assert call("cancel", str(run.path)).out == "nothing of this run waits or runs\n"
    told = json.loads(call("cancel", str(run.path), "--json").out)
    assert told == {"run": str(run.path), "cancelled": False}


def test_a_cancel_tells_programs_that_it_cancelled(
    call: Call, run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, prints in (("squeue", "101_1|RUNNING|node1|None"), ("sacct", ""), ("scancel", "")):
        (programs / name).write_text(f"#!/bin/sh\necho '{prints}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    told = json.loads(call("cancel", "--json", str(run.path)).out)
    assert told == {"run": str(run.path), "cancelled": True}


# --- for programs --------------------------------------------------------------------------------


def test_a_valid_job_as_json_has_counts(call: Call, job: Path) -> None:
    shown = call("validate", "--json", str(job))
    assert (shown.code, shown.err) == (0, UNLABELLED)
    told = json.loads(shown.out)
    assert (told["job_file"], told["cluster"]) == (str(job), "local")
    assert (told["cases"], told["people"]) == (2, 2)
    assert told["folds"] == [{"train": 1, "val": 1}] * 2
    assert (told["test_sets"], told["origins"]) == ({}, [])
    assert (len(told["stages"]), sum(told["stages"].values())) == (5, 9)
    assert told["stages"]["train"] == 4
    assert set(told["estimate"]) == {"bytes", "files", "free_bytes"}
    assert [f"warning: {text}\n" for text in told["warnings"]] == [UNLABELLED]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("validate", "gone.yaml"), 2),
        (("status", "gone"), 2),
        (("retry", "gone", "--memory", "much"), 2),
        (("data", "verify", "gone.tar"), 2),
        (("submit",), 2),
        (("submitt",), 2),
        (("status", "gone", "--nope"), 2),
        (("logs", "gone"), 2),
    ],
)
def test_an_error_is_an_object_on_stdout_too_and_the_same_text_on_stderr(
    call: Call, arguments: tuple[str, ...], code: int
) -> None:
    without = call(*arguments)
    assert (without.code, without.out) == (code, "")
    shown = call(*arguments, "--json")
    assert shown.code == code
    error = json.loads(shown.out)["error"]
    assert set(error) == {"message", "hint", "exit_code"}
    assert error["exit_code"] == code
    assert error["message"] in shown.err
    if arguments[0] != "logs":  # which has no --json: that is its error then
        assert shown.err == without.err


def test_a_scheduler_that_is_missing_is_told_to_programs(call: Call, run: RunFolder) -> None:
    shown = call("cancel", str(run.path), "--json")
    error = json.loads(shown.out)["error"]
    assert (shown.code, error["exit_code"]) == (4, 4)
    assert shown.err == f"error: {error['message']}\nhint: {error['hint']}\n"


def test_an_error_comes_beside_what_was_found_before_it(call: Call, job: Path) -> None:
    (job.parent / "bids").rename(job.parent / "gone")
    shown = call("submit", "-n", "--json", str(job))
    told = json.loads(shown.out)
    assert "-m ca_hpc.steps.train " in told["dry_run"]
    assert "bids does not exist" in told["error"]["message"]
    assert shown.code == told["error"]["exit_code"] == 2


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Programs that are started do not inherit that SIGINT is ignored, as shells' ``&`` has it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_watch_ends_with_130_and_an_object(run: RunFolder, tmp_path: Path) -> None:
    command = (sys.executable, "-I", "-m", "ca_hpc", "status", "--watch", "--json", str(run.path))
    with subprocess.Popen(
        command,
        env={"PATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stderr is not None
        assert watching.stderr.readline() == "prepare COMPLETED\n"  # it has begun
        watching.send_signal(signal.SIGINT)
        try:
            out, err = watching.communicate(timeout=60)
        finally:
            watching.kill()
    assert watching.returncode == 130
    assert json.loads(out)["error"] == {"message": "interrupted", "hint": None, "exit_code": 130}
    assert "Traceback" not in err


def test_every_command_but_logs_has_json() -> None:
    def without(command: Any, name: str) -> list[str]:
        if inner := getattr(command, "commands", None):
            return [each for key in inner for each in without(inner[key], f"{name} {key}")]
        flags = [flag for parameter in command.params for flag in parameter.opts]
        return [] if "--json" in flags else [name]

    assert without(typer.main.get_command(cli.app), "ca-hpc") == ["ca-hpc logs"]


# --- the program itself --------------------------------------------------------------------------


def test_help_needs_none_of_the_heavy_libraries() -> None:
    heavy = "{'torch', 'nnunetv2', 'nibabel', 'numpy', 'pydantic', 'submitit', 'rich.table'}"
    code = f"import ca_hpc.cli, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_help_has_a_whole_line_for_every_command(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = call("--help").out.partition("Commands:")[2].splitlines()
    assert len(commands) > 9
    assert [line for line in commands if line.endswith(("...", "…"))] == []


def test_help_names_every_command(call: Call) -> None:
    shown = call("--help")
    assert shown.code == 0
    for command in ("validate", "submit", "status", "logs", "cancel", "demo", "image"):
        assert command in shown.out


def test_a_run_below_its_data_is_mounted_after_the_folder_that_would_hide_it(
    call: Call, job: Path
) -> None:
    data = job.parent / "bids"
    shown = call("submit", "-n", str(job), "-o", str(data))
    assert shown.code == 0
    mounts = [line.split()[1] for line in shown.out.splitlines() if line.startswith("mount ")]
    assert mounts.index(str(data)) < mounts.index(str(data / "neck-001"))
