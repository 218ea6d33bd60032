"""What the page shows of a data set beside its tables: figures, and tables as texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from ca_hpc.core.data_spec import SEEN
from ca_hpc.report.case_rows import AXES, FOLDS
from ca_hpc.report.dataset import DatasetContent
from ca_hpc.report.strips import stacked_bars, strip_plot

CM3: Final = 1000.0  # mm3


@dataclass(frozen=True)
class DataFigure:
    """An SVG and what is to be said below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class VolumeUnit:
    """mm³, or cm³ where a label's volumes are that large."""

    name: str
    mm3: float

    @classmethod
    def of(cls, volumes: Sequence[float]) -> VolumeUnit:
        large = bool(volumes) and median(volumes) >= CM3
        return cls("cm³", CM3) if large else cls("mm³", 1.0)

    def text(self, mm3: float) -> str:
        """Three significant digits."""
        value = mm3 / self.mm3
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def split_title(split: str) -> str:
    """What heads the column of a split's images."""
    if split == FOLDS:
        return "in folds"
    return split if split in SEEN else f"test set {split}"


def count_figures(content: DatasetContent) -> Iterator[DataFigure]:
    """Images per source and contrast; nothing where one number says it."""
    bars: dict[str, dict[str, int]] = {}
    for row in content.counts:
        if row.source is not None and row.contrast is not None:
            bars.setdefault(row.source, {})[row.contrast] = row.images
    if sum(map(len, bars.values())) > 1:
        yield DataFigure(
            stacked_bars(bars, xlabel="images", description="Images per source and contrast"),
            "Images per source and contrast.",
        )


def spacing_figures(content: DatasetContent) -> Iterator[DataFigure]:
    """Voxel size per source and axis."""
    by_axis: dict[str, Mapping[str, Sequence[float]]] = {
        axis: {name: [s[place] for s in ours] for name, ours in content.spacings.items() if ours}
        for place, axis in enumerate(AXES)
    }
    if any(by_axis["RL"].values()):
        yield DataFigure(
            strip_plot(by_axis, xlabel="spacing (mm)", description="Spacing per source and axis"),
            "A dot is an image, a line the median. RL: right-left, AP: anterior-posterior, "
            "SI: superior-inferior.",
        )


def volume_figures(content: DatasetContent) -> Iterator[DataFigure]:
    """Volumes per source, a figure for each label that is not empty everywhere."""
    for label, by_source in content.volumes.items():
        every = [volume for volumes in by_source.values() for volume in volumes]
        if every:
            unit = volume_unit(content, label)
            groups = {s: [v / unit.mm3 for v in ours] for s, ours in by_source.items()}
            yield DataFigure(
                strip_plot(
                    {label: groups},
                    xlabel=f"volume of {label} ({unit.name})",
                    description=f"Volume of {label} per source",
                ),
                f"A dot is an image with {label}, a line the median.",
            )


def volume_unit(content: DatasetContent, label: str) -> VolumeUnit:
    """Of all of the label's volumes, so that sources can be compared."""
    return VolumeUnit.of([v for ours in content.volumes.get(label, {}).values() for v in ours])


def ranges(limits: Sequence[tuple[float, float]], digits: int = 3) -> str:
    """``0.5–0.8 × 0.5 × 2–5``: least and most along each axis."""

    def one(least: float, most: float) -> str:
        low, high = f"{least:.{digits}g}", f"{most:.{digits}g}"
        return low if low == high else f"{low}–{high}"

    return " × ".join(one(*limit) for limit in limits) or "not known"
