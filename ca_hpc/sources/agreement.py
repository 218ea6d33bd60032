"""What all sources of a job must agree in: labels, regions, channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ca_hpc.core.regions import outer_first
from ca_hpc.core.spec import JobSpec

Regions = Mapping[str, tuple[int, ...]]

# channel names by which nnU-Net normalises otherwise than by the image's own mean and deviation
# (preprocessing/normalization/map_channel_name_to_normalization.py)
_OWN_NORMALISATION: Final = {"ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1"}
NOT_NORMALISED: Final = "noNorm"
_UNNAMED: Final = {"mri", NOT_NORMALISED.casefold()}  # says nothing of which channel it is
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
    remarks: tuple[str, ...] = ()


def agree(spec: JobSpec, parts: Sequence[Terms]) -> Agreement:
    """Labels, regions and channels of a job. The spec's regions hold for all that bring none."""
    of_spec, problems = _regions(spec, parts)
    labels: Mapping[str, int] = {}
    regions: Regions = {}
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
        if not labels or (in_maps and not part.in_maps):  # names that files of labels go by
            labels = own
        in_maps = in_maps and part.in_maps
        regions = regions or of_part
    with_channels = [part for part in parts if part.channels and part.labels != {}]
    return Agreement(
        dict(labels),
        dict(regions),
        with_channels[0].channels if with_channels else (),
        (*problems, *_other_channels(with_channels)),
        tuple(_renamed_channels(with_channels)),
    )


def _other_channels(parts: Sequence[Terms]) -> Iterator[str]:
    """Channels that are normalised otherwise than the first source's, or in another order."""
    orders: dict[tuple[str, ...], tuple[str, ...]] = {}  # the first, by the names sorted
    for part in parts:
        first, own = parts[0].channels, _folded(part.channels)
        order = orders.setdefault(tuple(sorted(own)), part.channels)
        if _normalised(first) != _normalised(part.channels):
            yield f"{part.key}: channels {part.channels} differ from {first} before it"
        elif own != _folded(order):
            yield f"{part.key}: channels {part.channels} are {order} before it in another order"


def _renamed_channels(parts: Sequence[Terms]) -> Iterator[str]:
    """Sources whose channels have other names than those of the first that names its channels."""
    named = [part.channels for part in parts if not _UNNAMED.issuperset(_folded(part.channels))]
    first = next(iter(named), ())
    for part in parts:
        pairs = zip(_folded(part.channels), _folded(first), strict=False)
        if any(len({*pair} - _UNNAMED) > 1 for pair in pairs):
            yield (
                f"{part.key}: its channels {', '.join(part.channels)} are taken for the "
                f"{', '.join(first)} of other sources"
            )


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


def _folded(channels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.casefold() for name in channels)


def _normalised(channels: tuple[str, ...]) -> tuple[str | None, ...]:
    return tuple(name if name in _OWN_NORMALISATION else None for name in _folded(channels))
