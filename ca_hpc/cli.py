"""The command line: parse, call one action, show its result. Only it and its parts import typer.

Everything but typer is imported inside the commands: ``ca-hpc --help`` must be there at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ca_hpc import __version__, screen
from ca_hpc.cli_data import data_app
from ca_hpc.cli_image import image_app
from ca_hpc.cli_weights import weights_app
from ca_hpc.errors import CaHpcError, ExitCode

if TYPE_CHECKING:
    from ca_hpc.core.splits import Division
    from ca_hpc.store.run_folder import RunFolder

app = typer.Typer(
    name="ca-hpc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(image_app, name="image")
app.add_typer(weights_app, name="weights")

JobFile = Annotated[Path, typer.Argument(help="The job, a YAML file.", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="The run folder.", show_default=False)]
DemoFolder = Annotated[Path, typer.Argument(help="Where to put data and runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the runs.")]
ClusterName = Annotated[
    str | None, typer.Option("--cluster", help="Another cluster profile than the job's.")
]
Image = Annotated[str | None, typer.Option("--image", help="Another image than the job's.")]
Weights = Annotated[str | None, typer.Option("--weights", help="Other weights than the job's.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Fine-tune spinal cord segmentation (nnU-Net) on SLURM clusters, from one YAML file."""


@app.command()
def validate(job_file: JobFile, cluster: ClusterName = None, output: Output = None) -> None:
    """Check a job file, its profiles, its data, weights and image."""
    from ca_hpc.actions import prepare
    from ca_hpc.actions.estimate import estimate
    from ca_hpc.actions.warnings import warnings

    host = prepare.Host.here()
    job = prepare.read_job(
        job_file, host=host, overrides=prepare.Overrides(cluster=cluster, output=output)
    )
    inputs = prepare.find_inputs(job, host=host)
    flow = prepare.workflow(job, inputs, host=host, run_folder=prepare.next_run_folder(job))
    for text in warnings(job, inputs, flow):
        _warn(text)
    cases = inputs.cases.cases
    people = len({(case.people, case.person) for case in cases})
    held_out = sum(map(len, inputs.data.division.tests.values()))
    of_them = f" ({held_out} in test sets)" if held_out else ""
    typer.echo(_divided(inputs.data.division))
    for origin in inputs.cases.origins:
        typer.echo(f"{origin.source}: {origin.url} at {origin.commit or f'sha256:{origin.sha256}'}")
    typer.echo(
        f"{job_file} is valid: {len(cases)} images{of_them} of {people} people, "
        f"{len(flow.stages)} stages, {len(flow.tasks)} tasks on {job.cluster.name}; "
        f"{estimate(job.spec, inputs.cases, runs=job.runs).text}"
    )


@app.command()
def submit(
    job_file: JobFile,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be submitted; write nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run has ended.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="cluster local: do not wait; survives logout.")
    ] = False,
    cluster: ClusterName = None,
    output: Output = None,
    image: Image = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job: check everything, then one array per stage."""
    import secrets
    from datetime import datetime, timezone

    from ca_hpc.actions import prepare
    from ca_hpc.actions import submit as action

    host = prepare.Host.here()
    overrides = prepare.Overrides(cluster=cluster, output=output, image=image, weights=weights)
    job = prepare.read_job(job_file, host=host, overrides=overrides)
    if dry_run:
        dry = action.dry_run(job, host=host)
        shown = {"dry_run": dry.text, "warnings": dry.warnings}
        typer.echo(json.dumps(shown, indent=2) if as_json else dry.text, nl=as_json)
        for text in dry.warnings:
            _warn(text)
        if dry.trouble is not None:
            raise dry.trouble
        return
    action.private_umask()
    run = action.submit(
        job,
        host=host,
        token=secrets.token_hex(4),
        now=datetime.now(timezone.utc),
        warn=_warn,
        say=lambda text: typer.echo(text, err=True),
    )
    jobs = _job_ids(run)
    attached = job.cluster.executor == "local" and not detach
    if as_json:
        typer.echo(json.dumps({"run": str(run.path), "jobs": jobs}, indent=2))
    else:
        typer.echo(f"run folder: {run.path}")
        for stage in run.workflow.stages:
            ids = sorted({i.split("_")[0] for i in jobs.get(stage.name, {}).values()})
            told = f"  job {', '.join(ids)}" if ids else ""
            word = "task" if len(stage.tasks) == 1 else "tasks"
            typer.echo(f"  {stage.name:<11}{len(stage.tasks):>4} {word:<5}{told}".rstrip())
        if not (wait or attached):
            typer.echo(f"follow it: ca-hpc status --watch {_quoted(run.path)}")
    if wait or attached:
        raise typer.Exit(int(screen.watch(run, quiet=as_json, cancel_on_interrupt=attached)))


@app.command()
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
        raise typer.Exit(int(screen.watch(folder, quiet=as_json, cancel_on_interrupt=False)))
    now = read_status(folder, now=datetime.now(timezone.utc))
    if as_json:
        typer.echo(json.dumps({**asdict(now), "ended": now.ended}, indent=2, default=str))
    else:
        screen.show_status(now)
        if now.ended:
            screen.show_outcome(folder)
        screen.show_next(folder, now)
    raise typer.Exit(int(now.exit_code))


@app.command()
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


@app.command()
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
    from ca_hpc.actions.submit import private_umask
    from ca_hpc.core.units import parse_size
    from ca_hpc.store.run_folder import RunFolder

    private_umask()
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
        typer.echo(json.dumps(asdict(done), indent=2))
        return
    others = f" (failed: {', '.join(done.failed)})" if done.failed else ""
    for task, state in done.left.items():
        typer.echo(f"{task} {_HOW[state.value]}: nothing to do again{others}")
    if done.tasks:
        anew = f"; then anew: {', '.join(done.anew)}" if done.anew else ""
        told = f" (jobs {', '.join(done.jobs)})" if done.jobs else ""
        typer.echo(f"again: {', '.join(done.tasks)}{anew}{told}")
        typer.echo(f"follow it: ca-hpc status --watch {_quoted(run)}")
    elif not done.left:
        typer.echo("nothing to do again: no task of this run has failed")


# states in which a task is left alone
_HOW = {
    "COMPLETED": "has completed", "RUNNING": "runs", "PENDING": "waits", "WAITING": "waits",
}  # fmt: skip


@app.command()
def cancel(run: RunPath) -> None:
    """Cancel everything of a run that waits or runs."""
    from ca_hpc.actions.status import cancel as action
    from ca_hpc.store.run_folder import RunFolder

    folder = RunFolder.open(run)
    done = f"cancelled; go on later: {screen.retry_command(folder)}"
    typer.echo(done if action(folder) else "nothing of this run waits or runs")


class Kept(str, Enum):
    """nnU-Net's two checkpoints of a fold."""

    FINAL = "final"
    BEST = "best"


@app.command()
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
        typer.echo(json.dumps(asdict(made), indent=2, default=str))
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


@app.command()
def demo(
    folder: DemoFolder = Path("ca-hpc-demo"),
) -> None:
    """Fine-tune on synthetic spinal cords, here, in a few minutes."""
    from ca_hpc.actions import demo as action
    from ca_hpc.actions import submit as submission
    from ca_hpc.actions.prepare import Host

    submission.private_umask()

    def step(title: str, run: RunFolder) -> None:
        typer.echo(f"\n{title}")
        code = screen.watch(run, quiet=False, cancel_on_interrupt=True)
        if code != ExitCode.OK:
            raise typer.Exit(int(code))

    action.demo(folder, host=Host.here(), say=typer.echo, watch=step)


def _job_ids(run: RunFolder) -> dict[str, dict[str, str]]:
    """By stage and element: its job; of a chain the array."""
    jobs: dict[str, dict[str, str]] = {}
    for submission in run.submissions():
        for element, job in submission.jobs:
            chain = submission.links > 1
            jobs.setdefault(submission.stage, {})[element] = job.split("_")[0] if chain else job
    return jobs


def _divided(division: Division) -> str:
    """How many images are for what."""
    if len(division.folds) > 1:
        seen = len({case for fold in division.folds for case in fold["val"]})
        parts = [f"{seen} in {len(division.folds)} folds"]
    else:
        parts = [f"{len(cases)} in {part}" for part, cases in division.folds[0].items()]
    parts += [f"{len(cases)} in test set {name}" for name, cases in division.tests.items()]
    return f"images: {', '.join(parts)}"


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _fail(error: CaHpcError) -> NoReturn:
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)
    sys.exit(int(error.exit_code))


def _named(file: object) -> str:
    return "" if file is None else f"{str(file)[:400]}: "


def main() -> None:
    """The entry point: errors become one screen of text and an exit code."""
    # as an exception, so that what is half done is removed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except CaHpcError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(int(ExitCode.INTERRUPTED))
    except BrokenPipeError:  # `ca-hpc logs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(int(ExitCode.OK))
    except OSError as error:  # a full disk, a folder that may not be read, a name too long, …
        _fail(
            CaHpcError(
                f"{_named(error.filename)}{error.strerror or error}",
                hint="so says the operating system: check the path, permissions, disk and quota",
            )
        )
    except Exception as error:
        if os.environ.get("CA_HPC_DEBUG"):
            raise
        _fail(
            CaHpcError(
                f"unexpected: {type(error).__name__}: {error}",
                hint="this is a bug of ca-hpc; run again with CA_HPC_DEBUG=1 and report the trace",
                exit_code=ExitCode.TASK_FAILED,
            )
        )


if __name__ == "__main__":
    main()
