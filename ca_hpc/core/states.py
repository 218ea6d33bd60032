"""States: the scheduler's words, and what is believed about a task.

Order of truth: a result file, a fresh row of the scheduler, the record of the submission.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ca_hpc.core.model import TaskState
from ca_hpc.core.record import Result

S = TaskState

# sacct's and squeue's job states (man sacct, "JOB STATE CODES").
SLURM_STATES: Final[Mapping[str, TaskState]] = {
    "PENDING": S.PENDING,
    "CONFIGURING": S.PENDING,
    "REQUEUED": S.PENDING,
    "REQUEUE_HOLD": S.PENDING,
    "REQUEUE_FED": S.PENDING,
    "SPECIAL_EXIT": S.PENDING,
    "RESV_DEL_HOLD": S.PENDING,
    "RUNNING": S.RUNNING,
    "COMPLETING": S.RUNNING,
    "RESIZING": S.RUNNING,
    "SIGNALING": S.RUNNING,
    "STAGE_OUT": S.RUNNING,
    "STOPPED": S.RUNNING,
    "SUSPENDED": S.RUNNING,
    "COMPLETED": S.COMPLETED,
    "CANCELLED": S.CANCELLED,
    "REVOKED": S.CANCELLED,
    "FAILED": S.FAILED,
    "TIMEOUT": S.TIMEOUT,
    "DEADLINE": S.TIMEOUT,
    "OUT_OF_MEMORY": S.OUT_OF_MEMORY,
    "NODE_FAIL": S.NODE_FAIL,
    "BOOT_FAIL": S.NODE_FAIL,
    "LAUNCH_FAILED": S.NODE_FAIL,
    "PREEMPTED": S.PREEMPTED,
}
# What is tried again by itself: nothing is over that ended so, before the scheduler says so too.
GOES_ON: Final = frozenset({S.PREEMPTED, S.TIMEOUT, S.NODE_FAIL, S.OUT_OF_MEMORY})
LIVE: Final = frozenset({S.WAITING, S.PENDING, S.RUNNING, S.UNKNOWN})

_ARRAY = re.compile(r"^(\d+)_\[([\d,\-]+)(?:%\d+)?\]$")


@dataclass(frozen=True, slots=True)
class Row:
    """What the scheduler says about one element."""

    state: TaskState
    node: str = ""
    reason: str = ""


def present(rows: Sequence[Row]) -> Row | None:
    """Of the jobs of one task, oldest first: what runs, else what waits, else what ended last.

    What was cancelled counts last: jobs that were to take over are, when there is nothing to do.
    """
    for states in ({S.RUNNING}, {S.PENDING}):
        for row in rows:
            if row.state in states:
                return row
    ended = [row for row in rows if row.state is not S.CANCELLED] or rows
    return ended[-1] if ended else None


def parse_rows(text: str) -> dict[str, Row]:
    """Rows ``job id|state|nodes|reason`` of sacct or squeue, by job id; arrays unfolded.

    A later row of the same job wins: sacct lists restarts in order.
    """
    rows: dict[str, Row] = {}
    for line in text.splitlines():
        job, state, *more = (*line.split("|"), "")
        if not job or "." in job:  # 101_0.batch: a step
            continue
        node, reason = (*more, "", "")[:2]
        word = state.split()[0] if state.split() else ""  # "CANCELLED by 1000"
        where = "" if node == "None assigned" else node
        row = Row(SLURM_STATES.get(word, S.UNKNOWN), where, reason)
        for one in _unfold(job):
            rows[one] = row
    return rows


def _unfold(job: str) -> list[str]:
    found = _ARRAY.match(job)
    if found is None:
        return [job]
    out = []
    for part in found[2].split(","):
        first, _, last = part.partition("-")
        out += [f"{found[1]}_{i}" for i in range(int(first), int(last or first) + 1)]
    return out


def derive_state(
    result: Result | None,
    row: Row | None,
    *,
    submitted: bool,
    newer: bool = False,
    behind: bool = False,
    packed: bool = False,
) -> TaskState:
    """The state of a task. Unknown is not failed: a missing row may only be late.

    ``newer``: an attempt has begun after the one that ``result`` is of, or its job is another than
    the row's. ``behind``: no attempt has begun, and the element has other tasks to run before.
    ``packed``: the element runs other tasks at the same time.
    """
    told = None if result is None else result.state
    if told is S.COMPLETED:
        return S.COMPLETED
    match None if row is None else row.state:
        case None | S.UNKNOWN:
            if told is None or told in GOES_ON or newer:
                return S.UNKNOWN if submitted else S.WAITING
            return told
        case S.PENDING | S.WAITING as queued:
            return queued
        case S.RUNNING:
            if told is not None and told not in GOES_ON and packed and not newer:
                return told  # its siblings in the element run on
            return S.PENDING if behind else S.RUNNING
        case S.CANCELLED:
            # what a signal left is no failure; one that a task of its own had before is
            own = result is not None and told is S.FAILED and 0 < result.exit_code < 128
            return S.FAILED if own and not newer else S.CANCELLED
        case S.COMPLETED:
            # the element ended without a result of this task, or of its last attempt
            return S.FAILED if told is None or newer else told
        case over:
            if told is None or newer:
                return S.CANCELLED if behind else over
            return told
