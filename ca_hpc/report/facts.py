"""What was done, for whoever reads a report years later: digests, data, arms, plans."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ca_hpc.core.arms import arm_training
from ca_hpc.core.data_spec import Crop, Folds, Scanned, Shares, SplitFile, Splits
from ca_hpc.core.record import Case, Cases, Origin
from ca_hpc.core.spec import Arm, JobSpec, Training
from ca_hpc.core.units import format_duration
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.folders import CONFIGURATION
from ca_hpc.report.case_rows import read_rows
from ca_hpc.report.model_card import CROPPED_SCORES, by_axis, crop_text, training_length
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.weights import manifest


def facts(
    run: RunFolder,
    spec: JobSpec,
    *,
    test_sets: Mapping[str, tuple[str, ...]],
    shown: Collection[str] = (),
) -> Iterator[tuple[str, str]]:
    """Names and values. What is missing in the run is left out, or said not to be known.

    ``shown``: warnings that the page has elsewhere.
    """
    workflow, pins, data = run.workflow, run.pins, run.cases
    cases = data.cases
    yield "ca-hpc", pins.ca_hpc
    yield "submitted", pins.created
    yield "cluster", run.cluster.name
    if (again := run.rerun) is not None:
        yield "rerun of", f"{again.of.path}, sha256:{again.of.sha256}"
        yield "allowed to differ from it", ", ".join(again.allowed) or "nothing"
    image = workflow.runtime.image
    yield "image", f"sha256:{image.sha256}" if image else "none (runtime: none)"
    yield "weights", ", ".join(_weights(run)) or "none"
    if (model := run.model) is not None:
        yield "model", model.name
    sources = ", ".join(dict.fromkeys(case.source for case in cases))
    yield "data", f"{_counted(cases)}, from {sources}"
    for origin in data.origins:
        yield f"origin of {origin.source}", _origin(origin)
    yield "learnt", ", ".join(_targets(data))
    yield (
        "crop",
        f"{crop_text(spec.crop)}; {CROPPED_SCORES}" if isinstance(spec.crop, Crop) else "none",
    )
    if lost := [n for n in _label_voxels_lost(run.file("cases.tsv")) if n > 0]:
        images = "1 image" if len(lost) == 1 else f"{len(lost)} images"
        yield "label voxels cut away", f"{sum(lost)} in {images}"
    yield "splits", splits_text(spec.splits)
    for position, source in enumerate(spec.data):
        if isinstance(source, Scanned) and source.split is not None:
            yield f"splits of {source.name or f's{position + 1}'}", splits_text(source.split)
    by_id = {case.id: case for case in cases}
    for name, ids in test_sets.items():
        yield f"test set {name}", _counted([by_id[case] for case in ids if case in by_id])
    yield "training seed", str(spec.training.seed)
    for name, arm in spec.arms.items():
        training = arm_training(spec.training, arm)
        told = (*_course(arm, training), *_plans_text(_plans(run, name)))
        yield f"arm {name}", "; ".join(told)
    seconds = sum(r.seconds for t in workflow.tasks if (r := run.result(t.id)) is not None)
    yield "task time", format_duration(seconds)
    for warning in pins.warnings:
        if warning not in shown:
            yield "warning", warning


def splits_text(splits: Splits) -> str:
    """How people were divided."""
    match splits:
        case Folds():
            held_out = f", test {splits.test:g} of each source's people" if splits.test else ""
            return f"{splits.folds} folds by person{held_out}, seed {splits.seed}"
        case Shares():
            parts = {"train": splits.train, "val": splits.val, "test": splits.test}
            told = ", ".join(f"{name} {share:g}" for name, share in parts.items() if share)
            return f"{told} of each source's people, seed {splits.seed}"
        case SplitFile():
            return f"from the lists in {splits.file}"


def _counted(cases: Sequence[Case]) -> str:
    people = len({(case.people or case.source, case.person) for case in cases})
    images = "1 image" if len(cases) == 1 else f"{len(cases)} images"
    return f"{images} of {'1 person' if people == 1 else f'{people} people'}"


def _origin(origin: Origin) -> str:
    """``URL, ref main, commit 0a1b…``."""
    named = {"ref": origin.ref, "commit": origin.commit}
    told = [f"{name} {value}" for name, value in named.items() if value]
    return ", ".join([origin.url, *told, *([f"sha256:{origin.sha256}"] if origin.sha256 else [])])


def _targets(data: Cases) -> Iterator[str]:
    """``cord (1, 2)``: what is learnt, and its values in the label map."""
    for name, values in data.targets.items():
        yield f"{name} ({', '.join(map(str, values))})"


def _weights(run: RunFolder) -> Iterator[str]:
    """Name, origin and digest of the weights; nothing if the run has none."""
    pin, file = run.pins.weights, run.file("weights.json")
    if pin is None:
        return
    try:
        known = manifest.load(file.read_text(), place=str(file))
    except (OSError, CaHpcError):
        known = None  # the digest alone still says which
    if known is not None:
        source = known.source
        yield from filter(None, (known.profile, source.name, source.member, source.url))
    yield f"sha256:{pin.sha256}"


def _label_voxels_lost(file: Path) -> tuple[int, ...]:
    """What the crop cut away of each case's labels; empty while it is not known."""
    return tuple(sum(row.lost.values()) for row in read_rows(file, ()))


def _course(arm: Arm, training: Training) -> Iterator[str]:
    """How an arm was trained. ``training``: with the arm's own settings in it."""
    head = "" if arm.weights == "random" else f", {arm.head} head"
    yield f"{arm.weights} weights{head}"
    yield training_length(training)
    yield training.trainer
    if training.initial_learning_rate is not None:
        yield f"initial learning rate {training.initial_learning_rate:g}"
    if training.warmup_epochs:
        yield f"warm-up epochs {training.warmup_epochs}"
    if training.frozen_encoder_epochs:
        yield f"epochs with a frozen encoder {training.frozen_encoder_epochs}"


def _plans(run: RunFolder, arm: str) -> Mapping[str, Any] | None:
    """The plans that the arm was trained by, or else is to be; None before they are made."""
    files = [folder.parent / "plans.json" for _, folder in run.folds(arm)][:1]
    if run.file("arms.json").is_file() and arm in (names := run.arm_plans):
        files.append(run.preprocessed / run.cases.dataset / f"{names[arm]}.json")
    for file in files:
        try:
            plans: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        return plans
    return None


def _plans_text(plans: Mapping[str, Any] | None) -> Iterator[str]:
    if plans is None:
        yield "plans not known"
        return
    yield f"plans {plans['plans_name']}"
    yield f"patch {by_axis(plans, 'patch_size')} voxels"
    yield f"spacing {by_axis(plans, 'spacing')} mm"
    yield f"batch {plans['configurations'][CONFIGURATION]['batch_size']}"
