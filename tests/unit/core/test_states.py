"""What the scheduler says, and what is believed about a task."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Result
from ca_hpc.core.states import SLURM_STATES, Row, derive_state, parse_rows

S = TaskState


def ended(state: TaskState, *, exit_code: int = 1) -> Result:
    return Result(
        task="t", attempt="0001-1-r0", state=state, exit_code=exit_code, started="", ended="",
        seconds=1, host="n1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("result", "row", "submitted", "expected"),
    [
        # nothing known
        (None, None, False, S.WAITING),
        (None, None, True, S.UNKNOWN),  # the row may only be late
        (None, S.UNKNOWN, True, S.UNKNOWN),
        # the scheduler alone
        (None, S.PENDING, True, S.PENDING),
        (None, S.RUNNING, True, S.RUNNING),
        (None, S.CANCELLED, True, S.CANCELLED),
        (None, S.TIMEOUT, True, S.TIMEOUT),
        (None, S.OUT_OF_MEMORY, True, S.OUT_OF_MEMORY),
        (None, S.NODE_FAIL, True, S.NODE_FAIL),
        (None, S.COMPLETED, True, S.FAILED),  # ended, and left no result of this task
        # a result alone
        (S.COMPLETED, None, True, S.COMPLETED),
        (S.FAILED, None, True, S.FAILED),
        (S.PREEMPTED, None, True, S.UNKNOWN),  # it may be queued again, or run by now
        # a completed task stays completed, whatever becomes of its element
        (S.COMPLETED, S.RUNNING, True, S.COMPLETED),
        (S.COMPLETED, S.NODE_FAIL, True, S.COMPLETED),
        (S.COMPLETED, S.UNKNOWN, True, S.COMPLETED),
        # queued again over an old result
        (S.FAILED, S.PENDING, True, S.PENDING),
        (S.PREEMPTED, S.PENDING, True, S.PENDING),
        # the result knows more than the element's end
        (S.FAILED, S.COMPLETED, True, S.FAILED),
        # what it saved when it was cancelled is no failure; one of its own before that is
        (S.PREEMPTED, S.CANCELLED, True, S.CANCELLED),
        (S.FAILED, S.CANCELLED, True, S.FAILED),
        # queued again, and begun without an attempt so far
        (S.PREEMPTED, S.RUNNING, True, S.RUNNING),
        (S.COMPLETED, S.CANCELLED, True, S.COMPLETED),
        (S.FAILED, S.UNKNOWN, True, S.FAILED),
    ],
)
def test_a_result_counts_before_the_scheduler_and_the_scheduler_before_the_submission(
    result: TaskState | None, row: TaskState | None, submitted: bool, expected: TaskState
) -> None:
    found = derive_state(
        None if result is None else ended(result),
        None if row is None else Row(row),
        submitted=submitted,
    )
    assert found is expected


def test_an_attempt_after_the_result_counts_and_not_the_result() -> None:
    for told in (S.FAILED, S.PREEMPTED):
        assert derive_state(ended(told), Row(S.RUNNING), submitted=True, newer=True) is S.RUNNING
    preempted = ended(S.PREEMPTED)
    assert derive_state(preempted, Row(S.NODE_FAIL), submitted=True, newer=True) is S.NODE_FAIL
    assert derive_state(preempted, Row(S.COMPLETED), submitted=True, newer=True) is S.FAILED
    failed = ended(S.FAILED)
    assert derive_state(failed, Row(S.CANCELLED), submitted=True, newer=True) is S.CANCELLED


def test_a_task_behind_others_in_its_element_waits_and_is_cancelled_by_their_failure() -> None:
    assert derive_state(None, Row(S.RUNNING), submitted=True, behind=True) is S.PENDING
    assert derive_state(None, Row(S.FAILED), submitted=True, behind=True) is S.CANCELLED


def test_what_a_cancelled_task_died_of_is_no_failure_of_its_own() -> None:
    # 135: SIGBUS, of a program whose image was unmounted under it by the same signal
    killed = ended(S.FAILED, exit_code=135)
    assert derive_state(killed, Row(S.CANCELLED), submitted=True) is S.CANCELLED


@given(st.sampled_from([None, *S]), st.booleans())
def test_a_task_fails_by_a_result_or_a_row_never_by_silence(
    row: TaskState | None, submitted: bool
) -> None:
    found = derive_state(None, None if row is None else Row(row), submitted=submitted)
    if row in (None, S.UNKNOWN):
        assert found in (S.UNKNOWN, S.WAITING)


# Lines as sacct -n -X -P -D -o JobID,State,NodeList,Reason and squeue print them (22.05, 24.11).
SACCT = """\
101_0|COMPLETED|node1|None
101_1|FAILED|node2|None
101_2|CANCELLED by 1000|node1|None
101_[3-5,7%2]|PENDING|None assigned|Resources
101_6|OUT_OF_MEMORY|node3|None
102|PENDING|None assigned|Dependency
"""


def test_rows_of_sacct_become_states_by_job() -> None:
    rows = parse_rows(SACCT)
    assert {job: row.state for job, row in rows.items()} == {
        "101_0": S.COMPLETED,
        "101_1": S.FAILED,
        "101_2": S.CANCELLED,
        "101_3": S.PENDING,
        "101_4": S.PENDING,
        "101_5": S.PENDING,
        "101_7": S.PENDING,
        "101_6": S.OUT_OF_MEMORY,
        "102": S.PENDING,
    }
    assert rows["101_0"].node == "node1"
    assert rows["101_7"] == Row(S.PENDING, "", "Resources")


def test_a_pending_array_is_unfolded() -> None:
    assert sorted(parse_rows("101_[0-3,7%4]|PENDING|None assigned|Priority")) == [
        "101_0", "101_1", "101_2", "101_3", "101_7"
    ]  # fmt: skip


@given(st.sets(st.integers(0, 300), min_size=1), st.none() | st.integers(1, 9))
def test_every_element_of_a_folded_array_is_found(elements: set[int], cap: int | None) -> None:
    folded = ",".join(map(str, sorted(elements)))
    line = f"7_[{folded}{f'%{cap}' if cap else ''}]|PENDING||Priority"
    assert parse_rows(line).keys() == {f"7_{element}" for element in elements}


def test_a_restart_counts_over_what_was_before_it() -> None:
    text = "101_0|NODE_FAIL|node1|None\n101_0|REQUEUED|node1|None\n101_0|RUNNING|node2|None\n"
    assert parse_rows(text) == {"101_0": Row(S.RUNNING, "node2", "None")}


def test_steps_of_a_job_are_no_jobs() -> None:
    text = "101_0|RUNNING|node1|\n101_0.batch|COMPLETED|node1|\n101_0.extern|FAILED|node1|\n"
    assert parse_rows(text) == {"101_0": Row(S.RUNNING, "node1", "")}


def test_rows_of_squeue_are_read_the_same_way() -> None:
    text = "101_0|RUNNING|node1|None\n101_1|PENDING||Resources\n"
    assert parse_rows(text) == {
        "101_0": Row(S.RUNNING, "node1", "None"),
        "101_1": Row(S.PENDING, "", "Resources"),
    }


@pytest.mark.parametrize("word", ["HALTED", "", "COMPLETED?"])
def test_a_state_that_nobody_knows_is_unknown_and_not_failed(word: str) -> None:
    assert parse_rows(f"101|{word}|n|")["101"].state is S.UNKNOWN


@pytest.mark.parametrize(
    "line", ["", "|", "slurm_load_jobs error: Invalid job id specified", "101"]
)
def test_a_line_without_columns_does_no_harm(line: str) -> None:
    rows = parse_rows(f"{line}\n102|RUNNING|n|\n")
    assert rows["102"].state is S.RUNNING
    assert all(row.state in (S.UNKNOWN, S.RUNNING) for row in rows.values())


def test_a_list_of_elements_that_slurm_cut_off_is_left_unknown() -> None:
    rows = parse_rows("101_[0,2,4,...]|PENDING|None assigned|Priority")
    assert "101_0" not in rows


@pytest.mark.parametrize("word", sorted(SLURM_STATES))
def test_every_word_of_slurm_has_a_state(word: str) -> None:
    assert parse_rows(f"1|{word}|n|")["1"].state is not S.UNKNOWN
