"""What a scanner hands on: images as their source names them, and what the source says of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ca_hpc.core.record import LabelFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image (a file per channel) with what belongs to it.

    ``row``: of the source's table. ``lacking``: labels and masks that it has no file of; with
    ``labels`` and ``masks`` empty nobody labelled it. ``place``: where a list names it.
    ``problems`` count only if it is taken.
    """

    stem: str
    folder: Path  # its relative names count from there
    images: tuple[Path, ...]
    labels: tuple[LabelFile, ...]
    masks: tuple[str, ...] = ()
    subject: str
    session: str | None = None
    contrast: str = "MRI"
    pathology: str | None = None
    split: str | None = None
    row: Mapping[str, str] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    place: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All images of a source, before its filters. ``empty``: what to say if there are none.

    ``columns`` of its ``table``. ``labels``, ``regions``, ``channels``: its own; None or empty
    where the spec says them, or nobody.
    """

    found: tuple[Found, ...] = ()
    empty: str
    table: str = "table"
    columns: tuple[str, ...] | None = None
    labels: Mapping[str, int] | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
