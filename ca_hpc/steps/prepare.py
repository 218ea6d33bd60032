"""Stage prepare: the run's cases become a raw nnU-Net data set in RPI, split by person."""

from __future__ import annotations

import csv
import io
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ca_hpc import processes
from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.convert import ORIENTATION, BadCase, Converted, convert_case
from ca_hpc.imaging.splits import k_folds
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.store import atomic


def prepare(call: StepCall) -> None:
    """Write ``nnunet/raw/DATASET`` and ``splits.json``. Nothing is left when a case is bad."""
    spec, data = call.run.spec, call.run.cases
    splits = k_folds(data.cases, folds=spec.splits.folds, seed=spec.splits.seed)
    target = call.run.raw / data.dataset
    # of attempts that were killed: before the rename, or between it and the result
    for left in (*call.run.raw.glob(f".{data.dataset}.*"), target):
        shutil.rmtree(left, ignore_errors=True)
    draft = call.run.raw / f".{data.dataset}.{call.attempt.name}"
    images, labels = draft / "imagesTr", draft / "labelsTr"
    images.mkdir(parents=True)
    labels.mkdir()
    work = partial(_convert, images=images, labels=labels, values=dict(data.labels))
    found: list[Converted] = []
    bad: list[str] = []
    workers = min(call.cpus, len(data.cases))
    # forked workers wait for ever when their parent is killed: they hold each other's queue open
    with ProcessPoolExecutor(workers, initializer=processes.end_with_parent) as pool:
        for done, outcome in enumerate(pool.map(work, data.cases), start=1):
            (bad if isinstance(outcome, str) else found).append(outcome)  # type: ignore[arg-type]
            call.emit({"event": "case", "done": done, "total": len(data.cases)})
    if bad:
        shutil.rmtree(draft)
        raise CaHpcError(
            f"{len(bad)} of {len(data.cases)} cases cannot be used\n" + "\n".join(bad),
            hint="repair them, or exclude them from `data:`, and submit again",
        )
    channels = {len(case.images) for case in data.cases}
    if len(channels) != 1:
        shutil.rmtree(draft)
        raise CaHpcError(
            f"cases have different numbers of channels: {sorted(channels)}",
            hint="give every case the same channels",
        )
    names = {0: "MRI"} if channels == {1} else {i: f"channel{i}" for i in range(channels.pop())}
    dataset = {
        "channel_names": {str(i): name for i, name in names.items()},
        "labels": {"background": 0, **data.labels},
        "numTraining": len(data.cases),
        "file_ending": ".nii.gz",
        "image_orientation": ORIENTATION,
    }
    atomic.write_text(draft / "dataset.json", json.dumps(dataset, indent=2) + "\n")
    atomic.write_text(call.run.file("cases.tsv"), _table(data.cases, found))
    atomic.write_text(call.run.file("splits.json"), json.dumps(splits, indent=1) + "\n")
    draft.replace(target)
    people = len({case.person for case in data.cases})
    call.say(f"{len(found)} cases of {people} people in {target}")


def _convert(case: Case, *, images: Path, labels: Path, values: dict[str, int]) -> Converted | str:
    """Converted, or what is wrong: a BadCase as text, since all of them are reported at once."""
    try:
        return convert_case(case, images=images, labels=labels, values=values)
    except BadCase as error:
        return error.message


def _table(cases: tuple[Case, ...], found: list[Converted]) -> str:
    stream = io.StringIO()
    columns = ("case", "source", "subject", "person", "session", "contrast", "orientation",
               "spacing_mm", "shape", "label_voxels")  # fmt: skip
    writer = csv.DictWriter(
        stream, columns, dialect="excel-tab", lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    for case, converted in zip(cases, found, strict=True):
        row = {**asdict(case), **asdict(converted)}
        row["spacing_mm"] = "x".join(f"{z:g}" for z in converted.spacing_mm)
        row["shape"] = "x".join(map(str, converted.shape))
        writer.writerow(row)
    return stream.getvalue()


if __name__ == "__main__":
    main(prepare)
