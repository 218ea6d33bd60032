"""Raw nnU-Net data sets: channels, labels and regions as their ``dataset.json`` says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ca_hpc.core.data_spec import SEEN, TEST, NnunetSource
from ca_hpc.core.record import LabelFile
from ca_hpc.core.regions import outer_first
from ca_hpc.core.spec import JobSpec
from ca_hpc.sources.documents import Unreadable, read_json
from ca_hpc.sources.found import Found, Listing
from ca_hpc.sources.names import entities, is_image, rivals, stem, subject_of
from ca_hpc.sources.roles import role

_CHANNEL: Final = re.compile(r"(?s)(.+)_(\d{4})")
_IGNORE: Final = "ignore"  # voxels that nobody judged (utilities/label_handling/label_handling.py)


def list_nnunet(source: NnunetSource, spec: JobSpec, *, here: Path, key: str) -> Listing:
    """``imagesTr/CASE_0000.nii.gz …`` with ``labelsTr/CASE.nii.gz``; test sets where
    ``labelsTs`` (``test``) or ``labelsTs_NAME`` are.
    """
    problems = []
    if spec.mask_channels:
        problems.append(f"{key}: an nnU-Net data set has its masks among its channels")
    about: Any = {}
    labels: Mapping[str, int] = {}
    regions: Mapping[str, tuple[int, ...]] = {}
    try:
        about = read_json(here / "dataset.json")
        labels, regions = _labels(about)
    except (Unreadable, ValueError) as error:
        said = error if isinstance(error, Unreadable) else f"{here}/dataset.json: {error}"
        problems.append(str(said))
    found: list[Found] = []
    for folder in sorted(_folders(here)):
        suffix = folder.removeprefix("labels")
        written = None if suffix == "Tr" else suffix.removeprefix("Ts_").removeprefix("Ts") or TEST
        split, wrong = role(written)
        if wrong or split in SEEN:
            problems.append(f"{here}/{folder}: {wrong or f'{split} is no name of a test set'}")
        found += _pairs(here / f"images{suffix}", here / folder, source=source, split=split)
    return Listing(
        found=tuple(found),
        empty=f"no labels found in {here / 'labelsTr'}",
        labels=labels,
        regions=regions,
        channels=channel_names(about, "channel_names"),
        problems=tuple(problems),
    )


def channel_names(about: object, key: str) -> tuple[str, ...]:
    """Names of channels ``{"0": "MRI", …}`` in their order; () where they are not told."""
    names = about.get(key) if isinstance(about, dict) else None
    if not isinstance(names, dict) or set(names) != set(map(str, range(len(names)))):
        return ()
    return tuple(str(names[str(i)]) for i in range(len(names)))


def _folders(here: Path) -> Iterator[str]:
    for entry in os.scandir(here) if here.is_dir() else ():
        if re.fullmatch(r"labels(Tr|Ts(_.+)?)", entry.name) and Path(entry.path).is_dir():
            yield entry.name


def _pairs(
    images: Path, labels: Path, *, source: NnunetSource, split: str | None
) -> Iterator[Found]:
    channels: dict[str, dict[int, list[Path]]] = {}
    for image in _files(images):
        if parts := _CHANNEL.fullmatch(stem(image.name)):
            channels.setdefault(parts[1], {}).setdefault(int(parts[2]), []).append(image)
    of_labels: dict[str, list[Path]] = {}
    for label in _files(labels):
        of_labels.setdefault(stem(label.name), []).append(label)
    for case in sorted({*channels, *of_labels}):
        of_case, labelled = channels.get(case, {}), of_labels.get(case, [])
        place = labelled[0] if labelled else images / case
        missing = sorted({0, *range(max(of_case, default=0))} - set(of_case))
        yield Found(
            stem=case,
            folder=labels.parent,
            images=tuple(of_case[number][0] for number in sorted(of_case)),
            labels=tuple(LabelFile(str(label)) for label in labelled[:1]),
            subject=subject_of(Path(case)),  # of the name alone: folders here are not people's
            session=entities(case).get("ses"),
            contrast=source.contrast,
            split=split,
            lacking=() if labelled else ("label",),
            problems=(
                *(f"{place}: no image {case}_{n:04} in {images.name}" for n in missing),
                *(problem for files in (labelled, *of_case.values()) for problem in rivals(files)),
            ),
        )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(Path(e.path) for e in os.scandir(folder) if is_image(e.name))


def _labels(about: object) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Labels of the map, and regions where ``labels`` name some. ValueError: neither."""
    given = about.get("labels") if isinstance(about, dict) else None
    if not isinstance(given, dict):
        raise ValueError("labels cannot be read: should be names with values")
    if _IGNORE in given:
        raise ValueError(f"nnU-Net's label {_IGNORE} is not supported: it would become a class")
    named = {name: value for name, value in given.items() if name != "background"}
    if any(isinstance(value, list) and len(value) > 1 for value in named.values()):
        return _regions(named)
    named = {name: v[0] if isinstance(v, list) and v else v for name, v in named.items()}
    # as of a spec's own labels
    if not named or {*map(str, named.values())} != {*map(str, range(1, len(named) + 1))}:
        raise ValueError(f"labels {_told(named)} are not numbered 1, 2, …")
    return {name: int(value) for name, value in named.items()}, {}


def _regions(given: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """A value is named for the innermost region around it: ``cord: [1, 2], lesion: [2]`` are the
    labels ``cord: 1, lesion: 2``.
    """
    lists = {name: v if isinstance(v, list) else [v] for name, v in given.items()}
    values = [value for some in lists.values() for value in some]
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not whole or set(values) != set(range(1, len(set(values)) + 1)) or not all(lists.values()):
        raise ValueError(f"regions {_told(given)} are not of values 1, 2, …")
    try:
        regions = outer_first(lists)
    except ValueError as error:
        raise ValueError(f"regions: {error}") from error
    labels: dict[str, int] = {}
    for value in sorted(set(values)):
        around = [name for name, some in regions.items() if value in some]
        name = around[-1]  # outer ones come first
        labels[f"{name}_{value}" if name in labels else name] = value
    return labels, regions


def _told(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
