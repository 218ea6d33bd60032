"""Whatever becomes of sbatch, the scheduler or the command: one job each after the next call."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ca_hpc.actions import prepare, unfinished
from ca_hpc.actions.prepare import Host
from ca_hpc.actions.status import cancel
from ca_hpc.actions.submit import resume_submission, submit
from ca_hpc.core.record import Submission
from ca_hpc.errors import ExitCode, SchedulerUnreachable
from ca_hpc.executors import placing
from ca_hpc.executors.sbatch import SubmissionRefused, SubmissionUnsure
from ca_hpc.store.lock import held
from ca_hpc.store.run_folder import RunFolder
from tests.fakes.conftest import FakeSlurm, job_ids
from tests.kills import killed

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
STAGES = ("prepare", "preprocess", "train", "evaluate", "report")
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
DOWN = {"status": 1, "stderr": "slurm_load_jobs error: Unable to contact slurm controller\n"}
EMPTY = {"stdout": ""}
STEP = 3


@pytest.fixture
def again(job_file: Path, host: Host) -> Callable[[], RunFolder]:
    """``ca-hpc submit job.yaml``, in no time."""

    def call() -> RunFolder:
        job = prepare.read_job(job_file, host=host)
        return submit(
            job,
            host=host,
            token="0badcafe",
            now=NOW,
            warn=pytest.fail,
            patience_s=20,
            sleep=lambda _: None,
        )

    job_file.write_text(job_file.read_text() + "splits: {folds: 2}\n")
    return call


def assert_one_each(slurm: FakeSlurm, run: RunFolder) -> None:
    """Five jobs in the queue, of five names, and the records know them."""
    assert Counter(name.split(".")[1] for _, name in slurm.queue) == Counter(STAGES)
    recorded = {(s.jobs[0][1].split("_")[0], s.job_name) for s in run.submissions()}
    assert recorded == set(slurm.queue)
    of = {s.stage: s for s in run.submissions()}
    for before, stage in itertools.pairwise(STAGES):
        assert of[stage].after == (of[before].jobs[0][1].split("_")[0],)
    assert all((run.submission_folder(s.number) / "0.pkl").is_file() for s in of.values())


@pytest.mark.parametrize("answer", [{"status": 1, "stderr": TIMED_OUT}, {"hang": 0.2, "status": 0}])
def test_what_sbatch_has_submitted_in_spite_of_its_error_is_found_and_kept(
    slurm: FakeSlurm, again: Callable[[], RunFolder], answer: dict[str, object]
) -> None:
    unsure = {**answer, "queued": 103}
    slurm.answer({"sbatch": [*job_ids(101, 102), unsure, *job_ids(104, 105)]})
    run = again()
    assert_one_each(slurm, run)
    assert len(slurm.called("sbatch")) == 5
    assert [s.jobs[0][1] for s in run.submissions()] == ["101", "102", "103_0", "104", "105"]


def test_a_request_that_is_carried_out_after_the_first_answer_is_waited_for(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    unsure = {"status": 1, "stderr": TIMED_OUT, "queued": 102}
    late = [EMPTY, {"stdout": "102|PENDING||None\n"}]
    slurm.answer({"sbatch": [*job_ids(101), unsure, *job_ids(103, 104, 105)], "squeue": late})
    assert_one_each(slurm, again())
    assert len(slurm.called("squeue")) == 2


def test_only_what_the_scheduler_does_not_have_is_submitted_again(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    nothing = {"status": 1, "stderr": TIMED_OUT}
    slurm.answer({"sbatch": [*job_ids(101, 102), nothing, *job_ids(104, 105, 106)]})
    run = again()
    assert_one_each(slurm, run)
    names = [line for call in slurm.called("sbatch") for line in call["script"].splitlines()]
    named = Counter(line for line in names if "--job-name" in line)
    assert max(named.values()) == 2 and len(named) == 5


def test_it_never_submits_without_an_answer_and_goes_on_at_the_next_call(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    unsure = {"status": 1, "stderr": TIMED_OUT, "queued": 103}
    slurm.answer({"sbatch": [*job_ids(101, 102), unsure], "squeue": [DOWN], "sacct": [DOWN]})
    with pytest.raises(SchedulerUnreachable) as caught:
        again()
    assert caught.value.exit_code is ExitCode.SCHEDULER_UNREACHABLE
    assert "queued: prepare (job 101), preprocess (job 102); not queued" in caught.value.message
    assert "train, evaluate, report" in caught.value.message
    assert "run the same command again" in str(caught.value.hint)
    assert len(slurm.called("sbatch")) == 3
    slurm.answer({})
    assert_one_each(slurm, again())


def test_without_slurmdbd_squeue_alone_is_believed(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    nothing = {"status": 1, "stderr": TIMED_OUT}
    slurm.answer({"sbatch": [nothing, *job_ids(101, 102, 103, 104, 105)], "sacct": [DOWN]})
    assert_one_each(slurm, again())


def test_sacct_alone_can_show_a_job_but_no_absence(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    unsure = {"status": 1, "stderr": TIMED_OUT, "queued": 101}
    ended = {"stdout": "101|COMPLETED|node1|None\n"}
    waiting = {"stdout": "101|PENDING||None\n"}  # a controller that was killed may not know it
    slurm.answer(
        {
            "sbatch": [unsure, *job_ids(102, 103, 104, 105)],
            "squeue": [DOWN],
            "sacct": [waiting, ended],
        }
    )
    assert_one_each(slurm, again())
    assert len(slurm.called("sacct")) == 2


def test_jobs_that_a_killed_controller_forgot_are_submitted_again_under_their_names(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    """It gives their ids to others, too: 102 is the second stage's, then the third's."""
    slurm.answer({"sbatch": [*job_ids(101, 102), {"status": 1, "stderr": TIMED_OUT, "kill": True}]})
    assert killed(lambda: again() and None, change=-1) is None
    slurm.forget("102")
    slurm.answer({})
    run = again()
    assert_one_each(slurm, run)
    assert next(s for s in run.submissions() if s.stage == "prepare").jobs == (
        ("prepare.0", "101"),
    )


def test_numbers_that_go_back_are_noticed(slurm: FakeSlurm, again: Callable[[], RunFolder]) -> None:
    slurm.answer({"sbatch": job_ids(101, 102, 101, 103, 104, 105, 106, 107)})
    run = again()
    stages = [name.split(".")[1] for _, name in slurm.queue]
    assert Counter(stages) == Counter(STAGES)
    assert len(run.submissions()) == 5


def test_a_job_that_is_to_wait_for_itself_shows_that_the_one_before_is_lost(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    """The controller has lost 101 and gives the number to the second stage, which waits for 101."""
    itself = "sbatch: error: Batch job submission failed: Job dependency problem\n"
    refusal = {"status": 1, "stderr": itself, "forget": ["101"]}
    slurm.answer({"sbatch": [*job_ids(101), refusal, *job_ids(101, 102, 103, 104, 105)]})
    assert_one_each(slurm, again())


def test_a_second_array_of_the_name_is_cancelled(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    two = {"stdout": "110|PENDING||None\n101|PENDING||None\n"}
    unsure = {"status": 1, "stderr": TIMED_OUT}
    slurm.answer({"sbatch": [unsure, *job_ids(102, 103, 104, 105)], "squeue": [two]})
    assert again().submissions()[0].jobs == (("prepare.0", "101"),)
    assert [call["arguments"] for call in slurm.called("scancel")] == [["110"]]


def test_killed_before_every_change_it_ends_with_one_job_each(
    slurm: FakeSlurm, again: Callable[[], RunFolder], host: Host
) -> None:
    """Before a third of all files and programs; tests/integration has every one, on real SLURM."""
    slurm.answer({})
    points = []
    for change in itertools.count(random.randrange(STEP), STEP):
        point = killed(lambda: again() and None, change=change)
        if point is None:
            break
        points.append(point)
        run = again()
        assert_one_each(slurm, run)
        (only,) = (host.folder / "ca-hpc-runs").iterdir()
        assert only == run.path, point
        only.rename(host.folder / f"done-{change}")
        slurm.forget(*(job for job, _ in slurm.queue))
    print(f"killed before {len(points)} changes: {points}")
    assert len(points) > 25


@pytest.mark.parametrize("stage", range(len(STAGES)))
def test_killed_while_sbatch_returns_it_keeps_what_was_submitted(
    slurm: FakeSlurm, again: Callable[[], RunFolder], stage: int
) -> None:
    answers = job_ids(*range(101, 101 + len(STAGES)))
    answers[stage]["kill"] = True
    slurm.answer({"sbatch": answers})
    process = os.fork()
    if not process:
        again()
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    before = slurm.queue
    slurm.answer({})
    run = again()
    assert_one_each(slurm, run)
    assert slurm.queue[: stage + 1] == before


def test_a_complete_submission_another_job_and_a_held_run_are_not_gone_on_with(
    slurm: FakeSlurm, again: Callable[[], RunFolder], job_file: Path
) -> None:
    slurm.answer({})
    assert [again().path.name for _ in range(2)] == ["fake-001", "fake-002"]
    slurm.answer({"sbatch": [DOWN], "squeue": [DOWN], "sacct": [DOWN]})
    with pytest.raises(SchedulerUnreachable):
        again()
    slurm.answer({})
    text = job_file.read_text()
    job_file.write_text(text + "threads: 1\n")
    assert again().path.name == "fake-004"
    job_file.write_text(text)
    third = host_of(job_file) / "fake-003"
    process, ready = hold(third / unfinished.LOCK)
    assert again().path.name == "fake-005"
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(ready)
    assert again().path.name == "fake-003"


def host_of(job_file: Path) -> Path:
    return job_file.parent / "ca-hpc-runs"


def hold(lock: Path) -> tuple[int, int]:
    """Another process that holds the lock: its id, and a descriptor to close."""
    ready, tells = os.pipe()
    process = os.fork()
    if not process:
        with held(lock, waiting=lambda: os._exit(1)):
            os.write(tells, b"x")
            signal.pause()
        os._exit(0)
    os.close(tells)
    assert os.read(ready, 1) == b"x"
    return process, ready


def test_a_run_that_was_cancelled_is_not_gone_on_with(
    slurm: FakeSlurm, again: Callable[[], RunFolder], job_file: Path
) -> None:
    slurm.answer({"sbatch": [*job_ids(101), DOWN], "squeue": [DOWN], "sacct": [DOWN]})
    with pytest.raises(SchedulerUnreachable):
        again()
    first = RunFolder.open(host_of(job_file) / "fake-001")
    slurm.answer({})
    assert cancel(first)
    slurm.answer({"squeue": [{"stdout": "101|CANCELLED||None\n"}]})
    assert again().path.name == "fake-002"


def test_a_folder_with_files_of_the_users_is_left_alone(
    slurm: FakeSlurm, again: Callable[[], RunFolder], job_file: Path
) -> None:
    slurm.answer({})
    (host_of(job_file) / "fake-001").mkdir(parents=True)
    (host_of(job_file) / "fake-001/notes.txt").write_text("mine")
    assert again().path.name == "fake-002"
    assert (host_of(job_file) / "fake-001/notes.txt").read_text() == "mine"


def test_resuming_a_complete_run_asks_nobody(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    slurm.answer({})
    run = again()
    asked = len(slurm.calls)
    resume_submission(run)
    assert len(slurm.calls) == asked


# --- further submissions -------------------------------------------------------------------------


def draft(**changes: object) -> Submission:
    return replace(
        Submission(0, "train", "", ("train.1", "train.3"), by="103_1"),
        **changes,  # type: ignore[arg-type]
    )


def script_of(slurm: FakeSlurm) -> list[str]:
    return slurm.called("sbatch")[-1]["script"].splitlines()  # type: ignore[no-any-return]


def place(run: RunFolder, submission: Submission) -> Submission:
    return placing.place(run, submission, call=lambda element, number: print, sleep=lambda _: None)


def test_a_further_submission_has_its_changes_its_number_and_its_elements(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    slurm.answer({})
    run = again()
    placed = place(
        run,
        draft(memory_mib=48000, exclude=("n1", "n2"), wait_s=90, after=("101", "102_3"),
              condition="afterany"),
    )  # fmt: skip
    script = script_of(slurm)
    for line in (
        "--mem=48000M",
        "--exclude=n1,n2",
        "--begin=now+90",
        "--dependency=afterany:101:102_3",
        "--array=0-1%2",
        "--job-name=fake-001.train.0badcafe.0006",
    ):
        assert f"#SBATCH {line}" in script
    assert placed.jobs == (("train.1", "106_0"), ("train.3", "106_1"))
    assert run.current_jobs()["train.1"] == ("106_0",)
    assert run.current_jobs()["train.0"] == ("103_0",)


def test_links_are_an_array_of_one_element_that_runs_one_at_a_time(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    slurm.answer({})
    run = again()
    placed = place(run, draft(elements=("train.1",), links=3))
    assert "#SBATCH --array=0-2%1" in script_of(slurm)
    assert placed.of("train.1") == ("106_0", "106_1", "106_2")
    pickles = {file.read_bytes() for file in run.submission_folder(placed.number).glob("*.pkl")}
    assert len(pickles) == 1


def test_a_refusal_is_written_down_and_unsure_words_are_not_one(
    slurm: FakeSlurm, again: Callable[[], RunFolder]
) -> None:
    slurm.answer({})
    run = again()
    slurm.answer({"sbatch": [{"status": 1, "stderr": "sbatch: error: invalid qos\n"}]})
    with pytest.raises(SubmissionRefused, match="invalid qos"):
        place(run, draft())
    assert run.submissions()[-1].refused == "sbatch refused stage train: invalid qos"
    before = len(slurm.called("sbatch"))
    slurm.answer({"sbatch": [{"status": 1, "stderr": TIMED_OUT}]})
    with pytest.raises(SubmissionUnsure):
        place(run, draft())
    assert len(slurm.called("sbatch")) == before + placing.TRIES
    assert run.submissions()[-1].open
    slurm.answer({})
    resume_submission(run, sleep=lambda _: None)
    assert run.submissions()[-1].confirmed


def test_two_writers_never_get_one_number(slurm: FakeSlurm, again: Callable[[], RunFolder]) -> None:
    slurm.answer({})
    run = again()
    children = []
    for _ in range(4):
        process = os.fork()
        if not process:
            for _ in range(10):
                run.new_submission(draft())
            os._exit(0)
        children.append(process)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    numbers = [s.number for s in run.submissions()]
    assert numbers == list(range(1, 46))
