"""Pages as HTML files that ask nothing of the network and need no script."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Final

from ca_hpc.report import dataset_view, figures, strips, tables
from ca_hpc.report.dataset import DatasetContent
from ca_hpc.report.model import (
    NOT_RUN,
    VALIDATION,
    CaseScore,
    Comparison,
    Curve,
    ReportContent,
)
from ca_hpc.report.outcome import p_text
from ca_hpc.report.tables import Measure, Spread
from ca_hpc.store import atomic

MISSING: Final = "missing"  # nothing delivered
UNDEFINED: Final = "undefined"  # delivered, but no image has a value

KINDS: Final[Mapping[str, str]] = {"finetune": "Fine-tuning", "train": "Retraining"}

# Lines of a cause, or rows of a table, beyond which a reader has to ask for more
SHOWN: Final = 20

# What every table of measures shows, Dice first
MEASURES: Final[tuple[tuple[str, Measure], ...]] = (
    ("Dice", tables.dice),
    ("Precision", lambda score: score.precision),
    ("Sensitivity", lambda score: score.sensitivity),
    ("Relative volume difference", lambda score: score.relative_volume_difference),
)


@dataclass(frozen=True)
class LabelSection:
    """All tables and figures of one label, of the validation or of a test set.

    ``contrasts`` by measure. ``dot_plot``: None if nobody has a Dice. ``reference_empty``: of any
    image.
    """

    label: str
    dice: tables.DiceTable
    measures: tuple[tuple[str, tuple[Spread | None, ...]], ...]
    people: tuple[tables.PersonRow, ...]
    contrasts: tuple[tuple[str, tuple[tables.ContrastRow, ...]], ...]
    dot_plot: str | None
    reference_empty: bool


@dataclass(frozen=True)
class LabelComparisons:
    """The comparisons of one label, and a figure (SVG) of those that anybody has both arms of."""

    label: str
    rows: tuple[Comparison, ...]
    forest: str | None


@dataclass(frozen=True)
class SplitSection:
    """What a test set came to."""

    name: str
    sections: tuple[LabelSection, ...]
    comparisons: tuple[LabelComparisons, ...]


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
    atomic.write_text(path, render(content))


def render(content: ReportContent) -> str:
    """The whole page. Every value is escaped; only our own SVG and PNG enter as they are."""
    return _page(
        "report.html.j2",
        content=content,
        comparisons=label_comparisons(content, VALIDATION),
        sections=label_sections(content, VALIDATION),
        test_sets=unseen_sections(content),
        curves=arm_curves(content),
        overlays=tables.grouped(content.overlays, lambda overlay: (overlay.arm, overlay.split)),
        sources={score.source for score in content.scores},
        data=content.dataset,
    )


def render_data(dataset: DatasetContent, *, run_name: str) -> str:
    """The page about the data alone."""
    return _page("data.html.j2", data=dataset, run_name=run_name)


def _page(template: str, **values: object) -> str:
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
    environment.globals.update(SHOWN=SHOWN, KINDS=KINDS, NOT_RUN=NOT_RUN, view=dataset_view)
    return environment.get_template(template).render(**values)


def unseen_sections(content: ReportContent) -> tuple[SplitSection, ...]:
    """One for each test set that has scores, in their order."""
    names = dict.fromkeys(score.split for score in content.scores)
    return tuple(
        SplitSection(name, label_sections(content, name), label_comparisons(content, name))
        for name in names
        if name != VALIDATION
    )


def label_sections(content: ReportContent, split: str) -> tuple[LabelSection, ...]:
    """One section per label of ``split``, in the order in which labels first occur."""
    ours = [score for score in content.scores if score.split == split]
    by_label = tables.grouped(ours, lambda score: score.label)
    return tuple(_section(label, scores, content) for label, scores in by_label.items())


def _section(label: str, scores: Sequence[CaseScore], content: ReportContent) -> LabelSection:
    arms = content.arms
    people = tables.person_table(scores, arms=arms)
    by_arm = tables.grouped(scores, lambda score: score.arm)
    measures = tuple(
        (title, tuple(tables.spread(by_arm.get(arm, ()), measure) for arm in arms))
        for title, measure in MEASURES
    )
    return LabelSection(
        label=label,
        dice=tables.dice_table(scores, arms=arms, folds=content.folds),
        measures=measures,
        people=people,
        contrasts=tuple(
            (title, tables.contrast_table(scores, arms=arms, measure=measure))
            for title, measure in MEASURES
        ),
        dot_plot=_dot_plot(people, arms=arms, overall=measures[0][1]),
        reference_empty=any(score.reference_empty for score in scores),
    )


def _dot_plot(
    people: Sequence[tables.PersonRow], *, arms: tuple[str, ...], overall: Sequence[Spread | None]
) -> str | None:
    """Arms side by side, or the people of an only arm by source."""
    if not any(total is not None and total.n for total in overall):
        return None
    if len(arms) > 1:
        return figures.paired_dot_plot(people, arms=arms, overall=overall)
    by_source: dict[str, list[float]] = {}
    for row in people:
        dice = row.dice[0]
        if dice is not None and not isnan(dice):
            by_source.setdefault(row.source, []).append(dice)
    description = f"Mean Dice of {overall[0].n if overall[0] else 0} people by source"
    return strips.strip_plot(
        {arms[0]: by_source}, xlabel="Dice", description=description, from_zero=False
    )


def label_comparisons(content: ReportContent, split: str) -> tuple[LabelComparisons, ...]:
    """The comparisons of ``split`` by label, in their order."""
    ours = [comparison for comparison in content.comparisons if comparison.split == split]
    by_label = tables.grouped(ours, lambda comparison: comparison.label)
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
