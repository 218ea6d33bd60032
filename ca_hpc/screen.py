"""What a person sees: bars while a run goes on, tables, logs. rich is imported when it draws."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ca_hpc.errors import ExitCode

if TYPE_CHECKING:
    from ca_hpc.actions.status import RunStatus, TaskStatus
    from ca_hpc.report.tables import DiceTable
    from ca_hpc.store.run_folder import RunFolder

WATCH_S = 1.0
# Sites ask users not to poll the scheduler; soon after a task has ended there is news to ask for.
ASK_EVERY_S = 30.0
ASK_AFTER_NEWS_S = 5.0

WIDE: Final = 160  # what is not a terminal
COLUMNS: Final = ("task", "state", "job", "node", "attempts", "progress", "time", "cause")
CAUSE_WIDTH: Final = 24  # at least; a cause goes on in further lines
GAP: Final = 1
# Columns that a narrow terminal does without, the first of them first; causes then come below.
SPARED: Final = ("attempts", "job", "node", "time", "progress", "cause")


def printable(text: str) -> str:
    """Lines of text without what a terminal would obey: names come out of foreign files."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def watch(run: RunFolder, *, quiet: bool, cancel_on_interrupt: bool) -> RunStatus:
    """Show progress until the run has ended, then, unless ``quiet``, its outcome.

    Raises KeyboardInterrupt, with ``cancel_on_interrupt`` after the run was cancelled.
    """
    from ca_hpc.actions.status import ask
    from ca_hpc.actions.status import cancel as cancel_run
    from ca_hpc.actions.status import status as read_status

    said = ask(run)
    asked = time.monotonic()
    local = run.workflow.executor == "local"
    known: set[tuple[str, str, int, bool]] = set()
    news = False
    try:
        with _Bars(run, hidden=quiet or not sys.stderr.isatty()) as bars:
            while True:
                patience = WATCH_S if local else ASK_AFTER_NEWS_S if news else ASK_EVERY_S
                if time.monotonic() - asked >= patience:
                    said = ask(run)
                    asked, news = time.monotonic(), False
                now = read_status(run, asked=said, now=datetime.now(timezone.utc))
                bars.show(now)
                if now.ended:
                    break
                # without a time of its own: its attempt has ended
                found = {(t.task, t.state.value, t.attempts, t.seconds is None) for t in now.tasks}
                news, known = news or found != known, found
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            print("cancelling: what runs saves and ends", file=sys.stderr)
            cancel_run(run)
            print(f"cancelled; go on later: {retry_command(run)}", file=sys.stderr)
        raise
    if not quiet:
        if now.exit_code != ExitCode.OK:
            show_status(now)
        show_outcome(run)
        show_next(run, now)
    return now


class _Bars:
    """One bar per stage and one per running task, on a terminal; plain lines elsewhere."""

    def __init__(self, run: RunFolder, *, hidden: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        self._hidden = hidden
        self._bars: dict[str, Any] = {}
        self._told: dict[str, str] = {}
        columns = (BarColumn(), MofNCompleteColumn(), Elapsed())
        console = Console(stderr=True)
        name = TextColumn("{task.description:<28}")
        self._progress = Progress(name, *columns, console=console, disable=hidden)
        self._stages = {s.name: len(s.tasks) for s in run.workflow.stages}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, now: RunStatus) -> None:
        """Draw the status; without a terminal say what has changed."""
        done = dict.fromkeys(self._stages, 0)
        for task in now.tasks:
            done[task.stage] += task.state.value == "COMPLETED"
            running = task.state.value == "RUNNING"
            if running and task.total:
                self._set(task.task, f"  {task.task}", task.done or 0, task.total)
            elif task.task in self._bars:
                self._progress.remove_task(self._bars.pop(task.task))
            if self._hidden and self._told.get(task.task) != task.state.value:
                self._told[task.task] = task.state.value
                if task.state.value not in ("WAITING", "PENDING", "UNKNOWN"):
                    why = f": {task.cause}" if task.cause else ""
                    print(f"{task.task} {task.state.value}{why}", file=sys.stderr)
        for stage, total in self._stages.items():
            self._set(f"stage {stage}", stage, done[stage], total)

    def _set(self, key: str, text: str, done: int, total: int) -> None:
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(text, total=total)
        self._progress.update(self._bars[key], completed=done, total=total)


def show_status(now: RunStatus, *, width: int | None = None) -> None:
    """A table of the tasks and what is known of failures. ``width``: None: the terminal's own."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"COMPLETED": "green", "RUNNING": "cyan", "PENDING": "yellow", "WAITING": "dim",
               "UNKNOWN": "dim"}  # fmt: skip
    console = Console(width=width or (None if sys.stdout.isatty() else WIDE))
    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = [_cells(task) for task in now.tasks]
    widths = {name: max(map(len, (name, *(row[name] for row in rows)))) for name in COLUMNS}
    shown = _fitting(widths, width=console.width)
    for name in shown:
        # rich would take from every column alike
        kept = widths[name] if name in ("task", "state") else None
        folds = name == "cause"
        table.add_column(name, no_wrap=not folds, min_width=kept, overflow="fold")
    for row in rows:
        styles = {"state": colours.get(row["state"], "red")}
        table.add_row(*(Text(row[name], style=styles.get(name, "")) for name in shown))
    console.print(table)
    for task in now.tasks:
        if task.cause and "cause" not in shown:
            console.print(Text(f"{task.task}: {task.cause}"))
    for task in now.tasks:
        if task.lines:
            console.print(Text(f"{task.task}: {task.failure}", style="bold"))
            console.print(Text("\n".join(f"  | {line}" for line in task.lines)))
    hints: dict[str, list[str]] = {}
    for task in now.tasks:
        if task.hint:
            hints.setdefault(task.hint, []).append(task.task)
    for hint, tasks in hints.items():
        console.print(Text(f"hint: {hint} ({', '.join(tasks)})"))
    if now.trouble:
        console.print(Text(f"the scheduler could not be asked: {now.trouble}", style="yellow"))


def _cells(task: TaskStatus) -> dict[str, str]:
    from ca_hpc.core.units import format_duration

    counted = f"{task.done}/{task.total} {task.unit or ''}".rstrip()
    return {
        "task": task.task,
        "state": task.state.value,
        "job": task.job or "",
        "node": task.node or "",
        "attempts": str(task.attempts or ""),
        "progress": counted if task.total else "",
        "time": format_duration(task.seconds) if task.seconds is not None else "",
        "cause": task.cause or "",
    }


def _fitting(widths: Mapping[str, int], *, width: int) -> tuple[str, ...]:
    """The columns that are shown: the less important go where there is no room for all."""
    needed = {**widths, "cause": min(widths["cause"], CAUSE_WIDTH)}
    for name in SPARED:
        if sum(needed.values()) + GAP * (len(needed) - 1) <= width:
            break
        del needed[name]
    return tuple(needed)


def retry_command(run: RunFolder) -> str:
    """What to type to go on with a run."""
    return f"ca-hpc retry {shlex.quote(str(run.path))}"


def show_next(run: RunFolder, now: RunStatus) -> None:
    """The next move, if something is to be done again and can be."""
    if now.failed and (now.ended or run.workflow.executor == "slurm"):
        print(f"go on: {retry_command(run)}")


def show_outcome(run: RunFolder) -> None:
    """The Dice of each label by fold and arm and in each test set, what it means, the report."""
    from ca_hpc.report.model import ENSEMBLE, VALIDATION
    from ca_hpc.report.scores import read_scores, read_summary
    from ca_hpc.report.tables import dice_table, grouped

    found = grouped(read_scores(run.path), lambda score: (score.split, score.label))
    if found:
        spec = run.spec
        labels = {label for _, label in found}
        for (split, label), scores in found.items():
            of = f" of {label}" if len(labels) > 1 else ""
            where = "" if split == VALIDATION else f", test set {split}"
            # a title of the table would wrap to its width
            print(f"\nDice{of}{where} (mean over people)")
            folds = spec.fold_indices if split == VALIDATION else (ENSEMBLE,)
            _show_dice(dice_table(scores, arms=tuple(spec.arms), folds=folds))
        if summary := read_summary(run.path):
            print("", *summary, "", sep="\n")
    report = run.file("report.html")
    if report.is_file():
        print(f"report: {report}")


def _show_dice(found: DiceTable) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.header_style = "bold"
    for column in ("fold", *found.arms):
        table.add_column(column, justify="right")
    for fold, row in zip(found.folds, found.cells, strict=True):
        table.add_row(str(fold), *(_mean(cell) for cell in row))
    if len(found.folds) > 1:
        table.add_row("all", *(_mean(cell) for cell in found.overall), style="bold")
    Console().print(table)


def _mean(cell: Any) -> str:
    return "-" if cell is None or cell.mean is None else f"{cell.mean:.3f}"


def show_file(file: Path, *, follow: bool) -> None:
    with file.open(errors="replace") as stream:
        while True:
            text = stream.read()
            if text:
                sys.stdout.write(text)
                sys.stdout.flush()
            if not follow:
                return
            time.sleep(0.5)


@contextmanager
def transfer() -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes, shown from the first call on: ``progress(done, total or None)``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        bar = bars.add_task("", start=False, visible=False)

        def progress(done: int, total: int | None) -> None:
            if not bars.tasks[bar].started:
                bars.start_task(bar)
            bars.update(bar, completed=done, total=total, visible=True)

        yield progress


@contextmanager
def count() -> Iterator[Callable[[int, int], None]]:
    """A bar of things that are done, on a terminal: ``progress(done, total)``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        bar = bars.add_task("", visible=False)

        def progress(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total, visible=True)

        yield progress
