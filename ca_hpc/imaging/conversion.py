"""How cases are converted: what a job spec and its data say, for all cases alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ca_hpc.core.data_spec import Crop, Label
from ca_hpc.core.record import Cases
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.crop import Surroundings

Targets = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Conversion:
    """``labels``: values, and what is allowed of each. ``targets``: what is learnt, as values of
    the label map. ``masks``: names of further input channels. ``tolerance_mm``: how far grids may
    lie apart that are meant to be one.
    """

    labels: Mapping[str, Label]
    targets: Targets
    masks: tuple[str, ...] = ()
    keep: Surroundings | None = None
    tolerance_mm: float = 0.01


def conversion_of(spec: JobSpec, data: Cases) -> Conversion:
    """What ``spec`` wants done with the cases. Raises CaHpcError for a crop to an unknown label."""
    rules = spec.label_rules
    labels = {}
    for name, value in data.labels.items():  # a raw nnU-Net data set has labels of its own
        rule = replace(rules.get(name, Label(value)), value=value)
        labels[name] = replace(rule, empty=rule.empty or spec.prepare.empty_label)
    return Conversion(
        labels=labels,
        targets=data.targets,
        masks=data.mask_channels,
        keep=None if spec.crop == "none" else _surroundings(spec.crop, data),
        tolerance_mm=spec.prepare.header_tolerance,
    )


def _surroundings(crop: Crop, data: Cases) -> Surroundings:
    known = {**{name: (value,) for name, value in data.labels.items()}, **data.targets}
    if crop.to not in known:
        raise CaHpcError(
            f"crop.to: the data have no label {crop.to}", hint=f"one of {', '.join(known)}"
        )
    return Surroundings(values=known[crop.to], margin_mm=crop.margin)
