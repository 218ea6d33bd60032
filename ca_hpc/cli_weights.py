"""``ca-hpc weights``: pretrained weights, fetched and checked once, then named by jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ca_hpc import screen
from ca_hpc.cli_json import AsJson, answer

if TYPE_CHECKING:
    from ca_hpc.weights.store import WeightStore

weights_app = typer.Typer(
    help="Pretrained weights: checked once, then named by jobs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Store = Annotated[
    Path | None,
    typer.Option(help="Where they are kept; default: $CA_HPC_STORE, else ~/.local/share/ca-hpc."),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Read a file that names more than tensors and numbers; that is left out, never run.",
    ),
]
Fold = Annotated[str | None, typer.Option(help="Of several folds; default: all, else the lowest.")]
Which = Annotated[
    Literal["final", "best"] | None,
    typer.Option("--checkpoint", help="Default: final, else best."),
]


@weights_app.command("add")
def add(
    what: Annotated[
        str, typer.Argument(help="A model profile, a URL, a zip, a folder or a checkpoint.")
    ],
    profile: Annotated[
        str | None, typer.Option(help="The model profile that the file belongs to.")
    ] = None,
    fold: Fold = None,
    checkpoint: Which = None,
    trust: Trust = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give the profile's name to these from now on.")
    ] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Fetch, read, check and keep weights. Nothing in the file is ever run."""
    from datetime import datetime, timezone

    from ca_hpc.actions import weights as action
    from ca_hpc.actions.job_weights import profiles_that_fit
    from ca_hpc.core import door
    from ca_hpc.weights.summary import in_a_job, summary

    with screen.transfer() as progress:
        entry = action.add(
            action.Addition(what, profile, fold, checkpoint, trust=trust, replace=replace),
            store=_store(store),
            here=Path.cwd(),
            now=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            say=lambda text: typer.echo(text, err=True),
            progress=progress,
        )
    if as_json:
        answer(json.loads(door.dump(entry.manifest)))
        return
    _tell(summary(entry.manifest))
    for doubt in entry.manifest.doubts:
        typer.echo(f"warning: {doubt}", err=True)
    typer.echo("\nin a job:")
    fitting = profiles_that_fit(entry.manifest)
    for line in in_a_job(entry.manifest, given=profile or what, fitting=fitting):
        typer.echo(f"  {line}")


@weights_app.command("list")
def list_weights(store: Store = None, as_json: AsJson = False) -> None:
    """Show the weights that are kept, and the model profiles that could be added."""
    from ca_hpc.actions import weights as action

    here = _store(store)
    kept, others = action.kept(here), action.not_kept(here)
    if as_json:
        answer({"kept": kept, "not_kept": others})
        return
    for row in kept:
        name = row["name"] or "(no profile)"
        typer.echo(f"{name:<22} sha256:{row['sha256']}")
        typer.echo(f"{'':<22} from {row['from']}, added {row['added']}")
    if not kept:
        typer.echo(f"no weights in {here.folder}")
    if others:
        typer.echo("\nto add:")
    for command in others.values():
        typer.echo(f"  {command}")


@weights_app.command("inspect")
def inspect(
    what: Annotated[str, typer.Argument(help="A profile or sha256 that is kept, or a file.")],
    fold: Fold = None,
    checkpoint: Which = None,
    trust: Trust = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show what weights are: family, network, axes, spacing, channels, digests."""
    from ca_hpc.actions import weights as action
    from ca_hpc.core import door
    from ca_hpc.weights.summary import summary

    manifest = action.inspect(
        action.Addition(what, None, fold, checkpoint, trust=trust),
        store=_store(store),
        here=Path.cwd(),
    )
    if as_json:
        answer(json.loads(door.dump(manifest)))
    else:
        _tell(summary(manifest))


@weights_app.command("verify")
def verify(
    what: Annotated[
        str | None, typer.Argument(help="A profile or sha256; default: all that are kept.")
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Read all bytes again and compare them with what was recorded."""
    from ca_hpc.actions import weights as action

    here = _store(store)
    whole: list[dict[str, str | None]] = []
    if as_json:
        answer({"as_recorded": whole})  # as far as it gets: the end may be an error
    for manifest in action.verify(what, store=here):
        whole.append({"name": manifest.profile, "sha256": manifest.sha256})
        if not as_json:
            name = manifest.profile or manifest.source.name
            typer.echo(f"{name}: sha256:{manifest.sha256} as recorded")
    if not (whole or as_json):
        typer.echo(f"no weights in {here.folder}")


def _store(given: Path | None) -> WeightStore:
    from ca_hpc.actions.prepare import Host
    from ca_hpc.weights.store import WeightStore

    return WeightStore((given or Host.here().store).absolute())


def _tell(facts: tuple[tuple[str, str], ...]) -> None:
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        typer.echo(f"{name:<{width}}  {value}")
