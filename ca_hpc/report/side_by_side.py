"""Scores of several runs side by side. Pure.

Cases may go by other names in an archive: what is compared are means over people, of each arm,
label and set of images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ca_hpc.report.model import CaseScore
from ca_hpc.report.tables import grouped, spread

MEASURES: Final[Mapping[str, Callable[[CaseScore], float]]] = {
    "dice": lambda score: score.dice,
    "precision": lambda score: score.precision,
    "sensitivity": lambda score: score.sensitivity,
    "relative_volume_difference": lambda score: score.relative_volume_difference,
}
_ROUNDING: Final = 1e-12  # of a mean over the same numbers in another order


@dataclass(frozen=True, slots=True)
class Metric:
    """One measure of an arm in every run: ``means`` over ``people``, None where nobody has one.

    ``split``: ``validation``, or a test set.
    """

    arm: str
    split: str
    label: str
    measure: str
    means: tuple[float | None, ...]
    people: tuple[int, ...]

    @property
    def differences(self) -> tuple[float | None, ...]:
        """Of each run to the first one; None where one of the two has no mean."""
        first = self.means[0]
        return tuple(None if mean is None or first is None else mean - first for mean in self.means)

    @property
    def largest(self) -> float | None:
        """The largest difference, without its sign; None where one of the runs has no mean."""
        known = [abs(difference) for difference in self.differences if difference is not None]
        if len(known) < len(self.means):
            return None
        return max(known) if max(known) > _ROUNDING else 0.0

    def within(self, tolerance: float) -> bool:
        """Whether all runs have a mean over equally many people that is as near to the first's.

        Where none has any (there is nothing to segment), they agree.
        """
        if len(set(self.people)) > 1:
            return False
        if self.largest is None:
            return all(mean is None for mean in self.means)
        return self.largest <= tolerance + _ROUNDING


def side_by_side(runs: Sequence[Sequence[CaseScore]]) -> tuple[Metric, ...]:
    """A row per arm, set of images, label and measure that any of the runs has."""
    groups = [grouped(scores, lambda s: (s.arm, s.split, s.label)) for scores in runs]
    keys = dict.fromkeys(key for group in groups for key in group)
    rows = []
    for arm, split, label in keys:
        for name, measure in MEASURES.items():
            found = [spread(group.get((arm, split, label), ()), measure) for group in groups]
            rows.append(
                Metric(
                    arm,
                    split,
                    label,
                    name,
                    means=tuple(one.mean if one else None for one in found),
                    people=tuple(one.n if one else 0 for one in found),
                )
            )
    return tuple(rows)
