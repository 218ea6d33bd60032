"""Figures with a row per group (source): strips of dots and stacked bars. Inline SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite, log10
from statistics import median
from textwrap import fill
from typing import Any, Final

from ca_hpc.report.figures import ARM_STYLES, TEXT, drawn

ROW_INCHES: Final = 0.3
NAME_LETTERS: Final = 22
# of 2000 images no page needs as many dots: what lies nearer than a bin is stacked, up to LANES
BINS: Final = 90
LANES: Final = (0, 1, -1, 2, -2)
WIDE: Final = 30.0  # largest over smallest value from which the axis is logarithmic
DENSE: Final = 400.0  # largest over smallest up to which ticks at 2 and 5 times a decade have room
TICKS: Final = 6  # of a linear axis; what fits also with several decimals
SEGMENTS: Final = 7
SEGMENT_COLOURS: Final = (*(colour for colour, _ in ARM_STYLES), "#F0E442")
OTHERS: Final = "#b5b5b5"

Groups = Mapping[str, Sequence[float]]


def strip_plot(
    series: Mapping[str, Groups], *, xlabel: str, description: str, from_zero: bool = True
) -> str:
    """SVG: a row per group, a dot per value, a line at the median; a colour per series.

    The axis is logarithmic where positive values spread widely, else it begins at zero if
    ``from_zero``.
    """
    names = list(dict.fromkeys(name for groups in series.values() for name in groups))
    values = [v for groups in series.values() for ours in groups.values() for v in ours]
    log = min(values) > 0 and max(values) / min(values) > WIDE
    lanes = len(series)

    def draw(axes: Any) -> None:
        for lane, (title, groups) in enumerate(series.items()):
            colour, marker = ARM_STYLES[lane % len(ARM_STYLES)]
            for name, ours in groups.items():
                if not ours:
                    continue
                middle = names.index(name) + (lane + 0.5) / lanes - 0.5
                style = {"color": colour, "markersize": 3.2, "alpha": 0.7, "markeredgewidth": 0}
                dots = _piled(ours, low=min(values), high=max(values), log=log)
                xs = [x for x, _ in dots]
                ys = [middle + 0.14 / lanes * place for _, place in dots]
                axes.plot(xs, ys, marker, **style)
                half = 0.42 / lanes
                x = median(ours)
                axes.plot((x, x), (middle - half, middle + half), color=TEXT, lw=1.4, zorder=1)
            axes.plot([], [], marker, color=colour, markersize=5, label=title)
        _rows(axes, names)
        axes.set_xlabel(xlabel)
        if log:
            axes.set_xscale("log")
            _plain_ticks(axes)
        else:
            axes.locator_params(axis="x", nbins=TICKS)
            axes.set_xlim(left=0 if from_zero else None)
        if lanes > 1:
            _legend(axes, columns=lanes)

    return drawn(draw, height=_height(len(names), lanes=lanes), description=description)


def _piled(
    values: Sequence[float], *, low: float, high: float, log: bool
) -> list[tuple[float, int]]:
    """Values, each with its place above or below the row's middle; crowds are thinned."""
    scale = (lambda v: log10(v / low)) if log else (lambda v: v - low)
    whole = scale(high) or 1.0
    seen: Counter[int] = Counter()
    out = []
    for value in sorted(v for v in values if isfinite(v)):
        bin_ = int(BINS * scale(value) / whole)
        if seen[bin_] < len(LANES):
            out.append((value, LANES[seen[bin_]]))
        seen[bin_] += 1
    return out


def stacked_bars(groups: Mapping[str, Mapping[str, int]], *, xlabel: str, description: str) -> str:
    """SVG: a bar per group, made of counts by part; the rarest together where they are many."""
    totals: Counter[str] = Counter()
    for parts in groups.values():
        totals.update(parts)
    named = [part for part, _ in totals.most_common()]
    if len(named) > SEGMENTS:
        named = named[: SEGMENTS - 1]
    segments = [(part, [parts.get(part, 0) for parts in groups.values()]) for part in named]
    if len(named) < len(totals):
        rest = [sum(n for p, n in parts.items() if p not in named) for parts in groups.values()]
        segments.append((f"{len(totals) - len(named)} others", rest))

    def draw(axes: Any) -> None:
        left = [0] * len(groups)
        for place, (part, counts) in enumerate(segments):
            colour = SEGMENT_COLOURS[place] if place < len(named) else OTHERS
            axes.barh(range(len(groups)), counts, left=left, height=0.62, color=colour, label=part)
            left = [one + more for one, more in zip(left, counts, strict=True)]
        _rows(axes, list(groups))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(xlabel)
        if len(segments) > 1:
            _legend(axes, columns=min(3, len(segments)))

    rows = -(-len(segments) // 3) if len(segments) > 1 else 0
    height = _height(len(groups), lanes=1) + 0.2 * rows
    return drawn(draw, height=height, description=description)


def _rows(axes: Any, names: Sequence[str]) -> None:
    """A row per name, the first at the top."""
    shown = [fill(name, NAME_LETTERS) for name in names]
    axes.set_yticks(range(len(names)), shown, parse_math=False)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _plain_ticks(axes: Any) -> None:
    """0.5, 1, 2, 5, …, not 10⁰; over many decades 1, 10, 100, …, lest they overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low <= DENSE else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(axes: Any, *, columns: int) -> None:
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.2,
        handletextpad=0.4,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _height(rows: int, *, lanes: int) -> float:
    """Inches."""
    return 0.85 + rows * ROW_INCHES * (1 + 0.55 * (lanes - 1))
