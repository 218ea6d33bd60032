"""``ca-hpc image``: the images that tasks run in: built, kept by sha256, passed on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ca_hpc import screen
from ca_hpc.cli_json import AsJson, answer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ca_hpc.actions.image_site import Site
    from ca_hpc.actions.image_verify import Verified
    from ca_hpc.images.collect import Outcome
    from ca_hpc.images.shelf import Entry

image_app = typer.Typer(help="Apptainer images.", no_args_is_help=True, rich_markup_mode=None)

What = Annotated[
    str, typer.Argument(help="FILE.sif, oras://HOST/NAME:TAG, or of the store NAME or sha256:….")
]
Store = Annotated[
    Path | None,
    typer.Option(
        help="Where they are kept; default: the cluster's, else $CA_HPC_STORE, else "
        "~/.local/share/ca-hpc."
    ),
]
Cluster = Annotated[
    str | None, typer.Option(help="A cluster profile: its store, and whose signatures it wants.")
]
Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        help="A public key (.pem, .asc) that must have signed it, or another that is given.",
    ),
]
Authfile = Annotated[
    Path | None,
    typer.Option(
        help="File with the login; default: $REGISTRY_AUTH_FILE, else ~/.docker/config.json."
    ),
]


@image_app.command("build")
def image_build(
    output: Annotated[Path, typer.Argument(help="The image to write.")] = Path("ca-hpc.sif"),
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Weights to carry: profile, sha256 or file; may be given several times."),
    ] = None,
    cuda: Annotated[bool, typer.Option("--cuda/--cpu", help="For GPUs, or without.")] = True,
    bases: Annotated[
        Path | None, typer.Option(help="Folder of base images; default: beside the output.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="An existing base image.")] = None,
    wheels: Annotated[
        Path | None, typer.Option(help="Folder of Python packages; default: pip's settings.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(help="Debian mirror; default: this machine's own.")
    ] = None,
    rebuild: Annotated[bool, typer.Option(help="Build even if nothing has changed.")] = False,
    name: Annotated[
        str | None, typer.Option(help="Keep it in the store of images, too, under this name.")
    ] = None,
    cluster: Cluster = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Build the image that tasks run in: a base, built once, and this package on top of it."""
    from datetime import datetime, timezone

    from ca_hpc import processes
    from ca_hpc.actions.image_lock import line
    from ca_hpc.actions.prepare import Host
    from ca_hpc.actions.weights import cargo
    from ca_hpc.images.building.build import BuildRequest, build_image
    from ca_hpc.weights.store import WeightStore

    site = _site_of_build(name, store=store, cluster=cluster)  # before minutes of building
    host = Host.here()
    kept_bases = (bases or output.parent).absolute()
    made = build_image(
        BuildRequest(
            output=output.absolute(),
            bases=kept_bases,
            weights=cargo(
                weights or (),
                store=WeightStore(host.store),
                keep=WeightStore(kept_bases),
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
    if site is not None:
        _keep(str(image.path.absolute()), site=site, name=name, replace=True)
    if as_json:
        answer({**asdict(image), "changes": [asdict(change) for change in made.changes]})
        return
    for change in made.changes:
        typer.echo(line(change))
    typer.echo(f"{image.path}: {image.size_bytes / 1e6:.0f} MB, sha256:{image.sha256}")
    typer.echo("unchanged: it was built from the same things before" * made.reused, nl=made.reused)


@image_app.command("pull")
def image_pull(
    what: What,
    name: Annotated[str | None, typer.Option(help="A name for it in the store.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Though the name stands for another image.")
    ] = False,
    keys: Keys = None,
    authfile: Authfile = None,
    cluster: Cluster = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Bring an image into the store: from a registry, or a file that was built or copied here."""
    site = _site(store, cluster=cluster, keys=keys)
    found = _keep(what, site=site, name=name, replace=replace, authfile=authfile)
    if as_json:
        answer({**found, "name": name})
        return
    known = "" if found["brought"] else " (was there)"
    typer.echo(f"{found['file']}{known}")
    typer.echo("\nin a job:")
    for spelling in (name, found["reference"], f"sha256:{found['sha256']}"):
        if spelling is not None:
            typer.echo(f"  image: {spelling}")


@image_app.command("push")
def image_push(
    what: What,
    to: Annotated[str, typer.Argument(help="oras://HOST/NAME[:TAG]")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Though the tag stands for another image.")
    ] = False,
    keys: Keys = None,
    authfile: Authfile = None,
    cluster: Cluster = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Put an image into a registry; whoever may read it there can pull the same bytes."""
    from ca_hpc.actions import image_verify
    from ca_hpc.errors import SpecError
    from ca_hpc.images.reference import InRegistry, parse

    target = parse(to)
    if not isinstance(target, InRegistry):
        raise SpecError(f"{to} is no registry", hint="oras://HOST/NAME:TAG")
    with screen.transfer() as progress:
        pushed = image_verify.push(
            parse(what),
            target,
            site=_site(store, cluster=cluster, keys=keys),
            replace=replace,
            authfile=authfile,
            progress=progress,
        )
    if as_json:
        answer(asdict(pushed))
        return
    typer.echo(f"{pushed.tagged}, manifest {pushed.manifest}")
    typer.echo(f"\nin a job:\n  image: {pushed.reference}")


@image_app.command("list")
def image_list(store: Store = None, cluster: Cluster = None, as_json: AsJson = False) -> None:
    """Show the images that are kept, oldest first."""
    shelf = _site(store, cluster=cluster).shelf
    entries = shelf.entries()
    if as_json:
        answer({"images": [_row(entry) for entry in entries]})
        return
    for entry in entries:
        typer.echo(_line(entry))
    if not entries:
        typer.echo(f"no images in {shelf.folder}")


@image_app.command("unname")
def image_unname(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names in the store.")],
    cluster: Cluster = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Take names away: the images stay, by their sha256, until gc finds that nothing needs them."""
    shelf = _site(store, cluster=cluster).shelf
    taken: list[str] = []
    if as_json:
        answer({"taken": taken})  # as far as it gets: the end may be an error
    for name in names:
        shelf.names.take(name)
        taken.append(name)
    if not as_json:
        typer.echo(f"taken away: {', '.join(taken)}")


@image_app.command("verify")
def image_verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Files, names or sha256:…; default: all that are kept."),
    ] = None,
    keys: Keys = None,
    cluster: Cluster = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Read all bytes again and compare them with what was recorded; ask who signed them."""
    from ca_hpc.actions import image_verify
    from ca_hpc.images.reference import parse

    site = _site(store, cluster=cluster, keys=keys)
    whole: list[dict[str, Any]] = []
    if as_json:
        answer({"as_recorded": whole})  # as far as it gets: the end may be an error
    for found in image_verify.verify([parse(text) for text in what or ()], site=site):
        whole.append(asdict(found))
        if not as_json:
            by = f", signed with {found.signed.key}" if found.signed else ""
            typer.echo(f"{found.file}: sha256:{found.sha256} {_known(found)}{by}")
    if not (whole or as_json):
        typer.echo(f"no images in {site.shelf.folder}")


@image_app.command("lock")
def image_lock(
    bases: Annotated[
        list[Path] | None,
        typer.Argument(help="Bases that were built of it: what came of the recipes."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: exit 3 where it would change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write containers/images.lock.yaml: what images are built from, by digest."""
    from ca_hpc.actions.image_lock import line, lock

    locked = lock(bases or (), check=check)
    if as_json:
        answer(asdict(locked))
        return
    for change in locked.packages:
        typer.echo(line(change))
    typer.echo(f"{locked.file}: {'written' if locked.changed else 'as it was'}")


@image_app.command("gc")
def image_gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them; without, they are only shown.")
    ] = False,
    grace: Annotated[
        int, typer.Option(min=1, metavar="DAYS", help="Keep what was asked for since then.")
    ] = 30,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of runs to look in, too: where runs were moved to."),
    ] = None,
    gone: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder where jobs were submitted to, and that is gone with all its runs."
        ),
    ] = None,
    cluster: Cluster = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Remove images that have no name and that no run is pinned to."""
    import time

    from ca_hpc.images.collect import Places, collect

    shelf = _site(store, cluster=cluster).shelf
    further, without = (
        [str(folder.absolute()) for folder in given or ()] for given in (runs, gone)
    )
    outcomes = collect(
        shelf,
        now=time.time(),
        grace_s=grace * 86400.0,
        places=Places(runs=tuple(further), gone=frozenset(without)),
        delete=delete,
    )
    if as_json:
        answer(
            {"images": [{**_row(o.entry), "kept": o.kept, "removed": o.removed} for o in outcomes]}
        )
        return
    for outcome in outcomes:
        typer.echo(_line(outcome.entry))
        for told in _told(outcome):
            typer.echo(f"{'':<14}{told}")
    typer.echo(_sum(outcomes, delete=delete) if outcomes else f"no images in {shelf.folder}")


def _site(
    store: Path | None = None, *, cluster: str | None = None, keys: list[Path] | None = None
) -> Site:
    from ca_hpc import configs
    from ca_hpc.actions.prepare import Host, image_site

    host = Host.here()
    profile = configs.cluster(cluster, relative_to=host.folder) if cluster else None
    return image_site(profile, host=host, store=store, keys=keys or ())


def _site_of_build(name: str | None, *, store: Path | None, cluster: str | None) -> Site | None:
    """Where an image that is to be built will be kept; without a name: nowhere."""
    from ca_hpc.errors import SpecError
    from ca_hpc.images.reference import check_name

    if name is None:
        if store or cluster:
            raise SpecError(
                "--store and --cluster say where the image is kept, but it has no name",
                hint="--name NAME; the folder of bases is --bases FOLDER",
            )
        return None
    check_name(name)
    site = _site(store, cluster=cluster)
    if site.policy is not None and site.policy.required:
        raise SpecError(
            f"cluster {cluster} takes signed images only, and a new one is not signed",
            hint=f"build it without --name, sign it, then: ca-hpc image pull FILE --name {name} "
            f"--cluster {cluster}",
        )
    return site


def _keep(
    what: str, *, site: Site, name: str | None, replace: bool, authfile: Path | None = None
) -> dict[str, Any]:
    from ca_hpc.actions import image_pull
    from ca_hpc.images.reference import check_name, parse

    def welcome(sha256: str) -> None:  # before minutes of pulling
        if name is not None and not replace:
            site.shelf.names.check(name, sha256)

    if name is not None:
        check_name(name)
    with screen.transfer() as progress:
        found = image_pull.pull(
            parse(what),
            site=site,
            authfile=authfile,
            welcome=welcome,
            say=lambda text: typer.echo(text, err=True),
            progress=progress,
        )
    if name is not None:
        site.shelf.names.give(name, found.sha256, replace=replace)
    return asdict(found)


def _row(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "added": _moment(entry).isoformat(timespec="seconds")}


def _line(entry: Entry) -> str:
    names = ", ".join(entry.names) or "(no name)"
    size = f"{entry.size_bytes / 1e6:>6.0f} MB"
    return f"{entry.sha256[:12]}  {size}  {_moment(entry):%Y-%m-%d}  {entry.by:<10} {names}"


def _moment(entry: Entry) -> datetime:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(entry.added, timezone.utc)


def _told(outcome: Outcome) -> Sequence[str]:
    if outcome.kept:  # by folders and runs of others, whose names may be anything
        return [f"kept: {why if why.isprintable() else ascii(why)}" for why in outcome.kept]
    return ["removed" if outcome.removed else "nothing needs it"]


def _known(found: Verified) -> str:
    if found.signed_since:
        return "signed since it was recorded, and holds the same"
    return "as recorded" if found.recorded else "(nothing is recorded of it)"


def _sum(outcomes: Sequence[Outcome], *, delete: bool) -> str:
    idle = [outcome for outcome in outcomes if not outcome.kept]
    if not idle:
        return "nothing to remove"
    size = sum(outcome.entry.size_bytes for outcome in idle) / 1e6
    told = "removed" if delete else "could go: the same command with --delete"
    return f"{len(idle)} of {len(outcomes)} images, {size:.0f} MB, {told}"
