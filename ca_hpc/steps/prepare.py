"""Stage prepare: the run's cases become a raw nnU-Net data set in RPI, split by person."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ca_hpc import processes
from ca_hpc.core.data_spec import Crop
from ca_hpc.core.profile import ORIENTATION
from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.convert import BadCase, Converted, convert_case
from ca_hpc.imaging.crop import Surroundings
from ca_hpc.imaging.splits import k_folds
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.store import atomic


def prepare(call: StepCall) -> None:
    """Write ``nnunet/raw/DATASET`` and ``splits.json``. Nothing is left when a case is bad."""
    spec, data = call.run.spec, call.run.cases
    splits = k_folds(data.cases, folds=spec.splits.folds, seed=spec.splits.seed)
    crop = None if spec.crop == "none" else spec.crop
    keep = None if crop is None else _surroundings(crop, data.labels)
    target = call.run.raw / data.dataset
    # of attempts that were killed: before the rename, or between it and the result
    for left in (*call.run.raw.glob(f".{data.dataset}.*"), target):
        shutil.rmtree(left, ignore_errors=True)
    draft = call.run.raw / f".{data.dataset}.{call.attempt.name}"
    images, labels = draft / "imagesTr", draft / "labelsTr"
    images.mkdir(parents=True)
    labels.mkdir()
    work = partial(_convert, images=images, labels=labels, values=dict(data.labels), keep=keep)
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
    count = channels.pop()
    unnamed = ("MRI",) if count == 1 else tuple(f"channel{i}" for i in range(count))
    dataset = {
        "channel_names": dict(enumerate(data.channel_names or unnamed)),
        "labels": {"background": 0, **data.labels},
        "numTraining": len(data.cases),
        "file_ending": ".nii.gz",
        "image_orientation": ORIENTATION,
        "crop": {"to": crop.to, "margin_mm": crop.margin} if crop else "none",
    }
    atomic.write_text(draft / "dataset.json", json.dumps(dataset, indent=2) + "\n")
    atomic.write_text(call.run.file("cases.tsv"), _table(data.cases, found))
    atomic.write_text(call.run.file("splits.json"), json.dumps(splits, indent=1) + "\n")
    draft.replace(target)
    people = len({case.person for case in data.cases})
    call.say(f"{len(found)} cases of {people} people in {target}")
    if crop:
        call.say(_about_crop(crop, found))


def _convert(
    case: Case,
    *,
    images: Path,
    labels: Path,
    values: dict[str, int],
    keep: Surroundings | None,
) -> Converted | str:
    """Converted, or what is wrong: a BadCase as text, since all of them are reported at once."""
    try:
        return convert_case(case, images=images, labels=labels, values=values, keep=keep)
    except BadCase as error:
        return error.message


def _surroundings(crop: Crop, labels: Mapping[str, int]) -> Surroundings:
    if crop.to not in labels:  # a raw nnU-Net data set has labels of its own
        raise CaHpcError(
            f"crop.to: the data have no label {crop.to}", hint=f"one of {', '.join(labels)}"
        )
    return Surroundings(value=labels[crop.to], margin_mm=crop.margin)


def _about_crop(crop: Crop, found: list[Converted]) -> str:
    """What the crop did to the cases; which ones is in ``cases.tsv``."""
    whole = sum(not each.cropped for each in found)
    losing = sum(each.label_voxels_lost > 0 for each in found)
    told = f"{len(found) - whole} of them cut to {crop.to} and {crop.margin:g} mm on each side"
    told += f", {whole} whole for want of {crop.to}" * bool(whole)
    return told + f"; {losing} lost a part of other labels" * bool(losing)


def _table(cases: tuple[Case, ...], found: list[Converted]) -> str:
    stream = io.StringIO()
    columns = ("case", "source", "subject", "person", "session", "contrast", "orientation",
               "spacing_mm", "shape", "label_voxels", "label_voxels_lost", "crop_rpi")  # fmt: skip
    writer = csv.DictWriter(
        stream, columns, dialect="excel-tab", lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    for case, converted in zip(cases, found, strict=True):
        row = {**asdict(case), **asdict(converted)}
        row["spacing_mm"] = "x".join(f"{z:g}" for z in converted.spacing_mm)
        row["shape"] = "x".join(map(str, converted.shape))
        # of the image in RPI, as one would index it; empty: all of it
        row["crop_rpi"] = ",".join(f"{start}:{stop}" for start, stop in converted.crop or ())
        writer.writerow(row)
    return stream.getvalue()


if __name__ == "__main__":
    main(prepare)
