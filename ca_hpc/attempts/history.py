"""What the attempts of a task tell: how each ended, how far it came, what it cost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from ca_hpc.attempts.evidence import tail
from ca_hpc.attempts.evidence import told as told_by
from ca_hpc.core.failures import Evidence, Verdict, addressed, diagnose
from ca_hpc.core.model import Stage, TaskState
from ca_hpc.core.record import Attempt, Result
from ca_hpc.core.retry import Decision, Past, decide
from ca_hpc.core.rules import Failure
from ca_hpc.core.states import Row
from ca_hpc.store.progress import reached, read_events
from ca_hpc.store.run_folder import RunFolder

FULL_BYTES: Final = 1 << 20
PEOPLE: Final = frozenset({"submit", "retry"})  # who may order; all others are jobs


def history(run: RunFolder, task_id: str) -> tuple[Past, ...]:
    """The attempts since somebody ordered the task, oldest first; completed ones left out."""
    since = ordered(run, task_id)
    past = []
    for folder in run.attempts(task_id):
        attempt, result = run.attempt_record(folder), run.attempt_result(folder)
        if attempt is None or attempt.submission < since:
            continue
        if result is not None and result.failure is None:
            continue
        told = result.failure if result is not None else None
        past.append(
            Past(
                failure=dead(run, folder).failure if told is None else Failure(told),
                node=attempt.host,
                memory_mib=attempt.memory_mib,
                progress=reached(read_events(folder)),
            )
        )
    return tuple(past)


def decision_on(run: RunFolder, stage: Stage, task_id: str) -> Decision:
    """What the rules say of a task that has failed at least once since it was ordered."""
    flow = run.workflow
    return decide(
        history(run, task_id),
        flow.retry,
        memory_mib=stage.resources.memory_mib,
        most_memory_mib=flow.node_memory_mib,
    )


def current_result(run: RunFolder, task_id: str) -> Result | None:
    """How the task stands, where it is to be done again: since then.

    A submission says so (``again``), once it is known to be queued.
    """
    element = run.workflow.element_of(task_id)
    again = [
        s.number for s in run.submissions() if s.again and s.confirmed and s.names(element, task_id)
    ]
    return run.result(task_id, since=again[-1] if again else 0)


def ordered(run: RunFolder, task_id: str) -> int:
    """The number of the newest submission by which somebody wanted this task; 0 without any."""
    element = run.workflow.element_of(task_id)
    return max(
        (
            s.number
            for s in run.submissions()
            if s.by in PEOPLE and element in s.elements and (s.tasks is None or task_id in s.tasks)
        ),
        default=0,
    )


def dead(run: RunFolder, folder: Path, *, row: Row | None = None) -> Verdict:
    """Why an attempt ended that has left no result: by its logs, and the scheduler's word.

    One whose job SLURM has started anew since was on a node that was lost, unless a log says
    otherwise.
    """
    if row is None and _started_anew(run, folder):
        row = Row(TaskState.NODE_FAIL)
    verdict = diagnose(Evidence(row=row, told=told_by(folder), lines=last_words(run, folder)))
    return addressed(or_full_disk(verdict, run), run=run.path, task=folder.parent.parent.name)


def or_full_disk(verdict: Verdict, run: RunFolder) -> Verdict:
    """A full disk where nobody knows better: nothing could be written down there, nor in a log."""
    if verdict.failure is not Failure.UNKNOWN or shutil.disk_usage(run.path).free >= FULL_BYTES:
        return verdict
    return Verdict(
        Failure.DISK,
        f"the disk of {run.path} is full, so that it could not even write down how it ended",
        "make room, or choose another folder: then ca-hpc retry RUN",
    )


def _started_anew(run: RunFolder, folder: Path) -> bool:
    own = run.attempt_record(folder)
    later = [a for a in run.attempts(folder.parent.parent.name) if a.name > folder.name]
    records = [run.attempt_record(attempt) for attempt in later]
    return own is not None and any(r is not None and r.job == own.job for r in records)


def last_words(run: RunFolder, folder: Path) -> tuple[str, ...]:
    """The end of the attempt's log, and of what SLURM wrote of its job while it ran."""
    attempt = run.attempt_record(folder)
    lines = tail(folder / "log.txt")
    if attempt is not None:
        for log in run.job_logs(attempt.job):
            lines += _of_restart(tail(log), attempt.restart)
    return lines


def restart_mark(restart: int) -> str:
    """The line by which a worker opens its part of the job's log, which SLURM goes on writing."""
    return f"ca-hpc: restart {restart}"


def _of_restart(lines: tuple[str, ...], restart: int) -> tuple[str, ...]:
    """The lines from the mark of this restart to the next one's."""
    marks = [i for i, line in enumerate(lines) if line.startswith("ca-hpc: restart ")]
    begin = next((i for i in marks if lines[i] == restart_mark(restart)), None)
    if begin is None:
        return () if marks else lines
    end = next((i for i in marks if i > begin), len(lines))
    return lines[begin + 1 : end]


def gpu_hours(run: RunFolder, *, now: datetime) -> float:
    """GPU hours of all attempts of the run; one that has left no result counts to its last sign."""
    return sum(_gpu_seconds(run, now=now)) / 3600


def _gpu_seconds(run: RunFolder, *, now: datetime) -> Iterator[float]:
    for stage in run.workflow.stages:
        if not stage.resources.gpus:
            continue
        for task in stage.tasks:
            for folder in run.attempts(task.id):
                attempt = run.attempt_record(folder)
                if attempt is not None:
                    seconds = _seconds(attempt, run.attempt_result(folder), folder, now=now)
                    yield seconds * attempt.gpus


def _seconds(attempt: Attempt, result: Result | None, folder: Path, *, now: datetime) -> float:
    if result is not None:
        return result.seconds
    signs = [folder / name for name in ("attempt.json", "log.txt", "progress.jsonl")]
    last = max((file.stat().st_mtime for file in signs if file.is_file()), default=0.0)
    return max(
        0.0, min(last, now.timestamp()) - datetime.fromisoformat(attempt.started).timestamp()
    )
