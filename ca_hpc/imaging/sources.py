"""Sources of data: which images there are, with which label, of whom. File names only, no images.

Runs at submission, without nibabel: everything wrong with the names is reported before a job is
queued. The images themselves are read by the prepare stage (``imaging/convert.py``).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from ca_hpc.core.data_spec import (
    BidsSource,
    NnunetSource,
    PairsSource,
    Person,
    PersonByColumn,
    PersonByPattern,
)
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError

IMAGE_ENDINGS = (".nii.gz", ".nii")
_UNSAFE = re.compile(r"[^A-Za-z0-9-]+")
S = TypeVar("S", BidsSource, NnunetSource, PairsSource)


@dataclass(frozen=True, slots=True)
class Found:
    """A pair as its source names it."""

    stem: str
    images: tuple[Path, ...]
    label: Path
    subject: str
    session: str | None
    contrast: str
    row: Mapping[str, str]  # of the source's table, for person: {column: …}


def scan(spec: JobSpec) -> Cases:
    """All cases of all sources, in a stable order. Raises CaHpcError that lists every problem."""
    problems: list[str] = []
    cases: list[Case] = []
    labels: dict[str, int] | None = None
    channels: tuple[str, ...] = ()
    for position, source in enumerate(spec.data):
        name = source.name or f"s{position + 1}"
        here = Path(source.path)
        if not here.exists():
            problems.append(f"data[{position}]: {here} does not exist")
            continue
        own = spec.labels
        names: tuple[str, ...] = ("MRI",)
        if isinstance(source, NnunetSource):
            own, names = _nnunet_labels(here, problems), _nnunet_channels(here)
        if labels is not None and dict(own) != labels:
            problems.append(f"data[{position}]: labels {dict(own)} differ from {labels} before it")
        labels = labels or dict(own)
        if channels and names and _normalised(channels) != _normalised(names):
            problems.append(f"data[{position}]: channels {names} differ from {channels} before it")
        channels = channels or names
        found = list(SCANNERS[type(source)](source, here, problems))
        if not found and not problems:
            problems.append(f"data[{position}]: {_nothing_found(source)}")
        for pair in found:
            problems += _unusable(pair)
            person = _person(source.person, pair, problems)
            cases.append(
                Case(
                    id=_UNSAFE.sub("-", f"{name}_{pair.stem}").replace("_", "-"),
                    source=name,
                    images=tuple(str(p) for p in pair.images),
                    label=str(pair.label),
                    subject=pair.subject,
                    person=person,
                    session=pair.session,
                    contrast=pair.contrast,
                )
            )
    problems += _doubles(cases)
    if problems:
        raise CaHpcError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the data\n"
            + "\n".join(problems[:20])
            + (f"\n… and {len(problems) - 20} more" if len(problems) > 20 else ""),
            hint="correct the paths and suffixes under `data:`, or the files",
        )
    dataset = f"Dataset501_{spec.name.replace('-', '_')}"
    return Cases(dataset, labels=labels or {}, cases=tuple(cases), channel_names=channels)


def _bids(source: BidsSource, here: Path, problems: list[str]) -> Iterator[Found]:
    """Images ``sub-*/[ses-*/]DATATYPE/*.nii.gz`` that have a label of the same stem + suffix."""
    table = _table(here / "participants.tsv") if (here / "participants.tsv").is_file() else []
    rows = {row.get("participant_id", ""): row for row in table}
    for image in sorted([*here.glob("sub-*/*/*.nii*"), *here.glob("sub-*/ses-*/*/*.nii*")]):
        relative = image.relative_to(here)
        stem, entities = _stem(image), _entities(image)
        contrast = stem.rsplit("_", 1)[-1]
        if source.contrasts and not any(stem.endswith(f"_{c}") for c in source.contrasts):
            continue
        if source.sessions and entities.get("ses") not in source.sessions:
            continue
        label = next(
            (
                path
                for ending in IMAGE_ENDINGS
                if (
                    path := here / source.labels / relative.parent
                    / f"{stem}{source.label_suffix}{ending}"
                ).is_file() or path.is_symlink()
            ),
            None,
        )  # fmt: skip
        if label is None:
            continue  # an image without a label is no problem: nobody labels everything
        subject = f"sub-{entities['sub']}" if "sub" in entities else relative.parts[0]
        yield Found(
            stem=stem,
            images=(image,),
            label=label,
            subject=subject,
            session=entities.get("ses"),
            contrast=contrast,
            row=rows.get(subject, {}),
        )


def _nnunet(source: NnunetSource, here: Path, problems: list[str]) -> Iterator[Found]:
    """``imagesTr/CASE_0000.nii.gz …`` with ``labelsTr/CASE.nii.gz``."""
    for label in sorted((here / "labelsTr").glob("*.nii*")):
        case = _stem(label)
        images = sorted((here / "imagesTr").glob(f"{_escape(case)}_[0-9][0-9][0-9][0-9].nii*"))
        if not images:
            problems.append(f"{label}: no image {case}_0000 in imagesTr")
            continue
        yield Found(case, tuple(images), label, case, None, source.contrast, {})


def _pairs(source: PairsSource, here: Path, problems: list[str]) -> Iterator[Found]:
    """Rows of a table; paths in it count from the table's folder."""
    for line, row in enumerate(_table(here), start=2):
        missing = [key for key in ("image", "label", "subject") if not row.get(key)]
        if missing:
            problems.append(f"{here}:{line}: no {' and no '.join(missing)}")
            continue
        image, label = (here.parent / row[key] for key in ("image", "label"))
        absent = [str(path) for path in (image, label) if not path.is_file()]
        if absent:
            problems += [f"{here}:{line}: {path} does not exist" for path in absent]
            continue
        yield Found(
            stem=_stem(image),
            images=(image,),
            label=label,
            subject=row["subject"],
            session=row.get("session") or None,
            contrast=row.get("contrast") or "MRI",
            row=row,
        )


SCANNERS: Final[Mapping[type, Callable[..., Iterator[Found]]]] = {
    BidsSource: _bids,
    NnunetSource: _nnunet,
    PairsSource: _pairs,
}


def _unusable(pair: Found) -> Iterator[str]:
    for file in (*pair.images, pair.label):
        if not file.is_file():
            # git-annex keeps the contents of a file elsewhere until somebody asks for them
            linked = "is a link to nothing: fetch it" if file.is_symlink() else "is no file"
            yield f"{file} {linked}"
    if pair.label in pair.images:
        yield f"{pair.label} is an image and its own label"


def _person(by: Person | None, pair: Found, problems: list[str]) -> str:
    match by:
        case None:
            return pair.subject
        case PersonByPattern(pattern=pattern):
            found = re.search(pattern, pair.subject)
            if found is None or found.lastindex is None:
                problems.append(f"person.pattern {pattern} does not match {pair.subject}")
                return pair.subject
            return found[1]
        case PersonByColumn(column=column):
            if not pair.row.get(column):
                problems.append(f"person.column: no {column} for {pair.subject}")
            return pair.row.get(column, pair.subject)


def _nnunet_labels(here: Path, problems: list[str]) -> dict[str, int]:
    try:
        labels = dict(json.loads((here / "dataset.json").read_text())["labels"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problems.append(f"{here}/dataset.json: labels cannot be read ({error})")
        return {}
    labels.pop("background", None)
    # as of a spec's own labels; nnU-Net's regions (several values per name) are not among them
    if not labels or {*map(str, labels.values())} != {*map(str, range(1, len(labels) + 1))}:
        problems.append(f"{here}/dataset.json: labels {labels} are not numbered 1, 2, …")
        return {}
    return {name: int(value) for name, value in labels.items()}


# channel names by which nnU-Net normalises otherwise than by the image's own mean and deviation
# (preprocessing/normalization/map_channel_name_to_normalization.py)
_OWN_NORMALISATION = {"ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1"}


def _normalised(channels: tuple[str, ...]) -> tuple[str | None, ...]:
    return tuple(n.casefold() if n.casefold() in _OWN_NORMALISATION else None for n in channels)


def _nnunet_channels(here: Path) -> tuple[str, ...]:
    """The names in the order of the channels; () where the file does not tell them."""
    try:
        names = json.loads((here / "dataset.json").read_text())["channel_names"]
        return tuple(str(names[str(i)]) for i in range(len(names)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()


def _nothing_found(source: BidsSource | NnunetSource | PairsSource) -> str:
    match source:
        case BidsSource():
            wanted = " or ".join(source.contrasts) or "any contrast"
            image = next(Path(source.path).glob("sub-*/**/*.nii*"), None)
            if image is None:
                return f"no images found: {source.path} holds no sub-*/**/*.nii.gz"
            label = next((Path(source.path) / source.labels).glob("sub-*/**/*.nii*"), None)
            there = f"a file there is {label.name}" if label else "that folder has no labels"
            return (
                f"no labels found for images of {wanted} in {source.path}/{source.labels}: for "
                f"{image.name} one would be {_stem(image)}{source.label_suffix}.nii.gz; {there}"
            )
        case NnunetSource():
            return f"no labels found in {source.path}/labelsTr"
        case PairsSource():
            return f"{source.path} has no rows"


def _doubles(cases: Iterable[Case]) -> list[str]:
    seen: dict[str, str] = {}
    out = []
    for case in cases:
        if case.id in seen:
            out.append(f"{case.images[0]} and {seen[case.id]} would both become case {case.id}")
        seen[case.id] = case.images[0]
    return out


def _table(path: Path) -> list[dict[str, str]]:
    delimiter = "," if path.suffix == ".csv" else "\t"
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return [dict(row) for row in csv.DictReader(stream, delimiter=delimiter)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CaHpcError(
            f"{path} cannot be read as a table: {reason}", hint="a .csv or .tsv file in UTF-8"
        ) from error


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _entities(path: Path) -> dict[str, str]:
    """BIDS entities of a file name: ``sub-01_ses-02_T2w`` -> {"sub": "01", "ses": "02"}."""
    parts = (part.partition("-") for part in _stem(path).split("_"))
    return {key: value for key, dash, value in parts if dash}


def _escape(text: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", text)
