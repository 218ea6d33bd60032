"""The report as one HTML file that asks nothing of the network and needs no script."""

from __future__ import annotations

import os
import tempfile
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Final

from ca_hpc.report import figures, tables
from ca_hpc.report.model import CaseScore, Comparison, Curve, ReportContent
from ca_hpc.report.outcome import p_text
from ca_hpc.report.tables import Measure, Spread

MISSING: Final = "missing"  # nothing delivered
UNDEFINED: Final = "undefined"  # delivered, but no image has a value

# Measures of the table "per arm", beside Dice itself
MEASURES: Final[tuple[tuple[str, Measure], ...]] = (
    ("Dice", tables.dice),
    ("Precision", lambda score: score.precision),
    ("Sensitivity", lambda score: score.sensitivity),
    ("Relative volume difference", lambda score: score.relative_volume_difference),
)


@dataclass(frozen=True)
class LabelSection:
    """All tables and figures of one label."""

    label: str
    dice: tables.DiceTable
    measures: tuple[tuple[str, tuple[Spread | None, ...]], ...]
    people: tuple[tables.PersonRow, ...]
    contrasts: tuple[tables.ContrastRow, ...]
    dot_plot: str


@dataclass(frozen=True)
class LabelComparisons:
    """The comparisons of one label, and a figure (SVG) of those that anybody has both arms of."""

    label: str
    rows: tuple[Comparison, ...]
    forest: str | None


@dataclass(frozen=True)
class ArmCurves:
    """The two training figures (SVG) of one arm, and how many folds they show."""

    arm: str
    folds: int
    loss: str
    pseudo_dice: str


def write_report(content: ReportContent, path: Path) -> None:
    """Write ``content`` as one HTML file. A reader of ``path`` sees the old or the new one, whole.

    Raises OSError if the folder does not exist or is not writable.
    """
    page = render(content)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(page)
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644)  # mkstemp's 0600 would hide it from the group
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def render(content: ReportContent) -> str:
    """The whole page. Every value is escaped; only our own SVG and PNG enter as they are."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("ca_hpc.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS, svg=Markup)
    return environment.get_template("report.html.j2").render(
        content=content,
        comparisons=label_comparisons(content),
        sections=label_sections(content),
        curves=arm_curves(content),
        overlays={arm: [o for o in content.overlays if o.arm == arm] for arm in content.arms},
        sources={score.source for score in content.scores},
    )


def label_sections(content: ReportContent) -> tuple[LabelSection, ...]:
    """One section per label, in the order in which labels first occur."""
    by_label = tables.grouped(content.scores, lambda score: score.label)
    return tuple(_section(label, scores, content) for label, scores in by_label.items())


def _section(label: str, scores: Sequence[CaseScore], content: ReportContent) -> LabelSection:
    arms = content.arms
    dice = tables.dice_table(scores, arms=arms, folds=content.folds)
    people = tables.person_table(scores, arms=arms)
    by_arm = tables.grouped(scores, lambda score: score.arm)
    return LabelSection(
        label=label,
        dice=dice,
        measures=tuple(
            (title, tuple(tables.spread(by_arm.get(arm, ()), measure) for arm in arms))
            for title, measure in MEASURES
        ),
        people=people,
        contrasts=tables.contrast_table(scores, arms=arms),
        dot_plot=figures.paired_dot_plot(people, arms=arms, overall=dice.overall),
    )


def label_comparisons(content: ReportContent) -> tuple[LabelComparisons, ...]:
    """The comparisons by label, in their order."""
    by_label: dict[str, list[Comparison]] = {}
    for comparison in content.comparisons:
        by_label.setdefault(comparison.label, []).append(comparison)
    return tuple(
        LabelComparisons(
            label=label,
            rows=tuple(rows),
            forest=figures.forest_plot(drawn, label=label)
            if (drawn := [row for row in rows if row.n])
            else None,
        )
        for label, rows in by_label.items()
    )


def arm_curves(content: ReportContent) -> tuple[ArmCurves, ...]:
    """The figures of each arm that has curves, with ranges common to all arms."""
    losses = [series for curve in content.curves for series in (curve.train_loss, curve.val_loss)]
    loss_limits = figures.common_limits(losses)
    dice_limits = figures.common_limits([curve.pseudo_dice for curve in content.curves])

    def of(arm: str, curves: Sequence[Curve]) -> ArmCurves:
        return ArmCurves(
            arm=arm,
            folds=len(curves),
            loss=figures.loss_figure(curves, arm=arm, limits=loss_limits),
            pseudo_dice=figures.pseudo_dice_figure(curves, arm=arm, limits=dice_limits),
        )

    by_arm = {arm: [curve for curve in content.curves if curve.arm == arm] for arm in content.arms}
    return tuple(of(arm, curves) for arm, curves in by_arm.items() if curves)


def number(value: float | None) -> str:
    """Three decimals; what has no value says so."""
    if value is None:
        return MISSING
    return UNDEFINED if isnan(value) else f"{value:.3f}"


def signed(value: float, decimals: int = 3) -> str:
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def interval(limits: tuple[float, float]) -> str:
    """``[−0.004, +0.031]``"""
    return f"[{signed(limits[0])}, {signed(limits[1])}]"


def mean_sd(cell: Spread | None) -> str:
    """``0.912 ± 0.021``: mean and standard deviation over people."""
    if cell is None:
        return MISSING
    if cell.mean is None:
        return UNDEFINED
    mean = f"{cell.mean:.3f}".replace("-", "\N{MINUS SIGN}")
    return mean if cell.sd is None else f"{mean} ± {cell.sd:.3f}"


def duration(seconds: float | None) -> str:
    """``1:02:03``, hours first."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "number": number,
    "signed": signed,
    "interval": interval,
    "p_text": p_text,
    "mean_sd": mean_sd,
    "duration": duration,
    "png_uri": png_uri,
}
