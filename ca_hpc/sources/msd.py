"""Data lists in the style of the Medical Segmentation Decathlon: one JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ca_hpc.core.data_spec import MsdSource
from ca_hpc.core.record import LabelFile
from ca_hpc.core.spec import JobSpec
from ca_hpc.sources.documents import Unreadable, read_json
from ca_hpc.sources.found import Found, Listing
from ca_hpc.sources.names import entities, first_three, stem, subject_of, told_apart
from ca_hpc.sources.nnunet import channel_names
from ca_hpc.sources.roles import ROLES


def list_msd(source: MsdSource, spec: JobSpec, *, here: Path, key: str) -> Listing:
    """Lists ``train``, ``validation``, ``test`` (or ``training``, ``val``) of ``{image, label}``.

    ``image`` may be a list of channels, ``label`` and ``mask`` a path for each NAME; further keys:
    ``subject``, ``session``, ``contrast``, ``pathology``, ``case``.
    """
    empty = f"{here}: its lists train, validation and test are empty"
    try:
        value = read_json(here)
    except Unreadable as error:
        return Listing(empty=empty, problems=(str(error),))
    if not isinstance(value, dict) or not any(name in value for name in ROLES):
        return Listing(
            empty=empty, problems=(f"{here}: should have lists train, validation or test",)
        )
    found: list[Found] = []
    problems: list[str] = []
    for name, split in ROLES.items():
        entries = value.get(name) or []
        if not isinstance(entries, list):
            problems.append(f"{here}: {name} is no list")
            continue
        for position, entry in enumerate(entries):
            place = f"{here}: {name}[{position}]"
            try:
                found.append(_found(entry, spec=spec, split=split, folder=here.parent, place=place))
            except ValueError as error:
                problems.append(f"{place}: {error}")
    unlabelled = [each.images[0].name for each in found if not each.labels]
    return Listing(
        found=tuple(found),
        empty=empty,
        table=here.name,
        columns=tuple(dict.fromkeys(column for each in found for column in each.row)),
        channels=channel_names(value, "channel_names") or channel_names(value, "modality"),
        problems=tuple(problems),
        remarks=(
            (f"{here.name}: without a label, left out: {first_three(unlabelled)}",)
            if unlabelled
            else ()
        ),
    )


def _found(entry: object, *, spec: JobSpec, split: str, folder: Path, place: str) -> Found:
    """Raises ValueError."""
    if isinstance(entry, str):  # MSD's own lists of test images, whose labels are secret
        entry = {"image": entry}
    if not isinstance(entry, dict):
        raise ValueError("should be {image: …, label: …}")
    images = [Path(path) for path in _paths(entry.get("image"), "image")]
    labels = dict(_by_name(entry.get("label"), "label", names=tuple(spec.labels)))
    masks = dict(_by_name(entry.get("mask") or {}, "mask", names=tuple(spec.mask_channels)))
    name = images[0].name
    told = entities(name)
    row = {str(k): str(v) for k, v in entry.items() if isinstance(v, str | int | float)}
    subject = row.get("subject") or subject_of(images[0])
    return Found(
        stem=row.get("case") or told_apart(stem(name), subject=subject),
        folder=folder,
        images=tuple(folder / image for image in images),
        labels=tuple(LabelFile(str(folder / path), label) for label, path in labels.items()),
        masks=tuple(str(folder / masks[mask]) for mask in spec.mask_channels if mask in masks),
        subject=subject,
        session=(row.get("session") or told.get("ses", "")).removeprefix("ses-") or None,
        contrast=row.get("contrast") or (stem(name).rsplit("_", 1)[-1] if told else "MRI"),
        pathology=row.get("pathology") or None,
        split=split,
        row=row,
        lacking=(
            *([] if None in labels else [n for n in spec.labels if n not in labels]),
            *(mask for mask in spec.mask_channels if mask not in masks),
        ),
        place=place,
    )


def _paths(value: object, key: str) -> list[str]:
    paths: list[Any] = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"{key} should be a path")
    return paths


def _by_name(value: Any, key: str, *, names: tuple[str, ...]) -> Iterator[tuple[str | None, str]]:
    """Files by name; by None, a map of all labels."""
    match value:
        case None | "":
            return
        case str() if key == "label":
            yield None, value
        case [str(path)] if key == "label":
            yield None, path
        case Mapping():
            for name, path in value.items():
                if name not in names:
                    raise ValueError(f"{key} {name}: no such {key}; {key}s: {', '.join(names)}")
                yield name, _paths(path, f"{key}.{name}")[0]
        case _:
            raise ValueError(f"{key} should be a path, or a path for each name")
