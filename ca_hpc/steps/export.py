"""A run's published folds as one zip, which stock nnU-Net installs and SCT reads.

Started by ``ca-hpc export``. What is in the zip depends on the run alone, to the byte; what is
private is not in it: no path, host, case name or prediction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import IO, Final

from ca_hpc.core.arms import arm_training
from ca_hpc.core.codec import decode
from ca_hpc.core.data_spec import Crop
from ca_hpc.core.export import REQUEST_NAME, ZIP_NAME, ExportRequest
from ca_hpc.core.spec import Training
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.folders import set_trainers
from ca_hpc.nnunet.plans import ARRAY_AXES
from ca_hpc.report.model_card import (
    CROPPED_SCORES,
    FoldScore,
    ModelCard,
    by_axis,
    crop_text,
    model_card,
    training_length,
)
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.weights import manifest
from ca_hpc.weights.checkpoint import read_checkpoint

MODEL_FILES: Final = ("dataset.json", "dataset_fingerprint.json", "plans.json")


def export(call: StepCall) -> None:
    """Write ``model.zip`` into the attempt folder, as its ``request.json`` says."""
    from ca_hpc.nnunet.model_zip import trainer_source, write_zip

    set_trainers(call.run.trainers)
    request = decode(ExportRequest, (call.attempt / REQUEST_NAME).read_text())
    folds = {fold: path for fold, path in call.run.folds(call.arm) if fold in request.folds}
    model = folds[request.folds[0]].parent
    trainer, _, _ = model.name.split("__")
    source = trainer_source(trainer)
    card = _card(call.run, arm=call.arm, request=request, folds=folds, own_trainer=bool(source))
    texts = {name: _normal_json(model / name) for name in MODEL_FILES}
    texts["README.md"] = model_card(card)
    if source is not None:
        texts["trainer_class.py"] = source
    members = {name: partial(_write_text, text) for name, text in texts.items()}
    checkpoints = {fold: path / request.checkpoint_name for fold, path in folds.items()}
    for done, (fold, file) in enumerate(sorted(checkpoints.items()), start=1):
        members[f"fold_{fold}/{file.name}"] = partial(
            _write_checkpoint, call, file, fold=fold, done=done, total=len(folds)
        )
    inside = f"{model.parent.name}/{model.name}"
    target = call.attempt / ZIP_NAME
    try:
        write_zip(
            target,
            {f"{inside}/{name}": member for name, member in members.items()},
            largest=max(file.stat().st_size for file in checkpoints.values()),
        )
    except OSError as error:
        raise CaHpcError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="free some space there, or export fewer folds: --folds 0",
        ) from error


def _write_text(text: str, stream: IO[bytes]) -> None:
    stream.write(text.encode())


def _write_checkpoint(
    call: StepCall, file: Path, stream: IO[bytes], *, fold: str, done: int, total: int
) -> None:
    from ca_hpc.nnunet.model_zip import write_reduced

    write_reduced(read_checkpoint(file), stream)
    call.emit({"event": "fold", "fold": fold, "done": done, "total": total})
    call.say(f"fold {fold}: {done} of {total}")


def _card(
    run: RunFolder,
    *,
    arm: str,
    request: ExportRequest,
    folds: Mapping[str, Path],
    own_trainer: bool,
) -> ModelCard:
    model = folds[request.folds[0]].parent
    trainer, plans_name, configuration = model.name.split("__")
    training = arm_training(run.spec.training, run.spec.arms[arm])
    splits = run.file("splits.json")
    folds_of_splits = json.loads(splits.read_text()) if splits.is_file() else ()
    return ModelCard(
        dataset=model.parent.name,
        trainer=trainer,
        plans=plans_name,
        configuration=configuration,
        checkpoint=request.checkpoint_name,
        validated_with=f"checkpoint_{run.spec.validation.checkpoint}.pth",
        scores=tuple(_score(fold, path) for fold, path in folds.items()),
        trained_on={
            str(fold): len(split["train"]) if training.epochs else 0
            for fold, split in enumerate(folds_of_splits)
        },
        facts=_facts(run, model),
        pins=_pins(run, arm, training=training),
        pretrained=_pretrained(run, arm),
        own_trainer=own_trainer,
    )


def _score(fold: str, folder: Path) -> FoldScore:
    content = json.loads((folder / "validation/summary.json").read_text())
    dice = content["foreground_mean"]["Dice"]
    return FoldScore(
        fold=fold,
        dice=math.nan if dice is None else float(dice),
        cases=len(content["metric_per_case"]),
    )


def _facts(run: RunFolder, model: Path) -> tuple[tuple[str, str], ...]:
    plans, dataset = (
        json.loads((model / name).read_text()) for name in ("plans.json", "dataset.json")
    )
    axes = [ARRAY_AXES[axis] for axis in plans["transpose_forward"]]
    crop = run.spec.crop
    return (
        ("orientation (SCT's code)", dataset["image_orientation"]),
        ("channels", ", ".join(dataset["channel_names"].values())),
        ("labels", ", ".join(f"{label} {value}" for label, value in dataset["labels"].items())),
        ("spacing, mm", by_axis(plans, "spacing")),
        ("patch, voxels", by_axis(plans, "patch_size")),
        ("axes of the network's arrays", ", ".join(axes)),
        (
            "cropped before the training",
            f"{crop_text(crop)}: crop images likewise; {CROPPED_SCORES}"
            if isinstance(crop, Crop)
            else "no",
        ),
    )


def _pins(run: RunFolder, arm: str, *, training: Training) -> tuple[tuple[str, str], ...]:
    pins, image = run.pins, run.workflow.runtime.image
    cases = [case for case in run.cases.cases if case.id in _seen(run)]
    return (
        ("run", f"{run.path.name}, arm {arm}, {pins.created}"),
        ("ca-hpc", pins.ca_hpc),
        ("nnU-Net", metadata.version("nnunetv2")),
        ("container image", f"sha256:{image.sha256}" if image else "none"),
        (
            "learnt and validated with",
            f"{len(cases)} images of {len({(c.people, c.person) for c in cases})} people",
        ),
        ("training", training_length(training)),
    )


def _seen(run: RunFolder) -> frozenset[str]:
    """The cases of training and validation: not those of test sets, nor those left out."""
    file = run.file("splits.json")
    if not file.is_file():
        return frozenset(case.id for case in run.cases.cases)
    folds = json.loads(file.read_text())
    return frozenset(case for fold in folds for part in fold.values() for case in part)


def _pretrained(run: RunFolder, arm: str) -> tuple[tuple[str, str], ...]:
    """Where the weights came from that the training began with; empty for random ones."""
    pin, model, taken = run.pins.weights, run.model, run.spec.arms[arm].weights
    if pin is None or taken == "random":
        return ()
    known = run.file("weights.json")
    told = [("weights", f"sha256:{pin.sha256}"), ("taken", taken)]
    if known.is_file():
        source = manifest.load(known.read_text(), place=str(known)).source
        told.append(("read from", f"{source.name}, sha256:{source.sha256}"))
    if model is not None:
        licence = model.licence or "not known: ask its authors before you pass this model on"
        page = model.release.page or model.release.url
        told += [("model", model.name), ("release", page or ""), ("licence", licence)]
        told.append(("citation", model.citation or ""))
    return tuple((what, value) for what, value in told if value)


def _normal_json(file: Path) -> str:
    return json.dumps(json.loads(file.read_text()), indent=4) + "\n"


if __name__ == "__main__":
    main(export)
