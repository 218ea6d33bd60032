"""``cases.tsv``: one row per case, also of those that are left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ca_hpc.core.record import Case
from ca_hpc.core.splits import Division
from ca_hpc.imaging.convert import Converted

COLUMNS: Final = (
    "case", "source", "subject", "person", "session", "contrast", "pathology", "split", "fold",
    "orientation", "spacing_mm", "shape", "crop_rpi", "label_voxels", "label_voxels_lost",
    "volume_mm3", "image_sha256", "label_sha256", "content_sha256", "problem",
)  # fmt: skip
SKIPPED: Final = "skipped"


@dataclass(frozen=True, slots=True)
class Place:
    """What a case is used for: ``folds``, ``train``, ``val``, a test set's name, or ``skipped``.

    ``folds``: those that validate with it.
    """

    split: str
    folds: tuple[int, ...] = ()


def places(division: Division) -> Mapping[str, Place]:
    """By case id. A case of several folds that all train or validate with it is not of K folds."""
    found = {case: Place(name) for name, cases in division.tests.items() for case in cases}
    for case in sorted(
        {case for fold in division.folds for case in (*fold["train"], *fold["val"])}
    ):
        folds = tuple(i for i, fold in enumerate(division.folds) if case in fold["val"])
        split = "train" if not folds else "val" if len(folds) == len(division.folds) else "folds"
        found[case] = Place(split, folds)
    return found


def table(
    cases: Iterable[Case],
    *,
    converted: Mapping[str, Converted],
    places: Mapping[str, Place],
    problems: Mapping[str, str],
) -> str:
    """The rows, tab-separated, in the order of ``cases``; the mappings are by case id."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, dialect="excel-tab", lineterminator="\n", restval="")
    writer.writeheader()
    for case in cases:
        place = places.get(case.id, Place(SKIPPED))
        found = converted.get(case.id)
        writer.writerow(
            {
                **_of_case(case),
                **(_of_files(found) if found else {}),
                "split": place.split,
                "fold": ",".join(map(str, place.folds)),
                "problem": problems.get(case.id, ""),
            }
        )
    return stream.getvalue()


def _of_case(case: Case) -> dict[str, str]:
    return {
        "case": case.id,
        "source": case.source,
        "subject": case.subject,
        "person": case.person,
        "session": case.session or "",
        "contrast": case.contrast,
        "pathology": case.pathology or "",
    }


def _of_files(found: Converted) -> dict[str, str]:
    return {
        "orientation": found.orientation,
        "spacing_mm": "x".join(f"{size:g}" for size in found.spacing_mm),
        "shape": "x".join(map(str, found.shape)),
        # of the image in RPI, as one would index it; empty: all of it
        "crop_rpi": ",".join(f"{start}:{stop}" for start, stop in found.crop or ()),
        "label_voxels": _by_target(found.label_voxels),
        "label_voxels_lost": _by_target(found.label_voxels_lost),
        "volume_mm3": _by_target(found.volume_mm3),
        "image_sha256": ",".join(found.image_sha256),
        "label_sha256": ",".join(found.label_sha256),
        "content_sha256": found.content_sha256,
    }


def _by_target(numbers: Mapping[str, float]) -> str:
    return ",".join(f"{name}:{number}" for name, number in numbers.items())
