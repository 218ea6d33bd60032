"""Commands on a run folder: ``ca-hpc status``, ``logs``, ``retry``, ``cancel``, ``export``."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ca_hpc import screen
from ca_hpc.cli_json import AsJson, answer
from ca_hpc.errors import CaHpcError

if TYPE_CHECKING:
    from ca_hpc.actions.status import RunStatus
    from ca_hpc.store.run_folder import RunFolder

RunPath = Annotated[Path, typer.Argument(help="The run folder.", show_default=False)]


def status(
    run: RunPath,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state of every task of a run."""
    from datetime import datetime, timezone

    from ca_hpc.actions.status import status as read_status
    from ca_hpc.store.run_folder import RunFolder

    folder = RunFolder.open(run)
    if watch:
        now = screen.watch(folder, quiet=as_json, cancel_on_interrupt=False)
    else:
        now = read_status(folder, now=datetime.now(timezone.utc))
    if as_json:
        answer(status_answer(now))
    elif not watch:
        screen.show_status(now)
        if now.ended:
            screen.show_outcome(folder)
        screen.show_next(folder, now)
    raise typer.Exit(int(now.exit_code))


def submitted(run: RunFolder, *, wait: bool, detach: bool, as_json: bool) -> None:
    """What every command ends with that has submitted a run: its jobs, and their end if waited."""
    jobs = _job_ids(run)
    attached = run.workflow.executor == "local" and not detach
    if as_json:
        answer({"run": str(run.path), "jobs": jobs})
    else:
        typer.echo(f"run folder: {run.path}")
        for stage in run.workflow.stages:
            ids = sorted({i.split("_")[0] for i in jobs.get(stage.name, {}).values()})
            told = f"  job {', '.join(ids)}" if ids else ""
            word = "task" if len(stage.tasks) == 1 else "tasks"
            typer.echo(f"  {stage.name:<11}{len(stage.tasks):>4} {word:<5}{told}".rstrip())
        if not (wait or attached):
            typer.echo(f"follow it: ca-hpc status --watch {shlex.quote(str(run.path))}")
    if wait or attached:
        now = screen.watch(run, quiet=as_json, cancel_on_interrupt=attached)
        if as_json:
            answer(status_answer(now))
        raise typer.Exit(int(now.exit_code))


def _job_ids(run: RunFolder) -> dict[str, dict[str, str]]:
    """By stage and element: its job; of a chain the array."""
    jobs: dict[str, dict[str, str]] = {}
    for submission in run.submissions():
        for element, job in submission.jobs:
            chain = submission.links > 1
            jobs.setdefault(submission.stage, {})[element] = job.split("_")[0] if chain else job
    return jobs


def status_answer(now: RunStatus) -> dict[str, Any]:
    """For programs: the status, and whether the run has ended."""
    return {**asdict(now), "ended": now.ended}


def logs(
    run: RunPath,
    task: Annotated[str | None, typer.Argument(help="A task; none: those that failed.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
) -> None:
    """Print a task's log, or the ends of the logs of what failed."""
    from ca_hpc.actions.logs import log_files
    from ca_hpc.actions.status import status as read_status
    from ca_hpc.store.run_folder import RunFolder

    folder = RunFolder.open(run)
    if task is not None:
        screen.show_file(log_files(folder, task)[0], follow=follow)
        return
    now = read_status(folder)
    if not now.failed:
        typer.echo("no task has failed; name one: " + ", ".join(t.task for t in now.tasks))
    for one in now.failed:
        typer.echo(f"== {one.task}: {one.state.value}: {one.cause or ''}")
        try:
            files = log_files(folder, one.task)
        except CaHpcError as error:
            typer.echo(error.message)
            continue
        for file in files:
            typer.echo("\n".join(file.read_text(errors="replace").splitlines()[-15:]))


def retry(
    run: RunPath,
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Of these tasks; none: all that failed.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Of the jobs: 48GB; default: as before.")
    ] = None,
    max_gpu_hours: Annotated[
        float | None, typer.Option("--max-gpu-hours", min=0, help="A new ceiling for the run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run again what failed, each from its last checkpoint."""
    from ca_hpc.actions.retry import retry as action
    from ca_hpc.core.units import parse_size
    from ca_hpc.store.run_folder import RunFolder

    try:
        memory_mib = None if memory is None else parse_size(memory)
    except ValueError as error:
        raise CaHpcError(f"--memory {memory}: {error}", hint="--memory 48GB") from error
    done = action(
        RunFolder.open(run),
        only=tasks or (),
        memory_mib=memory_mib,
        max_gpu_hours=max_gpu_hours,
        say=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        answer(asdict(done))
        return
    others = f" (failed: {', '.join(done.failed)})" if done.failed else ""
    for task, state in done.left.items():
        typer.echo(f"{task} {_HOW[state.value]}: nothing to do again{others}")
    if done.tasks:
        anew = f"; then anew: {', '.join(done.anew)}" if done.anew else ""
        told = f" (jobs {', '.join(done.jobs)})" if done.jobs else ""
        typer.echo(f"again: {', '.join(done.tasks)}{anew}{told}")
        typer.echo(f"follow it: ca-hpc status --watch {shlex.quote(str(run))}")
    elif not done.left:
        typer.echo("nothing to do again: no task of this run has failed")


# states in which a task is left alone
_HOW = {
    "COMPLETED": "has completed", "RUNNING": "runs", "PENDING": "waits", "WAITING": "waits",
}  # fmt: skip


def cancel(run: RunPath, as_json: AsJson = False) -> None:
    """Cancel everything of a run that waits or runs."""
    from ca_hpc.actions.status import cancel as action
    from ca_hpc.store.run_folder import RunFolder

    folder = RunFolder.open(run)
    cancelled = action(folder)
    if as_json:
        answer({"run": str(folder.path), "cancelled": cancelled})
        return
    done = f"cancelled; go on later: {screen.retry_command(folder)}"
    typer.echo(done if cancelled else "nothing of this run waits or runs")


class Kept(str, Enum):
    """nnU-Net's two checkpoints of a fold."""

    FINAL = "final"
    BEST = "best"


def export(
    run: RunPath,
    arm: Annotated[str | None, typer.Option(help="Of which arm; default: the only one.")] = None,
    folds: Annotated[
        str | None, typer.Option(help="Some of the folds: 0,1; default: all that are published.")
    ] = None,
    checkpoint: Annotated[Kept, typer.Option(help="Of each fold.")] = Kept.FINAL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="FILE.zip; default: in RUN/exports.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a zip of an arm's model for stock nnU-Net and SCT."""
    from ca_hpc.actions.export import export as action
    from ca_hpc.store.run_folder import RunFolder

    made = action(
        RunFolder.open(run),
        arm=arm,
        folds=None if folds is None else _fold_numbers(folds),
        checkpoint=checkpoint.value,
        output=output,
        environment=dict(os.environ),
        say=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        answer(asdict(made))
        return
    typer.echo(f"{made.file}: {made.size_bytes / 1e6:.1f} MB, sha256:{made.sha256}")
    typer.echo(f"arm {made.arm}, folds {', '.join(made.folds)}")
    if made.missing:
        typer.echo(f"not in it: folds {', '.join(made.missing)}")


def _fold_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise CaHpcError(f"--folds {text} names no folds", hint="--folds 0,1") from error
