"""``ca-hpc data``: a job's data fetched, packed for a cluster without internet, and checked."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ca_hpc import screen
from ca_hpc.cli_json import AsJson, answer
from ca_hpc.errors import ExitCode

data_app = typer.Typer(
    help="The data of a job: fetched, packed for elsewhere, checked.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JobFile = Annotated[Path, typer.Argument(help="The job, a YAML file.", show_default=False)]
PackFile = Annotated[Path, typer.Argument(help="The pack, a tar.", show_default=False)]


@data_app.command("fetch")
def fetch(job_file: JobFile, as_json: AsJson = False) -> None:
    """Get what the job needs of its repositories, and no more."""
    from ca_hpc.actions import data as action
    from ca_hpc.actions.prepare import Host

    cases = action.fetch(job_file, host=Host.here(), say=_say)
    _warn(cases.remarks)
    if as_json:
        found = {"cases": len(cases.cases), "origins": [asdict(each) for each in cases.origins]}
        answer(found | {"remarks": cases.remarks})
        return
    typer.echo(f"{len(cases.cases)} images are here with their labels")
    for origin in cases.origins:
        at = f"commit {origin.commit}" if origin.commit else f"sha256:{origin.sha256}"
        typer.echo(f"  {origin.source}: {origin.url}, {at}")


@data_app.command("pack")
def pack(
    job_file: JobFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.tar", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Write the job's data and all that is known of them into one archive."""
    from ca_hpc.actions import data as action
    from ca_hpc.actions.prepare import Host

    with screen.transfer() as progress:
        packed = action.pack(job_file, output, host=Host.here(), say=_say, progress=progress)
    if as_json:
        answer(asdict(packed))
        return
    typer.echo(
        f"{packed.file}: {packed.cases} images, {packed.files} files, {packed.bytes / 1e6:.1f} MB"
    )
    typer.echo(f"copy it, compare it there: ca-hpc data verify {packed.file.name}")
    typer.echo("and in the job:")
    path = json.dumps(packed.file.name)  # YAML reads it, whatever is in it
    typer.echo(f"  data: [{{type: pack, path: {path}, sha256: {packed.sha256}}}]")


@data_app.command("verify")
def verify(file: PackFile, as_json: AsJson = False) -> None:
    """Read a pack to its end and compare every file with its digest."""
    from ca_hpc.actions import data as action

    with screen.transfer() as progress:
        found = action.verify(file, progress=progress)
    known = {"sha256": found.sha256, "cases": len(found.cases.cases), "files": len(found.files)}
    if as_json:
        answer(known)
        return
    typer.echo(f"{file}: {known['files']} files as written, sha256:{found.sha256}")


@data_app.command("check")
def check(
    job_file: JobFile,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Images at once; default: the number of CPUs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every image and label as the stage prepare would; exit code 2 if any cannot be used,
    3 if a pack is damaged.
    """
    from ca_hpc.actions import data as action
    from ca_hpc.actions.prepare import Host

    with screen.count() as progress:
        looked = action.check(
            job_file,
            host=Host.here(),
            workers=workers or len(os.sched_getaffinity(0)),
            say=_say,
            progress=progress,
        )
    if as_json:
        answer(asdict(looked))
    else:
        for line in looked.problems:
            typer.echo(line)
        for line in looked.left_out:
            typer.echo(f"left out: {line}")
        for label, count in looked.empty.items():
            typer.echo(
                f"{count} of {looked.cases} images have no {label} (empty_label: fail refuses)"
            )
        told = f"{len(looked.problems)} cannot be used" if looked.problems else "all can be used"
        told += f", {len(looked.left_out)} of them left out" * bool(looked.left_out)
        typer.echo(f"{looked.cases} images: {told}")
    if looked.problems:
        raise typer.Exit(int(ExitCode.DIGEST_MISMATCH if looked.damaged else ExitCode.USAGE))


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _warn(remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        typer.echo(f"warning: {remark}", err=True)
