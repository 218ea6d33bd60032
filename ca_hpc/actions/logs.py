"""Where a task's words are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ca_hpc.core.model import Element
from ca_hpc.errors import CaHpcError
from ca_hpc.store.run_folder import RunFolder


def log_files(run: RunFolder, task_id: str) -> tuple[Path, ...]:
    """Logs of a task, the most telling first. Raises CaHpcError when it has none.

    That of its newest attempt; and its element's where that attempt left no result: there stands
    what SLURM had to say, such as "exceeded memory limit".
    """
    places = {
        task.id: element
        for stage in run.workflow.stages
        for element in stage.elements
        for task in element.tasks
    }
    if task_id not in places:
        raise CaHpcError(f"no task {task_id} in {run.path}", hint="tasks: " + ", ".join(places))
    attempts = run.attempts(task_id)
    found = [a / "log.txt" for a in attempts[-1:] if (a / "log.txt").is_file()]
    if not attempts or not (attempts[-1] / "result.json").is_file():
        found += _element_logs(run, places[task_id])
    if not found:
        raise CaHpcError(f"{task_id} has no log yet", hint="it has not started: ca-hpc status RUN")
    return tuple(found)


def _element_logs(run: RunFolder, element: Element) -> Iterator[Path]:
    jobs = [job for s in run.submissions() for job in s.of(element.id)]
    for job in reversed(jobs):
        yield from run.job_logs(job)
    local_log = run.file("local", f"{element.id}.log")
    if local_log.is_file():
        yield local_log
