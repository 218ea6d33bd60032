"""Real submitit on a fake PATH: what is asked of the scheduler, and what its answers lead to."""

from __future__ import annotations

import pickle
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ca_hpc.actions import prepare
from ca_hpc.actions.prepare import Host, Overrides
from ca_hpc.actions.status import cancel, status
from ca_hpc.actions.submit import dry_run, submit
from ca_hpc.continuation.call import ElementCall
from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Result
from ca_hpc.errors import ExitCode, SchedulerUnreachable
from ca_hpc.report.run_record import compose
from ca_hpc.store.digests import DigestCache, sha256_file
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import read_seals
from tests.fakes.conftest import FakeSlurm, job_ids

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def submitted(job_file: Path, host: Host, *, text: str = "") -> RunFolder:
    job_file.write_text(job_file.read_text() + text)
    job = prepare.read_job(job_file, host=host)
    return submit(job, host=host, token="0badcafe", now=NOW, warn=pytest.fail)


def test_every_stage_is_one_sbatch_and_nothing_else_is_asked(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host)
    assert [call["program"] for call in slurm.calls] == ["sbatch"] * 5
    jobs = {s.stage: s.jobs for s in run.submissions()}
    assert jobs["prepare"] == (("prepare.0", "101"),)  # an array of one is no array
    assert jobs["train"] == tuple((f"train.{i}", f"103_{i}") for i in range(10))


def test_stages_depend_on_the_one_before_by_its_whole_array(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    submitted(job_file, host)
    found = [re.findall(r"--dependency=(\S+)", call["script"]) for call in slurm.called("sbatch")]
    assert found == [[], ["afterok:101"], ["afterok:102"], ["afterany:103"], ["afterany:104"]]


def test_variables_of_slurm_in_the_shell_change_no_question_and_no_job(
    slurm: FakeSlurm, host: Host, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = ("SQUEUE_PARTITION", "SCANCEL_STATE", "SACCT_FORMAT", "SBATCH_PARTITION")
    inside_a_job = ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_TIME_FORMAT")
    for name in (*shell, *inside_a_job):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    run = submitted(job_file, host)
    status(run)
    cancel(run)
    assert {call["program"] for call in slurm.calls} >= {"sbatch", "squeue", "scancel"}
    for call in slurm.calls:
        assert call["environment"] == {"SLURM_CONF": "/etc/slurm/slurm.conf"}, call["program"]


def test_a_job_gets_the_named_variables_of_the_shell_and_no_other(
    slurm: FakeSlurm, host: Host, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = {"HOME": "/home/me", "MODULEPATH": "/modules", "KRB5CCNAME": "/tmp/krb"}
    meant |= {"SLURM_CONF": "/etc/slurm/slurm.conf"}
    monkeypatch.delenv("USER", raising=False)
    hostile = ("PYTHONPATH", "LD_LIBRARY_PATH", "APPTAINER_BIND", "BASH_ENV", "nnUNet_results")
    for name, text in {**meant, **dict.fromkeys(hostile, "/evil"), "SECRET": "x"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("LOGNAME", raising=False)
    submitted(job_file, host)
    for call in slurm.called("sbatch"):
        # Python's own, of the fake (PEP 538)
        got = {name: text for name, text in call["all"].items() if name != "LC_CTYPE"}
        assert got == {**meant, "PATH": str(slurm.folder / "bin")}
        assert "#SBATCH --export=ALL\n" in call["script"]


def test_every_source_file_is_sealed_and_read_once(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    first, second = submitted(job_file, host), submitted(job_file, host)
    files = {file for case in first.cases.cases for file in case.files}
    sealed = {each.path: each for each in read_seals(first.data_seals).files}
    assert set(sealed) == files
    for file, each in sealed.items():
        assert each.sha256 == sha256_file(Path(file))
    cache = DigestCache(host.cache / "digests.json")
    assert all(cache.knows(Path(file)) for file in files)
    assert first.data_seals.read_text() == second.data_seals.read_text()


def test_trainers_are_sealed_as_they_were_copied(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    own = job_file.parent / "trainers"
    (own / "parts").mkdir(parents=True)
    for name in ("mine.py", "parts/loss.py", "sealed.json", "notes.txt"):
        (own / name).write_text(name)
    run = submitted(job_file, host, text="trainers: trainers\n")
    sealed = {each.path: each.sha256 for each in read_seals(run.trainers / "sealed.json").files}
    assert sealed == {name: sha256_file(own / name) for name in ("mine.py", "parts/loss.py")}
    recorded = {file.path: file.sha256 for file in compose(run).trainers}
    assert recorded == {f"trainers/{name}": digest for name, digest in sealed.items()}


def test_a_folder_without_trainers_leaves_none(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    (job_file.parent / "trainers").mkdir()
    run = submitted(job_file, host, text="trainers: trainers\n")
    assert not run.trainers.exists()


def test_the_dry_run_shows_what_sbatch_then_gets(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    job = prepare.read_job(job_file, host=host)
    dry = dry_run(job, host=host)
    text, trouble = dry.text, dry.trouble
    assert trouble is None and slurm.calls == []
    submitted(job_file, host)
    shown = "\n".join(line.strip() for line in text.splitlines())
    stages = ("prepare", "preprocess", "train", "evaluate", "report")
    for number, call in enumerate(slurm.called("sbatch"), start=100):
        script = call["script"].replace("0badcafe", "00000000")
        if number > 100:  # the id that the dry run cannot know
            script = script.replace(f":{number}", f":JOB-OF-{stages[number - 101]}")
        assert "\n".join(line.strip() for line in script.strip().splitlines()) in shown


def test_the_pickles_lie_ready_and_hold_two_strings_and_a_number(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host)
    files = sorted(run.submission_folder(3).glob("*.pkl"))
    assert len(files) == 10
    delayed = pickle.loads((run.submission_folder(3) / "4.pkl").read_bytes())  # noqa: S301 - ours
    assert isinstance(delayed.function, ElementCall)
    assert vars(delayed.function) == {
        "run_folder": str(run.path),
        "element_id": "train.4",
        "submission": 3,
    }


def test_a_refused_stage_takes_the_stages_before_it_back(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    refusal = {"status": 1, "stderr": "sbatch: error: invalid partition specified: nowhere\n"}
    slurm.answer({"sbatch": [*job_ids(101, 102), refusal]})
    with pytest.raises(SchedulerUnreachable) as caught:
        submitted(job_file, host)
    assert caught.value.exit_code is ExitCode.SCHEDULER_UNREACHABLE
    assert "stage train" in caught.value.message
    assert "invalid partition specified: nowhere" in caught.value.message
    cancelled = [call["arguments"] for call in slurm.called("scancel")]
    # by id what is known, by name what sbatch may have queued in spite of its error
    run = RunFolder.open(host.folder / "ca-hpc-runs/fake-001")
    now = status(run)
    assert now.ended and now.exit_code is ExitCode.TASK_FAILED
    assert {task.state for task in now.tasks} == {TaskState.CANCELLED}
    assert all("stage train" in (task.cause or "") for task in now.tasks)
    assert cancelled == [["101", "102"], ["--name", "fake-001.train.0badcafe.0003"]]


def test_without_sbatch_nothing_is_written(slurm: FakeSlurm, host: Host, job_file: Path) -> None:
    (slurm.folder / "bin/sbatch").unlink()
    with pytest.raises(SchedulerUnreachable) as caught:
        submitted(job_file, host)
    assert "sbatch is not on PATH" in caught.value.message
    assert not (host.folder / "ca-hpc-runs").exists()


def test_status_is_one_squeue(slurm: FakeSlurm, host: Host, job_file: Path) -> None:
    run = submitted(job_file, host)
    rows = ["101|RUNNING|node1|None", *(f"{job}|PENDING||Dependency" for job in (102, 104, 105))]
    rows += [f"103_{i}|PENDING||PartitionConfig" for i in range(10)]
    slurm.answer({"squeue": [{"stdout": "\n".join(rows) + "\n"}]})
    before = len(slurm.calls)
    tasks = {task.task: task for task in status(run).tasks}
    assert [call["program"] for call in slurm.calls[before:]] == ["squeue"]
    assert tasks["prepare-shard0"].state is TaskState.RUNNING
    assert tasks["train-scratch-fold4"].state is TaskState.PENDING
    assert tasks["train-scratch-fold4"].cause == "PartitionConfig"


def test_sacct_is_asked_for_what_squeue_has_forgotten(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host)
    slurm.answer(
        {
            "squeue": [{"stdout": "101|RUNNING|node1|None\n"}],
            "sacct": [{"stdout": "103_3|NODE_FAIL|node2|None\n"}],
        }
    )
    before = len(slurm.calls)
    states = {task.task: task.state for task in status(run).tasks}
    first, second = slurm.calls[before:]
    assert first["arguments"][-1] == "101,102,103,104,105"
    assert second["arguments"][-1] == "102,103,104,105"
    assert states["prepare-shard0"] is TaskState.RUNNING
    assert states["train-scratch-fold1"] is TaskState.NODE_FAIL
    assert states["report"] is TaskState.UNKNOWN  # no row anywhere yet: not failed


def test_jobs_that_squeue_does_not_know_are_no_trouble(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host)
    unknown = {"status": 1, "stderr": "slurm_load_jobs error: Invalid job id specified\n"}
    slurm.answer({"squeue": [unknown], "sacct": [{"stdout": "101|FAILED|node1|None\n"}]})
    now = status(run)
    assert now.trouble is None
    assert now.tasks[0].state is TaskState.FAILED


def test_without_slurmdbd_what_squeue_says_is_shown(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host)
    slurm.answer(
        {
            "sacct": [{"status": 1, "stderr": "sacct: error: Slurm accounting is disabled\n"}],
            "squeue": [{"stdout": "101|RUNNING|node1|None\n103_3|FAILED|node2|NonZeroExitCode\n"}],
        }
    )
    now = status(run)
    states = {task.task: task.state for task in now.tasks}
    assert now.trouble is None
    assert states["prepare-shard0"] is TaskState.RUNNING
    assert states["train-scratch-fold1"] is TaskState.FAILED


def test_a_scheduler_that_refuses_makes_nothing_failed(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host)
    slurm.answer({"sacct": [{"status": 1}], "squeue": [{"status": 1, "stderr": "down\n"}]})
    now = status(run)
    assert now.trouble is not None and "down" in now.trouble
    assert {task.state for task in now.tasks} == {TaskState.UNKNOWN}
    assert not now.ended and now.exit_code is ExitCode.OK


def test_a_failed_task_shows_as_such_while_its_siblings_in_the_element_run(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host, text="resources: {train: {pack: 2, cpus: 2}}\n")
    failed, running = "train-finetune-fold0", "train-scratch-fold0"
    for task in (failed, running):
        run.new_attempt(task, job="103_0", restart=0)
    result = Result(
        task=failed, attempt=run.attempts(failed)[0].name, state=TaskState.FAILED, exit_code=1,
        started="", ended="", seconds=1.0, host="node1", failure="code", cause="it broke",
    )  # fmt: skip
    run.write_result(run.attempts(failed)[0], result)
    slurm.answer({"squeue": [{"stdout": "103_0|RUNNING|node1|None\n"}]})
    tasks = {task.task: task for task in status(run).tasks}
    assert tasks[failed].state is TaskState.FAILED and tasks[failed].cause == "it broke"
    assert tasks[running].state is TaskState.RUNNING


def test_cancel_names_each_array_once(slurm: FakeSlurm, host: Host, job_file: Path) -> None:
    run = submitted(job_file, host)
    assert cancel(run)
    assert [c["arguments"] for c in slurm.called("scancel")] == [
        ["101", "102", "103", "104", "105"]
    ]


def test_a_run_folder_with_a_newline_reaches_sbatch_by_a_link(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    output = host.folder / 'a "b"\n#SBATCH --wrap=x'
    job = prepare.read_job(job_file, host=host, overrides=Overrides(output=output))
    run = submit(job, host=host, token="0badcafe", now=NOW, warn=pytest.fail)
    for call in slurm.called("sbatch"):
        (log,) = re.findall(r"--output=(\S+)", call["script"])
        assert "\n" not in log and Path(log).parent.resolve().is_relative_to(run.path.resolve())
        assert "wrap" not in call["script"]


def test_a_refusal_that_cannot_be_taken_back_says_so_and_how(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    refusal = {"status": 1, "stderr": "sbatch: error: invalid account\n"}
    frozen = {"status": 1, "stderr": "scancel: error: slurmctld does not answer\n"}
    slurm.answer({"sbatch": [*job_ids(101, 102), refusal], "scancel": [frozen]})
    with pytest.raises(SchedulerUnreachable) as caught:
        submitted(job_file, host)
    assert "invalid account" in caught.value.message
    assert "slurmctld does not answer" in caught.value.message
    run = RunFolder.open(host.folder / "ca-hpc-runs/fake-001")
    assert caught.value.hint == f"ca-hpc cancel {run.path}"
    slurm.answer({})
    assert cancel(run)
    by_id, by_name = (call["arguments"] for call in slurm.called("scancel")[-2:])
    assert by_id == ["101", "102"] and by_name == ["--name", "fake-001.train.0badcafe.0003"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"stdout": "hello\n", "status": 1}, "it said 'hello', which is no job id"),
        ({"status": 1}, "it failed without a word"),
    ],
)
def test_what_sbatch_says_instead_of_a_job_id_is_shown(
    slurm: FakeSlurm, host: Host, job_file: Path, answer: dict[str, object], told: str
) -> None:
    slurm.answer({"sbatch": [answer]})
    with pytest.raises(SchedulerUnreachable, match="sbatch refused stage prepare") as caught:
        submitted(job_file, host)
    assert told in caught.value.message
