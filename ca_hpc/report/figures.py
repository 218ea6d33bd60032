"""Figures as inline SVG: no ids that clash, no address of anything outside, text stays text.

matplotlib is imported inside: only what draws pays for it. Its object interface is used, so there
is no display and no state between figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO
from math import isfinite
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

from ca_hpc.report.model import Comparison, Curve
from ca_hpc.report.tables import PersonRow, Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Limits = tuple[float, float]

# Okabe and Ito's palette: told apart by people with any colour vision; markers differ as well
ARM_STYLES: Final = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#56B4E9", "v"),
    ("#E69F00", "P"),
)
PAGE_WIDTH: Final = 4.6  # inches: fits a phone without shrinking the text
LETTERS: Final = 50  # what fits into that width
JOINT: Final = {"color": "#b5b5b5", "linewidth": 0.9, "zorder": 1}
TEXT: Final = "#1a1a1a"
QUIET: Final = "#8a8a8a"
RC: Final = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def paired_dot_plot(
    people: Sequence[PersonRow], *, arms: tuple[str, ...], overall: Sequence[Spread | None]
) -> str:
    """SVG: each person's mean Dice in each arm, joined by a line; beside it mean and SD."""

    def draw(axes: Any) -> None:
        for row in people:
            known = [(x, y) for x, y in enumerate(row.dice) if y is not None and isfinite(y)]
            axes.plot([x for x, _ in known], [y for _, y in known], "-", **JOINT)
            for x, y in known:
                colour, marker = ARM_STYLES[x % len(ARM_STYLES)]
                axes.plot(x, y, marker, color=colour, markersize=5.5, alpha=0.75, zorder=2)
        for x, total in enumerate(overall):
            if total is not None and total.mean is not None:
                _mean_and_sd(axes, x + 0.22, total)
        names = [fill(arm, max(8, LETTERS // len(arms))) for arm in arms]
        axes.set_xticks(range(len(arms)), names, parse_math=False)
        axes.set_xlim(-0.45, len(arms) - 0.45)
        axes.set_ylabel("Dice")
        axes.set_ylim(top=min(1.01, axes.get_ylim()[1]))

    description = f"Mean Dice of {len(people)} people in the arms {', '.join(arms)}"
    return drawn(draw, height=3.4, description=description)


def _mean_and_sd(axes: Any, x: float, total: Spread) -> None:
    axes.errorbar(
        x, total.mean, yerr=total.sd, fmt="_", color=TEXT, markersize=13, capsize=4, linewidth=1.4
    )


def forest_plot(comparisons: Sequence[Comparison], *, label: str) -> str:
    """SVG: a row per comparison. Dots are people's differences, the diamond and its line the mean
    with its 95 % interval; right of zero the first arm is better. Each has at least one person.
    """
    reach = max(abs(value) for c in comparisons for value in (*c.differences, *(c.interval or ())))

    def draw(axes: Any) -> None:
        axes.axvline(0, color=QUIET, linewidth=1, zorder=0)
        for row, comparison in enumerate(comparisons):
            _forest_row(axes, row, comparison)
        axes.set_xlim(-1.08 * (reach or 0.01), 1.08 * (reach or 0.01))
        axes.set_ylim(len(comparisons) - 0.4, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("difference in Dice")
        sides = {"fontsize": 9, "color": TEXT}
        axes.set_title("\N{LEFTWARDS ARROW} first arm lower", loc="left", **sides)
        axes.set_title("first arm higher \N{RIGHTWARDS ARROW}", loc="right", **sides)

    pairs = ", ".join(f"{c.arm} against {c.baseline}" for c in comparisons)
    return drawn(
        draw,
        height=0.8 + 0.7 * len(comparisons),
        description=f"Differences in Dice of {label}, person by person: {pairs}",
    )


def _forest_row(axes: Any, row: int, comparison: Comparison) -> None:
    across = axes.get_yaxis_transform()  # x as a fraction of the width, y in rows
    arm, baseline = comparison.arm, comparison.baseline
    space = " " if len(f"{arm} against {baseline}") < LETTERS else "\n"
    name = {"s": f"{arm}{space}against {baseline}", "fontsize": 9, "parse_math": False}
    axes.text(0, row - 0.26, transform=across, va="bottom", linespacing=1, in_layout=False, **name)
    style = {"color": ARM_STYLES[0][0], "markersize": 5, "alpha": 0.45, "markeredgewidth": 0}
    for place, difference in enumerate(comparison.differences):
        # dots that would hide each other are moved apart, the same way each time
        axes.plot(difference, row + 0.12 * (place % 3 - 1), "o", **style)
    mean, limits = comparison.mean, comparison.interval
    if limits is not None:
        axes.plot(limits, (row, row), color=TEXT, linewidth=2, solid_capstyle="butt", zorder=3)
    axes.plot(mean, row, "D", color=TEXT, markersize=6, zorder=4)


def loss_figure(curves: Sequence[Curve], *, arm: str, limits: Limits | None) -> str:
    """SVG: training and validation loss of one arm, a thin line per fold."""

    def draw(axes: Any) -> None:
        for number, curve in enumerate(curves):
            names = ("training", "validation") if number == 0 else (None, None)
            line = _thin(curve)
            axes.plot(curve.epochs, curve.train_loss, color=TEXT, label=names[0], **line)
            axes.plot(curve.epochs, curve.val_loss, "--", color="#D55E00", label=names[1], **line)
        _epoch_axis(axes, "loss", limits)
        if curves:
            axes.legend(loc="upper right")

    return drawn(draw, height=2.6, description=f"Training and validation loss of {arm}, per fold")


def pseudo_dice_figure(curves: Sequence[Curve], *, arm: str, limits: Limits | None) -> str:
    """SVG: pseudo Dice (nnU-Net's estimate from patches) of one arm, a thin line per fold."""

    def draw(axes: Any) -> None:
        for curve in curves:
            axes.plot(curve.epochs, curve.pseudo_dice, color="#0072B2", **_thin(curve))
        _epoch_axis(axes, "pseudo Dice", limits)

    return drawn(draw, height=2.6, description=f"Pseudo Dice of {arm} during training, per fold")


def _thin(curve: Curve) -> dict[str, Any]:
    """A thin line, with dots where there are too few epochs to make one."""
    return {"linewidth": 0.9, "marker": "." if len(curve.epochs) < 4 else None}


def _epoch_axis(axes: Any, ylabel: str, limits: Limits | None) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    if limits is not None:
        axes.set_ylim(limits)


def common_limits(series: Sequence[Sequence[float]]) -> Limits | None:
    """One range for all ``series``, so that figures can be compared; None without a number."""
    values = [value for one in series for value in one if isfinite(value)]
    if not values:
        return None
    margin = 0.05 * (max(values) - min(values)) or 0.05
    return min(values) - margin, max(values) + margin


def drawn(draw: Callable[[Any], None], *, height: float, description: str) -> str:
    """The SVG element of one set of axes filled by ``draw``."""
    import matplotlib
    from matplotlib.figure import Figure

    # the salt makes ids of clip paths repeatable, and different from those of other figures
    with matplotlib.rc_context({**RC, "svg.hashsalt": description}):
        figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
        draw(figure.subplots())
        return _inline_svg(figure, description)


def _inline_svg(figure: Figure, description: str) -> str:
    """``figure`` as an element for HTML, where namespaces, doctype and metadata have no use."""
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # figure_1, axes_1: the same in each figure
    viewbox = re.search(r'viewBox="[^"]*"', drawing)
    assert viewbox is not None, "matplotlib always writes a viewBox"
    label = escape(description, quote=True)
    opening = f'<svg {viewbox.group()} role="img" aria-label="{label}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, drawing, count=1)
