"""What a job arranges on its node, and what `retry` submits, told by what the scheduler is asked.

The elements' ends are written as the worker writes them; the same is run for real on SLURM in the
integration tier.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.actions import prepare
from ca_hpc.actions.prepare import Host
from ca_hpc.actions.retry import retry
from ca_hpc.actions.status import status
from ca_hpc.actions.submit import submit
from ca_hpc.attempts.history import current_result
from ca_hpc.continuation import ways
from ca_hpc.continuation.follow import changed_already, follow
from ca_hpc.continuation.further import further
from ca_hpc.continuation.job import Job
from ca_hpc.continuation.steward import look_after
from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Attempt, Result, Submission
from ca_hpc.core.rules import Failure
from ca_hpc.errors import CaHpcError, SchedulerUnreachable
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.execution import Execution, Outcome
from ca_hpc.worker.node import Node
from tests.fakes.conftest import FakeSlurm, job_ids

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
ONE_ARM = "folds: [0, 1, 2]\narms: {scratch: {weights: random}}\nsplits: {folds: 3}\n"
# five stages are submitted first
LATER = job_ids(101, 102, 103, 104, 105, *range(201, 220))
TRAININGS = [f"train-scratch-fold{fold}" for fold in range(3)]


def submitted(job_file: Path, host: Host, *, text: str = "", site: str = "") -> RunFolder:
    job_file.write_text(job_file.read_text().replace("cluster: lab", "cluster: c.yaml") + text)
    profile = Path(prepare.__file__).parents[2] / "configs/clusters/lab.yaml"
    (job_file.parent / "c.yaml").write_text(profile.read_text() + site)
    job = prepare.read_job(job_file, host=host)
    return submit(job, host=host, token="0badcafe", now=NOW, warn=lambda text: None)


def end(
    run: RunFolder, task: str, *, job: str, failure: Failure | None = None, progress: str = ""
) -> Result:
    """An attempt of a task, begun and ended by a job."""
    number, attempt = run.new_attempt(task, job=job, restart=0)
    of = next(s.number for s in run.submissions() if job in dict(map(reversed, s.jobs)))
    run.write_attempt(
        attempt,
        Attempt(number, job, 0, "node1", 7, NOW.isoformat(), (), of, 1.0, 2500),
    )
    (attempt / "progress.jsonl").write_text(progress)
    state = TaskState.COMPLETED if failure is None else TaskState.FAILED
    told = None if failure is None else failure.value
    result = Result(task, attempt.name, state, 1, "", "", 60.0, "node1", "why", None, told)
    run.write_result(attempt, result)
    return result


def complete(run: RunFolder, *stages: str) -> None:
    jobs = {element: job for s in run.submissions() for element, job in s.jobs}
    for stage in run.workflow.stages:
        for element in stage.elements:
            if stage.name in stages or element.id in stages:
                for task in element.tasks:
                    end(run, task.id, job=jobs[element.id])


def seen_by(run: RunFolder, element: str, **environment: str) -> Job:
    """A job of the run, as it sees itself."""
    submission = [s for s in run.submissions() if s.confirmed and element in s.elements][-1]
    array, _, index = submission.of(element)[0].partition("_")
    variables = {
        "SLURM_JOB_ID": array,
        "SLURM_ARRAY_JOB_ID": array,
        "SLURM_ARRAY_TASK_ID": index,
    }
    given = {
        key: value for key, value in variables.items() if (value and index) or "ARRAY" not in key
    }
    return Job(run, Node({**given, **environment}, "node1", lambda: NOW), submission, element)


def queue(slurm: FakeSlurm, **states: str) -> None:
    """What squeue says: job by state; ``_`` stands for the sign between array and index."""
    rows = "".join(f"{job[1:]}|{state}|node1|None\n" for job, state in states.items())
    slurm.answer({"squeue": [{"stdout": rows}], "sbatch": LATER})


def option(call: dict[str, Any], name: str) -> str | None:
    found = re.search(rf"--{name}=(\S+)", call["script"])
    return found[1] if found else None


@pytest.fixture
def run(slurm: FakeSlurm, host: Host, job_file: Path) -> RunFolder:
    """Three trainings, jobs 103_0 to 103_2, with all that they need done."""
    run = submitted(job_file, host, text=ONE_ARM)
    complete(run, "prepare", "preprocess")
    return run


def further_calls(slurm: FakeSlurm) -> list[dict[str, Any]]:
    return slurm.called("sbatch")[5:]


# --- what follows an element ---------------------------------------------------------------------


def outcome(run: RunFolder, task: str, failure: Failure, *, mine: bool = True) -> Outcome:
    return Outcome(task, end(run, task, job="103_1", failure=failure), mine)


@pytest.mark.parametrize("failure", [Failure.PREEMPTED, Failure.TIME])
def test_what_was_interrupted_goes_on_as_it_is(run: RunFolder, failure: Failure) -> None:
    found = follow(seen_by(run, "train.1"), [outcome(run, TRAININGS[1], failure)])
    assert (found.as_it_is, found.changed, found.lost) == ((TRAININGS[1],), (), {})


def test_too_little_memory_leads_to_a_job_with_more(run: RunFolder) -> None:
    found = follow(seen_by(run, "train.1"), [outcome(run, TRAININGS[1], Failure.HOST_MEMORY)])
    (draft,) = found.changed
    assert (draft.elements, draft.memory_mib) == (("train.1",), 3750)


def test_a_bad_gpu_leads_to_a_job_on_another_node(run: RunFolder) -> None:
    found = follow(seen_by(run, "train.1"), [outcome(run, TRAININGS[1], Failure.GPU)])
    assert found.changed[0].exclude == ("node1",)


@pytest.mark.parametrize("failure", [Failure.CODE, Failure.DISK, Failure.GPU_MEMORY])
def test_what_would_fail_again_is_lost_and_says_why(run: RunFolder, failure: Failure) -> None:
    found = follow(seen_by(run, "train.1"), [outcome(run, TRAININGS[1], failure)])
    assert (found.as_it_is, found.changed) == ((), ())
    assert failure.value in found.lost[TRAININGS[1]].why


def test_a_task_that_another_job_has_taken_over_is_none_of_its_business(run: RunFolder) -> None:
    taken = outcome(run, TRAININGS[1], Failure.PREEMPTED, mine=False)
    found = follow(seen_by(run, "train.1"), [taken])
    assert (found.as_it_is, found.changed, found.lost) == ((), (), {})


def test_five_interruptions_without_progress_are_enough(run: RunFolder) -> None:
    for _ in range(5):
        end(run, TRAININGS[1], job="103_1", failure=Failure.PREEMPTED)
    found = follow(seen_by(run, "train.1"), [outcome(run, TRAININGS[1], Failure.PREEMPTED)])
    assert "no further" in found.lost[TRAININGS[1]].why


# --- three ways ----------------------------------------------------------------------------------


def test_requeueing_names_the_element(slurm: FakeSlurm, run: RunFolder) -> None:
    assert "103_1 is queued again" in ways.go_on(seen_by(run, "train.1"))
    assert slurm.called("scontrol")[0]["arguments"] == ["requeue", "103_1"]


def test_where_requeueing_is_forbidden_a_further_job_is_submitted(
    slurm: FakeSlurm, run: RunFolder
) -> None:
    queue(slurm, j103_0="RUNNING", j103_1="RUNNING", j103_2="RUNNING", j104="PENDING")
    slurm.answer(
        {
            "scontrol": [{"status": 1, "stderr": "scontrol: error: Access denied"}, {}],
            "squeue": [{"stdout": "103_1|RUNNING|n|None\n104|PENDING||Dependency\n"}],
            "sbatch": LATER,
        }
    )
    ways.go_on(seen_by(run, "train.1"))
    (call,) = further_calls(slurm)
    assert option(call, "dependency") is None
    told = [call["arguments"] for call in slurm.called("scontrol")[1:]]
    assert any(a[:2] == ["update", "JobId=104"] for a in told), told


def test_a_chain_needs_nothing_while_it_has_links(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host, text=ONE_ARM, site="continuation: array\n")
    assert [option(c, "array") for c in slurm.called("sbatch")].count("0-2%1") == 3
    asked = len(slurm.calls)
    job = seen_by(run, "train.1", SLURM_ARRAY_TASK_ID="1")
    assert ways.go_on(job) == "link 3 of 3 takes over"
    assert len(slurm.calls) == asked


def test_a_job_that_resubmits_has_its_heir_before_it_begins_and_drops_it_at_the_end(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host, text=ONE_ARM, site="continuation: resubmit\n")
    queue(slurm, j103_1="RUNNING", j104="PENDING")
    job = seen_by(run, "train.1")
    ways.prepare_heir(job)
    (call,) = further_calls(slurm)
    assert option(call, "dependency") == "afterany:103_1"
    (told,) = slurm.called("scontrol")
    assert told["arguments"][1] == "JobId=104"
    assert told["arguments"][2].startswith("Dependency=afterany:")
    assert "201" in told["arguments"][2].split(":")
    ways.prepare_heir(job)  # started anew by SLURM: there is one already
    assert len(further_calls(slurm)) == 1
    assert ways.go_on(job) == "job 201 takes over"
    ways.drop_heirs(job)
    assert "201" in slurm.called("scancel")[0]["arguments"]


def test_the_heir_of_a_job_that_was_cancelled_does_not_run(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host, text=ONE_ARM, site="continuation: resubmit\n")
    queue(slurm, j103_1="RUNNING", j104="PENDING")
    ways.prepare_heir(seen_by(run, "train.1"))
    heir = seen_by(run, "train.1")
    assert heir.id == "201"
    queue(slurm, j103_1="CANCELLED")
    assert ways.was_cancelled(heir)
    queue(slurm, j103_1="TIMEOUT")
    assert not ways.was_cancelled(heir)


# --- looking after the stage before --------------------------------------------------------------


def test_what_died_without_a_word_is_submitted_again_and_this_stage_behind_it(
    slurm: FakeSlurm, run: RunFolder
) -> None:
    complete(run, "train.0", "train.2")
    number, attempt = run.new_attempt(TRAININGS[1], job="103_1", restart=0)
    run.write_attempt(
        attempt, Attempt(number, "103_1", 0, "node1", 7, NOW.isoformat(), (), 3, 1.0, 2500)
    )
    (attempt / "log.txt").write_text(
        "slurmstepd: error: Job 103 exceeded memory limit, being killed\n"
    )
    queue(slurm, j103_1="FAILED", j104="RUNNING", j105="PENDING")
    said = look_after(seen_by(run, "evaluate.0"))
    assert said is not None
    assert "jobs 201, 202" in said
    training, evaluation = further_calls(slurm)
    assert option(training, "mem") == "3750M"
    assert option(training, "dependency") is None
    assert option(evaluation, "dependency") == "afterany:201"
    # and the report waits for the later evaluation
    assert slurm.called("scontrol")[-1]["arguments"][:2] == ["update", "JobId=105"]


def test_what_was_cancelled_or_lost_for_good_is_left(slurm: FakeSlurm, run: RunFolder) -> None:
    complete(run, "train.0")
    end(run, TRAININGS[1], job="103_1", failure=Failure.PREEMPTED)
    end(run, TRAININGS[2], job="103_2", failure=Failure.CODE)
    queue(slurm, j103_1="CANCELLED", j103_2="FAILED", j104="RUNNING", j105="PENDING")
    assert look_after(seen_by(run, "evaluate.0")) is None
    assert further_calls(slurm) == []


def test_a_scheduler_that_does_not_answer_is_no_reason_to_submit(
    slurm: FakeSlurm, run: RunFolder
) -> None:
    end(run, TRAININGS[1], job="103_1", failure=Failure.NODE)
    refusal = [{"status": 1, "stderr": "slurm_load_jobs error: Unable to contact"}]
    slurm.answer({"squeue": refusal, "sacct": refusal})
    assert look_after(seen_by(run, "evaluate.0")) is None
    assert further_calls(slurm) == []


# --- retry ---------------------------------------------------------------------------------------


def test_retry_submits_what_failed_and_has_what_waits_wait_for_it(
    slurm: FakeSlurm, run: RunFolder
) -> None:
    end(run, TRAININGS[1], job="103_1", failure=Failure.CODE)
    running = dict.fromkeys(("j103_0", "j103_2"), "RUNNING")
    queue(slurm, j103_1="FAILED", j104="PENDING", j105="PENDING", **running)
    done = retry(run, say=pytest.fail)
    assert (done.tasks, done.jobs) == ((TRAININGS[1],), ("201",))
    (call,) = further_calls(slurm)
    assert option(call, "array") is None
    dependency = slurm.called("scontrol")[-1]["arguments"][2]
    assert set(dependency.partition(":")[2].split(":")) == {"103_0", "103_2", "201"}


def test_retry_writes_the_record_when_all_is_queued(slurm: FakeSlurm, run: RunFolder) -> None:
    end(run, TRAININGS[1], job="103_1", failure=Failure.CODE)
    queue(slurm, j103_1="FAILED")
    retry(run, say=pytest.fail)
    queued = [file.stat().st_mtime_ns for file in run.file("submissions").glob("*.json")]
    assert run.file("run.json").stat().st_mtime_ns >= max(queued)
    attempts = json.loads(run.file("run.json").read_text())["attempts"]
    assert [a["failure"] for a in attempts if a["task"] == TRAININGS[1]] == ["code"]


def test_retry_makes_again_what_was_made_without_it(slurm: FakeSlurm, run: RunFolder) -> None:
    complete(run, "train.0", "train.2", "evaluate", "report")
    end(run, TRAININGS[1], job="103_1", failure=Failure.CODE)
    queue(slurm, j103_1="FAILED")
    retry(run, say=pytest.fail)
    stages = [s.stage for s in run.submissions()][5:]
    assert stages == ["train", "evaluate", "report"]
    found = [option(call, "dependency") for call in further_calls(slurm)]
    assert found == [None, "afterany:201", "afterany:202"]
    queue(slurm, j201="RUNNING", j202="PENDING", j203="PENDING")
    now = {task.task: task.state for task in status(run).tasks}
    assert now["evaluate"] is now["report"] is TaskState.PENDING


def test_retry_twice_submits_once(slurm: FakeSlurm, run: RunFolder) -> None:
    complete(run, "train.0", "train.2")
    end(run, TRAININGS[1], job="103_1", failure=Failure.CODE)
    queue(slurm, j103_1="FAILED", j104="PENDING", j105="PENDING")
    retry(run, say=pytest.fail)
    queue(slurm, j103_1="FAILED", j201="PENDING", j104="PENDING", j105="PENDING")
    assert retry(run, say=pytest.fail).tasks == ()
    assert len(further_calls(slurm)) == 1


def test_of_packed_tasks_only_those_that_failed_are_submitted_while_their_siblings_run(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    text = ONE_ARM + "resources: {train: {pack: 3, cpus: 3}}\n"
    run = submitted(job_file, host, text=text)
    complete(run, "prepare", "preprocess")
    end(run, TRAININGS[1], job="103", failure=Failure.CODE)
    for task in (TRAININGS[0], TRAININGS[2]):
        run.new_attempt(task, job="103", restart=0)
    queue(slurm, j103="RUNNING", j104="PENDING", j105="PENDING")
    assert retry(run, say=pytest.fail).tasks == (TRAININGS[1],)
    assert run.submissions()[-1].tasks == (TRAININGS[1],)
    queue(slurm, j103="RUNNING", j104="PENDING", j201="PENDING")
    now = {task.task: task.state for task in status(run).tasks}
    assert [now[task] for task in TRAININGS] == [
        TaskState.RUNNING, TaskState.PENDING, TaskState.RUNNING,
    ]  # fmt: skip


def test_a_retry_of_a_failed_preparation_submits_what_could_not_start(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host, text=ONE_ARM)
    complete(run, "prepare", "evaluate", "report")
    end(run, "assemble", job="102", failure=Failure.INPUT)
    queue(slurm, j102="FAILED", j103_0="CANCELLED", j103_1="CANCELLED", j103_2="CANCELLED")
    done = retry(run, say=pytest.fail)
    assert done.tasks == ("assemble", "preprocess", *TRAININGS)
    stages = [s.stage for s in run.submissions()][5:]
    assert stages == ["preprocess", "train", "evaluate", "report"]
    found = [option(call, "dependency") for call in further_calls(slurm)]
    assert found == [None, "afterok:201", "afterany:202", "afterany:203"]


def test_retry_with_more_memory_asks_for_it(slurm: FakeSlurm, run: RunFolder) -> None:
    complete(run, "train.0", "train.2")
    end(run, TRAININGS[1], job="103_1", failure=Failure.HOST_MEMORY)
    queue(slurm, j103_1="FAILED", j104="PENDING")
    retry(run, memory_mib=8000, say=pytest.fail)
    assert option(further_calls(slurm)[0], "mem") == "8000M"


def test_without_an_answer_nothing_is_retried(slurm: FakeSlurm, run: RunFolder) -> None:
    end(run, TRAININGS[1], job="103_1", failure=Failure.CODE)
    refusal = [{"status": 1, "stderr": "slurm_load_jobs error: Unable to contact"}]
    slurm.answer({"squeue": refusal, "sacct": refusal})
    with pytest.raises(SchedulerUnreachable, match="nothing was submitted"):
        retry(run, say=pytest.fail)
    assert further_calls(slurm) == []


def test_a_task_that_is_not_of_the_run_is_named_with_those_that_are(run: RunFolder) -> None:
    with pytest.raises(CaHpcError, match="no task nobody"):
        retry(run, only=["nobody"], say=pytest.fail)


def test_what_the_scheduler_has_forgotten_is_retried_only_by_name(
    slurm: FakeSlurm, run: RunFolder
) -> None:
    complete(run, "train.0", "train.2")
    run.new_attempt(TRAININGS[1], job="103_1", restart=0)
    slurm.answer({"squeue": [{"stdout": ""}], "sacct": [{}], "sbatch": LATER})
    assert retry(run, say=pytest.fail).tasks == ()
    assert retry(run, only=[TRAININGS[1]], say=pytest.fail).tasks == (TRAININGS[1],)


# --- the budget and the status -------------------------------------------------------------------


def test_a_task_that_is_queued_again_is_not_shown_as_it_was(
    slurm: FakeSlurm, run: RunFolder
) -> None:
    end(run, TRAININGS[1], job="103_1", failure=Failure.NODE)
    queue(slurm, j103_1="NODE_FAIL", j104="PENDING")
    further(run, Submission(0, "train", "", ("train.1",), by="103_1"))
    queue(slurm, j103_1="NODE_FAIL", j201="RUNNING", j104="PENDING")
    now = {task.task: task for task in status(run).tasks}
    assert (now[TRAININGS[1]].state, now[TRAININGS[1]].job) == (TaskState.RUNNING, "201")
    assert now[TRAININGS[1]].failure is None


def test_a_warning_before_the_first_attempt_loses_nobody(run: RunFolder) -> None:
    found = follow(seen_by(run, "train.1"), [], unbegun=[TRAININGS[1]])
    assert (found.as_it_is, found.changed, found.lost) == ((TRAININGS[1],), (), {})


# --- what an attacker found ----------------------------------------------------------------------


def die(run: RunFolder, task: str, *, job: str) -> None:
    """An attempt that leaves no result."""
    number, attempt = run.new_attempt(task, job=job, restart=0)
    of = next(s.number for s in run.submissions() if job in dict(map(reversed, s.jobs)))
    run.write_attempt(attempt, Attempt(number, job, 0, "node1", 7, NOW.isoformat(), (), of))


def test_a_job_with_too_little_memory_hands_over_before_it_begins(run: RunFolder) -> None:
    end(run, TRAININGS[1], job="103_1", failure=Failure.HOST_MEMORY)
    (draft,) = changed_already(seen_by(run, "train.1"))
    assert (draft.elements, draft.memory_mib) == (("train.1",), 3750)


def test_an_heir_takes_over_only_what_nobody_else_has_in_hand(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    text = ONE_ARM + "resources: {train: {pack: 3, cpus: 3}}\n"
    run = submitted(job_file, host, text=text, site="continuation: resubmit\n")
    complete(run, "prepare", "preprocess")
    end(run, TRAININGS[1], job="103", failure=Failure.CODE)
    queue(slurm, j103="RUNNING", j104="PENDING", j105="PENDING")
    job = seen_by(run, "train.0")
    retry(run, say=pytest.fail)
    ways.prepare_heir(job)
    heir = run.submissions()[-1]
    assert heir.after == ("103",)
    assert heir.tasks == (TRAININGS[0], TRAININGS[2])


def test_a_redo_that_fails_can_be_done_again(slurm: FakeSlurm, run: RunFolder) -> None:
    complete(run, "train.0", "train.2", "evaluate", "report")
    end(run, TRAININGS[1], job="103_1", failure=Failure.CODE)
    queue(slurm, j103_1="FAILED")
    retry(run, say=pytest.fail)
    end(run, TRAININGS[1], job="201")
    end(run, "evaluate", job="202", failure=Failure.DISK)
    queue(slurm, j201="COMPLETED", j202="FAILED", j203="CANCELLED")
    done = retry(run, say=pytest.fail)
    assert set(done.tasks) == {"evaluate", "report"}
    job = seen_by(run, "evaluate.0")
    execution = Execution(run, job.node, submission=job.submission)
    assert execution.wanted("evaluate.0") == ("evaluate",)
    result = current_result(run, "evaluate")
    assert result is None or result.state is not TaskState.COMPLETED


def test_what_could_not_start_for_want_of_a_stage_starts_after_it(
    slurm: FakeSlurm, host: Host, job_file: Path
) -> None:
    run = submitted(job_file, host, text=ONE_ARM)
    die(run, "prepare-shard0", job="101")
    kept_back = "CANCELLED|node1|DependencyNeverSatisfied"
    rows = "101|FAILED|node1|None\n" + "".join(
        f"{job}|{kept_back}\n" for job in ("102", "103_0", "103_1", "103_2")
    )
    rows += "104|RUNNING|node1|None\n105|PENDING||Dependency\n"
    slurm.answer({"squeue": [{"stdout": rows}], "sbatch": LATER})
    assert look_after(seen_by(run, "evaluate.0")) is not None
    found = [(s.stage, s.after) for s in run.submissions()][5:]
    assert [stage for stage, _ in found] == ["prepare", "preprocess", "train", "evaluate"]


def test_what_nobody_knows_of_is_settled_before_more_is_submitted(
    slurm: FakeSlurm, run: RunFolder
) -> None:
    complete(run, "train.0", "train.2")
    end(run, TRAININGS[1], job="103_1", failure=Failure.NODE)
    open_one = run.new_submission(Submission(0, "train", "", ("train.1",), by="103_1"))
    # an intent is not a job: the same job, started anew, still has its task
    assert seen_by(run, "train.1").tasks == (TRAININGS[1],)
    further(run, Submission(0, "train", "", ("train.1",), by="103_1"))
    names = [name for _, name in slurm.queue]
    assert names.count(open_one.job_name) == 1
    assert all(s.confirmed for s in run.submissions())
