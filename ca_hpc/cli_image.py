"""``ca-hpc image``: the images that tasks run in."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ca_hpc.cli_json import AsJson, answer

image_app = typer.Typer(help="Apptainer images.", no_args_is_help=True, rich_markup_mode=None)


@image_app.command("build")
def image_build(
    output: Annotated[Path, typer.Argument(help="The image to write.")] = Path("ca-hpc.sif"),
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Weights to carry: profile, sha256 or file; may be given several times."),
    ] = None,
    cuda: Annotated[bool, typer.Option("--cuda/--cpu", help="For GPUs, or without.")] = True,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder of base images (not of weights by name); default: beside the output."
        ),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="An existing base image.")] = None,
    wheels: Annotated[
        Path | None, typer.Option(help="Folder of Python packages; default: pip's settings.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(help="Debian mirror; default: this machine's own.")
    ] = None,
    rebuild: Annotated[bool, typer.Option(help="Build even if nothing has changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the image that tasks run in: a base, built once, and this package on top of it."""
    from datetime import datetime, timezone

    from ca_hpc import processes
    from ca_hpc.actions.prepare import Host
    from ca_hpc.actions.weights import cargo
    from ca_hpc.images.build import BuildRequest, build_image
    from ca_hpc.weights.store import WeightStore

    host = Host.here()
    made = build_image(
        BuildRequest(
            output=output.absolute(),
            store=(store or output.parent).absolute(),
            weights=cargo(
                weights or (),
                store=WeightStore(host.store),
                keep=WeightStore((store or output.parent).absolute()),
                here=host.folder,
            ),
            base=base,
            variant="cuda" if cuda else "cpu",
            mirror=mirror,
            wheels=wheels,
            rebuild=rebuild,
        ),
        run=processes.run,
        progress=lambda text: typer.echo(text, err=True),
        built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    image = made.image
    if as_json:
        answer(asdict(image))
        return
    typer.echo(f"{image.path}: {image.size_bytes / 1e6:.0f} MB, sha256:{image.sha256}")
    typer.echo("unchanged: it was built from the same things before" * made.reused, nl=made.reused)
