"""The command line: parse, call one action, show its result. Only it and its parts import typer.

Everything but typer is imported inside the commands: ``ca-hpc --help`` must be there at once.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from ca_hpc import __version__, cli_reruns, cli_runs, screen
from ca_hpc.cli_data import data_app
from ca_hpc.cli_image import image_app
from ca_hpc.cli_json import AsJson, answer, answer_error, one_object
from ca_hpc.cli_weights import weights_app
from ca_hpc.core.utf8 import check_utf8
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
DemoFolder = Annotated[Path, typer.Argument(help="Where to put data and runs.")]
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
def validate(
    job_file: JobFile,
    cluster: ClusterName = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
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
    doubts = tuple(warnings(job, inputs, flow))
    for text in doubts:
        _warn(text)
    cases = inputs.cases.cases
    people = len({(case.people, case.person) for case in cases})
    division = inputs.data.division
    size = estimate(job.spec, inputs.cases, runs=job.runs)
    if as_json:
        answer(
            {
                "job_file": str(job_file),
                "cluster": job.cluster.name,
                "cases": len(cases),
                "people": people,
                "folds": [
                    {part: len(ids) for part, ids in fold.items()} for fold in division.folds
                ],
                "test_sets": {name: len(ids) for name, ids in division.tests.items()},
                "origins": [asdict(origin) for origin in inputs.cases.origins],
                "stages": {stage.name: len(stage.tasks) for stage in flow.stages},
                "estimate": {"bytes": size.bytes, "files": size.files, "free_bytes": size.free},
                "warnings": doubts,
            }
        )
        return
    held_out = sum(map(len, division.tests.values()))
    of_them = f" ({held_out} in test sets)" if held_out else ""
    typer.echo(_divided(division))
    for origin in inputs.cases.origins:
        typer.echo(f"{origin.source}: {origin.url} at {origin.commit or f'sha256:{origin.sha256}'}")
    typer.echo(
        f"{job_file} is valid: {len(cases)} images{of_them} of {people} people, "
        f"{len(flow.stages)} stages, {len(flow.tasks)} tasks on {job.cluster.name}; {size.text}"
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
        if as_json:
            answer({"dry_run": dry.text, "warnings": dry.warnings})
        else:
            typer.echo(dry.text, nl=False)
        for text in dry.warnings:
            _warn(text)
        if dry.trouble is not None:
            raise dry.trouble
        return
    run = action.submit(
        job,
        host=host,
        token=secrets.token_hex(4),
        now=datetime.now(timezone.utc),
        warn=_warn,
        say=lambda text: typer.echo(text, err=True),
    )
    cli_runs.submitted(run, wait=wait, detach=detach, as_json=as_json)


for command in (
    cli_runs.status, cli_runs.logs, cli_runs.retry, cli_runs.cancel, cli_runs.export,
    cli_reruns.rerun, cli_reruns.compare, cli_reruns.archive,
):  # fmt: skip
    app.command()(command)


@app.command()
def demo(folder: DemoFolder = Path("ca-hpc-demo"), as_json: AsJson = False) -> None:
    """Fine-tune on synthetic spinal cords, here, in a few minutes."""
    from ca_hpc.actions import demo as action
    from ca_hpc.actions.prepare import Host

    def say(text: str) -> None:
        typer.echo(text, err=as_json)

    def step(title: str, run: RunFolder) -> None:
        say(f"\n{title}")
        now = screen.watch(run, quiet=as_json, cancel_on_interrupt=True)
        if as_json:  # of the last run, or of the one that failed
            answer(cli_runs.status_answer(now))
        if now.exit_code != ExitCode.OK:
            raise typer.Exit(int(now.exit_code))

    action.demo(folder, host=Host.here(), say=say, watch=step)


def _divided(division: Division) -> str:
    """How many images are for what."""
    if len(division.folds) > 1:
        seen = len({case for fold in division.folds for case in fold["val"]})
        parts = [f"{seen} in {len(division.folds)} folds"]
    else:
        parts = [f"{len(cases)} in {part}" for part, cases in division.folds[0].items()]
    parts += [f"{len(cases)} in test set {name}" for name, cases in division.tests.items()]
    return f"images: {', '.join(parts)}"


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _fail(error: CaHpcError) -> NoReturn:
    typer.echo(screen.printable(f"error: {error.message}"), err=True)
    if error.hint:
        typer.echo(screen.printable(f"hint: {error.hint}"), err=True)
    answer_error(error)
    sys.exit(int(error.exit_code))


def _interrupted() -> NoReturn:
    answer_error(CaHpcError("interrupted", exit_code=ExitCode.INTERRUPTED))
    sys.exit(int(ExitCode.INTERRUPTED))


def _named(file: object) -> str:
    return "" if file is None else f"{str(file)[:400]}: "


# Newer typer has a click of its own and does not export this class: of click itself it is another.
_UsageError: Final[Any] = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run a command: errors become one screen of text, with --json also an object, and a code.

    Started by ``ca_hpc.__main__``.
    """
    private_umask()
    # as an exception, so that what is half done is removed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with one_object():
            _run_command()
    except BrokenPipeError:  # `ca-hpc logs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(int(ExitCode.OK))


def private_umask() -> None:
    """What we write is for the user and the group at most, whatever the shell's umask says.

    SLURM hands it on to jobs. What a group shares beyond that (stores) gets its modes by itself.
    """
    os.umask(os.umask(0o077) | 0o027)


def _run_command() -> NoReturn:
    try:
        for word in sys.argv[1:]:
            check_utf8(word)
        code = app(prog_name="ca-hpc", standalone_mode=False)
        if code == ExitCode.INTERRUPTED:  # what typer makes of KeyboardInterrupt
            _interrupted()
        sys.exit(code)
    except CaHpcError as error:
        _fail(error)
    except _UsageError as error:
        error.show()
        hint = error.ctx and f"{error.ctx.command_path} --help"
        answer_error(CaHpcError(error.format_message(), hint=hint))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):  # Abort: what typer made of it before
        _interrupted()
    except BrokenPipeError:
        raise
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
