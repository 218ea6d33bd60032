"""Runs years later: ``ca-hpc rerun``, ``compare``, ``archive``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ca_hpc import cli_runs, screen
from ca_hpc.cli_json import AsJson, answer
from ca_hpc.errors import ExitCode

if TYPE_CHECKING:
    from ca_hpc.core.run_record import Row
    from ca_hpc.report.side_by_side import Metric

Source = Annotated[
    Path, typer.Argument(help="A run folder, or an archive of one.", show_default=False)
]


def rerun(
    run: Source,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Where; default: where it ran.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of runs.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Where the image is now.")] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Where the weights are now.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="A folder or pack with the images; may be repeated."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="What may differ, by its name in the table; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show the table; submit nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run has ended.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="cluster local: do not wait; survives logout.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run again what was run, with the same inputs."""
    import secrets
    from datetime import datetime, timezone

    from ca_hpc.actions import rerun as action
    from ca_hpc.actions.prepare import Host, Overrides
    from ca_hpc.core.drift import check_allowed, refuse

    def say(text: str) -> None:
        typer.echo(screen.printable(text), err=True)

    allowed = allow or []
    check_allowed(allowed)
    host = Host.here()
    overrides = Overrides(cluster=cluster, output=output, image=image, weights=weights)
    planned = action.plan(run, host=host, overrides=overrides, data=data or (), say=say)
    if as_json:
        answer({"drift": [asdict(row) for row in planned.rows]})
    else:
        _show_drift(planned.rows, before="recorded", now="now")
    if dry_run:
        refuse(planned.rows, allowed=allowed)
        return
    made = action.rerun(
        planned,
        host=host,
        allowed=allowed,
        token=secrets.token_hex(4),
        now=datetime.now(timezone.utc),
        warn=lambda text: say(f"warning: {text}"),
        say=say,
    )
    cli_runs.submitted(made, wait=wait, detach=detach, as_json=as_json)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders or archives; the first is the yardstick.")
    ],
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="How far a mean may be from the first's.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Compare metrics of runs; exit code 1 beyond the tolerance."""
    from ca_hpc.actions.compare import compare as action

    found = action(runs, tolerance=tolerance)
    if as_json:
        answer(asdict(found))
    else:
        for name, rows in found.drift.items():
            same = [row.aspect for row in rows if row.verdict == "same"]
            others = [row for row in rows if row.verdict != "same"]
            _show_drift(others, before=found.runs[0], now=name)
            _line(f"the same: {', '.join(same) or 'nothing'}")
            typer.echo()
        for fold, identical in found.identical.items():
            _line(f"weights of {fold}: {'the same, bit for bit' if identical else 'others'}")
        _show_metrics(found.rows, runs=found.runs, tolerance=tolerance)
        told = "all are" if found.within else "not all are"
        typer.echo(f"{told} within {tolerance:g} of those of {found.runs[0]}")
    if not found.within:
        raise typer.Exit(int(ExitCode.TASK_FAILED))


class Leave(str, Enum):
    """What an archive may do without."""

    IMAGE = "image"
    WEIGHTS = "weights"
    WHEELS = "wheels"


def archive(
    run: cli_runs.RunPath,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The archive; default: the run's name and .tar, here."),
    ] = None,
    without: Annotated[
        list[Leave] | None, typer.Option("--without", help="Leave it out; may be repeated.")
    ] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="With images and labels as they are.")
    ] = False,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="Of subjects, sessions and cases.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite an archive that is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write all that another site needs for a rerun into one file."""
    from ca_hpc.actions.archive import archive as action
    from ca_hpc.actions.archive_readme import in_words
    from ca_hpc.actions.prepare import Host, weight_store
    from ca_hpc.store.digests import DigestCache
    from ca_hpc.store.run_folder import RunFolder

    host, folder = Host.here(), RunFolder.open(run)
    target = output or Path(f"{folder.path.name}.tar")
    with screen.transfer() as progress:
        made = action(
            folder,
            target,
            store=weight_store(folder.cluster, host=host),
            cache=DigestCache(host.cache / "digests.json"),
            without=[each.value for each in without or ()],
            images=with_images,
            names="kept" if keep_names else "replaced",
            overwrite=replace,
            say=lambda text: typer.echo(text, err=True),
            progress=progress,
        )
    if as_json:
        answer(asdict(made))
        return
    parts = ", ".join(f"{part} {_size(size)}" for part, size in made.parts.items())
    typer.echo(f"{made.file}: {_size(made.size_bytes)} ({parts})")
    if made.left_out:
        typer.echo(f"not in it: {in_words(made.left_out)}")
    typer.echo(f"sha256:{made.sha256} (of the manifest in it, which has those of all files)")
    typer.echo(f"how to rerun it: tar -xOf {shlex.quote(str(target))} README.txt")


def _show_drift(rows: Sequence[Row], *, before: str, now: str) -> None:
    """A table, and its sum: a drift may be one line of many."""
    cells = [("", before, now, "")]
    cells += [(row.aspect, _short(row.before), _short(row.now), row.verdict) for row in rows]
    _show_table(cells)
    names = [row.aspect for row in rows if row.verdict == "drift"]
    _line(f"drift: {', '.join(names) or 'none'}")


def _show_metrics(rows: Iterable[Metric], *, runs: Sequence[str], tolerance: float) -> None:
    cells = [("arm", "images", "label", "mean over people", *runs, "differ by", "")]
    for row in rows:
        numbers = ["-" if mean is None else f"{mean:.6f}" for mean in row.means]
        mark = "" if row.within(tolerance) else "beyond"
        apart = "-" if row.largest is None else f"{row.largest:.1g}"
        cells.append((row.arm, row.split, row.label, row.measure, *numbers, apart, mark))
    _show_table(cells)


def _show_table(cells: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _line(line.rstrip())


def _line(text: str) -> None:
    """Names come out of foreign archives: one must not begin a line of its own."""
    typer.echo(screen.printable(text.replace("\n", "?")))


def _size(count: int) -> str:
    """Of ``count`` bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _short(fact: str) -> str:
    """Digests by their beginning: all of it is in the record and in --json."""
    digits = len(fact) == 64 and not set(fact) - set("0123456789abcdef")
    return f"sha256:{fact[:12]}" if digits else fact or "-"
