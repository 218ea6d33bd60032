"""What all sources of a job must agree in: labels, regions, channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ca_hpc.core.regions import outer_first
from ca_hpc.core.spec import JobSpec

Regions = Mapping[str, tuple[int, ...]]

# channel names by which nnU-Net normalises otherwise than by the image's own mean and deviation
# (preprocessing/normalization/map_channel_name_to_normalization.py)
_OWN_NORMALISATION: Final = {"ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1"}
NOT_NORMALISED: Final = "noNorm"
DEFAULT_LABELS: Final = {"cord": 1}  # of a job that says nothing


@dataclass(frozen=True, slots=True)
class Terms:
    """What a source brings. ``labels``: None, where it takes the spec's; empty: unreadable.

    ``in_maps``: its label files hold values, so that it does not matter what they are called.
    """

    key: str
    labels: Mapping[str, int] | None
    regions: Regions
    channels: tuple[str, ...]
    in_maps: bool = False


@dataclass(frozen=True, slots=True)
class Agreement:
    """What holds for all sources, and who differs."""

    labels: Mapping[str, int]
    regions: Regions
    channels: tuple[str, ...]
    problems: tuple[str, ...]


def agree(spec: JobSpec, parts: Sequence[Terms]) -> Agreement:
    """Labels, regions and channels of a job. The spec's regions hold for all that bring none."""
    of_spec, problems = _regions(spec, parts)
    labels: Mapping[str, int] = {}
    regions: Regions = {}
    channels: tuple[str, ...] = ()
    in_maps = True  # whether all sources so far are
    for part in parts:
        own = spec.label_values if part.labels is None else part.labels
        if not own:  # unreadable, which is told
            continue
        of_part = part.regions or of_spec
        if all(each.labels is not None for each in parts):
            problems += _overruled(spec, part, of_spec)
        by_value = bool(regions and of_part) and (in_maps or part.in_maps)
        if labels and not _same(labels, own, by_value=by_value):
            problems.append(f"{part.key}: labels {dict(own)} differ from {dict(labels)} before it")
        elif labels and dict(of_part) != dict(regions):
            told = [dict(some) or "none" for some in (of_part, regions)]
            problems.append(f"{part.key}: regions {told[0]} differ from {told[1]} before it")
        if channels and part.channels and _normalised(channels) != _normalised(part.channels):
            problems.append(
                f"{part.key}: channels {part.channels} differ from {channels} before it"
            )
        if not labels or (in_maps and not part.in_maps):  # names that files of labels go by
            labels = own
        in_maps = in_maps and part.in_maps
        regions = regions or of_part
        channels = channels or part.channels
    return Agreement(dict(labels), dict(regions), channels, tuple(problems))


def _overruled(spec: JobSpec, part: Terms, of_spec: Regions) -> list[str]:
    """Where all sources bring labels along: what the job says of them, and says otherwise."""
    said: list[str] = []
    if not part.labels:
        return said
    if spec.label_values != DEFAULT_LABELS and dict(spec.label_values) != dict(part.labels):
        said.append(
            f"{part.key} brings labels {dict(part.labels)} along, the job says "
            f"{dict(spec.label_values)}: leave `labels` out, or let them agree"
        )
    if spec.regions and part.regions and dict(of_spec) != dict(part.regions):
        said.append(
            f"{part.key} brings regions {dict(part.regions)} along, the job says {dict(of_spec)}: "
            "leave `regions` out, or let them agree"
        )
    return said


def _regions(spec: JobSpec, parts: Sequence[Terms]) -> tuple[Regions, list[str]]:
    """The spec's, outer ones first, and what is wrong with them."""
    known = {value for part in parts for value in (part.labels or spec.label_values).values()}
    known = known or set(spec.label_values.values())
    problems = [
        f"regions.{name}: no label has the value {value}"
        for name, values in spec.regions.items()
        for value in sorted(set(values) - known)
    ]
    try:
        return outer_first(spec.regions), problems
    except ValueError as error:
        return {}, [*problems, f"regions: {error}"]


def _same(one: Mapping[str, int], other: Mapping[str, int], *, by_value: bool) -> bool:
    return set(one.values()) == set(other.values()) if by_value else dict(one) == dict(other)


def _normalised(channels: tuple[str, ...]) -> tuple[str | None, ...]:
    return tuple(n.casefold() if n.casefold() in _OWN_NORMALISATION else None for n in channels)
