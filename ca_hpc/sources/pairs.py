"""Tables of pairs: a row per image, paths from the table's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ca_hpc.core.data_spec import PairsSource
from ca_hpc.core.record import LabelFile
from ca_hpc.core.spec import JobSpec
from ca_hpc.sources.documents import Unreadable, read_table
from ca_hpc.sources.found import Found, Listing
from ca_hpc.sources.names import stem, told_apart
from ca_hpc.sources.roles import role

_SEPARATOR: Final = ";"  # between the channels of one image


def list_pairs(source: PairsSource, spec: JobSpec, *, here: Path, key: str) -> Listing:
    """Columns ``image``, ``subject``, ``label`` or ``label_NAME``; ``mask_NAME``; ``session``,
    ``contrast``, ``pathology``, ``split``, ``case``.
    """
    empty = f"{here} has no rows"
    try:
        table = read_table(here)
    except Unreadable as error:
        return Listing(empty=empty, problems=(str(error),))
    problems = [f"{here}: {said}" for said in _of_columns(table.columns, spec)]
    found = []
    for line, row in table.rows.items() if not problems else ():
        place = f"{here}:{line}"
        labels = _labels(row, spec)
        missing = [name for name in ("image", "label", "subject") if not row.get(name)]
        if labels:
            missing = [name for name in missing if name != "label"]
        split, wrong = role(row.get("split"))
        if missing:
            problems.append(f"{place}: no {' and no '.join(missing)}")
        if wrong:
            problems.append(f"{place}: {wrong}")
        if not missing and not wrong:
            found.append(
                _found(row, labels, spec=spec, split=split, folder=here.parent, place=place)
            )
    return Listing(
        found=tuple(found),
        empty=empty,
        table=here.name,
        columns=table.columns,
        problems=tuple(problems),
    )


def _found(
    row: Mapping[str, str],
    labels: Mapping[str | None, str],
    *,
    spec: JobSpec,
    split: str | None,
    folder: Path,
    place: str,
) -> Found:
    images = tuple(folder / name.strip() for name in row["image"].split(_SEPARATOR))
    wanted = () if None in labels else spec.labels
    masks = {name: row.get(f"mask_{name}") for name in spec.mask_channels}
    return Found(
        stem=row.get("case") or told_apart(stem(images[0].name), subject=row["subject"]),
        folder=folder,
        images=images,
        labels=tuple(LabelFile(str(folder / path), label) for label, path in labels.items()),
        masks=tuple(str(folder / path) for path in masks.values() if path),
        subject=row["subject"],
        session=(row.get("session") or "").removeprefix("ses-") or None,
        contrast=row.get("contrast") or "MRI",
        pathology=row.get("pathology") or None,
        split=split,
        row=row,
        lacking=(
            *(name for name in wanted if name not in labels),
            *(name for name, path in masks.items() if not path),
        ),
        place=place,
    )


def _labels(row: Mapping[str, str], spec: JobSpec) -> Mapping[str | None, str]:
    """Files by label; by None, of a map of all of them."""
    if row.get("label"):
        return {None: row["label"]}
    return {name: path for name in spec.labels if (path := row.get(f"label_{name}"))}


def _of_columns(columns: tuple[str, ...], spec: JobSpec) -> Iterator[str]:
    by_label = [f"label_{name}" for name in spec.labels]
    if "label" in columns or not any(name in columns for name in by_label):
        by_label = ["label"]
    masks = [f"mask_{name}" for name in spec.mask_channels]
    missing = [n for n in ("image", *by_label, "subject", *masks) if n not in columns]
    if missing:
        known = ", ".join(filter(None, columns)) or "none"
        yield f"no column {' and no '.join(missing)}; its columns: {known}"
    for kind, names in (("label", tuple(spec.labels)), ("mask", tuple(spec.mask_channels))):
        for column in columns:
            if column.startswith(f"{kind}_") and column.removeprefix(f"{kind}_") not in names:
                yield f"column {column}: no such {kind}; {kind}s: {', '.join(names) or 'none'}"
