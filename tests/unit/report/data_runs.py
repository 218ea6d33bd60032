"""Run folders that hold the files which assembling the data leaves: made here, row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ca_hpc.core.record import Case, Cases, LabelFile
from ca_hpc.store.run_folder import RunFolder

DATASET = "Dataset501_neck"
COLUMNS = (
    "case",
    "source",
    "subject",
    "person",
    "session",
    "contrast",
    "pathology",
    "split",
    "fold",
    "orientation",
    "spacing_mm",
    "shape",
    "crop_rpi",
    "label_voxels",
    "label_voxels_lost",
    "volume_mm3",
    "image_sha256",
    "label_sha256",
    "content_sha256",
    "problem",
)
Row = Mapping[str, str]


def row(case: str, *, source: str = "lab", person: str = "01", **more: str) -> Row:
    """A row of ``cases.tsv``: T2w, in the folds, cord and lesion in it, unless said otherwise."""
    known = {
        "case": case,
        "source": source,
        "subject": f"sub-{person}",
        "person": person,
        "contrast": "T2w",
        "split": "folds",
        "orientation": "RPI",
        "spacing_mm": "0.5x0.8x3",
        "shape": "24x32x16",
        "label_voxels": "cord:96,lesion:4",
        "label_voxels_lost": "cord:0,lesion:0",
        "volume_mm3": "cord:115.2,lesion:4.8",
    }
    return dict.fromkeys(COLUMNS, "") | known | more


def skipped(case: str, *, problem: str, **more: str) -> Row:
    """The row of a case that could not be read."""
    nothing = dict.fromkeys(
        ("orientation", "spacing_mm", "shape", "label_voxels", "label_voxels_lost", "volume_mm3"),
        "",
    )
    return row(case, split="skipped", problem=problem, **nothing, **more)


def cases_of(rows: Sequence[Row], *, people: str = "", **more: object) -> Cases:
    """The cases that ``rows`` are of, as found at submission."""
    found = tuple(
        Case(
            id=each["case"],
            source=each["source"],
            images=(f"/{each['case']}.nii.gz",),
            labels=(LabelFile(f"/{each['case']}-seg.nii.gz"),),
            subject=each["subject"],
            person=each["person"],
            session=None,
            contrast=each["contrast"],
            people=people or each["source"],
        )
        for each in rows
    )
    regions = {"cord": (1, 2), "lesion": (2,)}
    return Cases(DATASET, {"cord": 1, "lesion": 2}, found, regions=regions, **more)  # type: ignore[arg-type]


def write_rows(rows: Sequence[Row], file: Path) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, dialect="excel-tab", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def assembled(
    folder: Path,
    rows: Sequence[Row],
    *,
    folds: Sequence[Mapping[str, Sequence[str]]] = (),
    test_sets: Mapping[str, Sequence[str]] | None = None,
    **more: object,
) -> RunFolder:
    """A run whose data set has been made; ``more`` is said of its cases."""
    run = RunFolder.create(folder, "neck")
    run.write("cases.json", cases_of(rows, **more))  # type: ignore[arg-type]
    write_rows(rows, run.file("cases.tsv"))
    run.file("splits.json").write_text(json.dumps(list(folds)))
    run.file("test_sets.json").write_text(json.dumps(test_sets or {}))
    return run


def labels(*, shift: int = 0) -> nib.Nifti1Image:
    """A cord (1) with a lesion (2), in RPI, 1 mm."""
    values = np.zeros((16, 24, 12), dtype=np.uint8)
    values[6:10, 8 + shift : 14 + shift, :] = 1
    values[7:9, 9 + shift : 12 + shift, 4:8] = 2
    return nib.Nifti1Image(values, np.diag([-1.0, 1.0, 1.0, 1.0]))


def write_pair(run: RunFolder, case: str, *, part: str = "Tr") -> None:
    """Image and label of ``case`` in the raw data set."""
    for folder, name in ((f"images{part}", f"{case}_0000"), (f"labels{part}", case)):
        target = run.raw / DATASET / folder
        target.mkdir(parents=True, exist_ok=True)
        nib.save(labels(), target / f"{name}.nii.gz")
