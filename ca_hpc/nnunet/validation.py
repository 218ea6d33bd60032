"""Predict and score the validation cases of a fold, one after the other, in this process.

Stands in for nnU-Net's ``perform_actual_validation``, whose tile step and mirroring are fixed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from ca_hpc.nnunet.checkpoints import Emit, replacing
from ca_hpc.nnunet.interruption import Interrupted
from ca_hpc.nnunet.pace import Pace
from ca_hpc.nnunet.sliding_window import (
    Origin,
    claim,
    origin_of,
    predictor_of,
    take_over,
    write_segmentation,
)


def validate_fold(
    trainer: Any,
    *,
    origin: Origin,
    earlier_folders: Sequence[Path],
    emit: Emit,
    pace: Pace,
) -> Path:
    """Predict the trainer's validation cases with the weights it holds; return ``summary.json``.

    Predictions of the same origin in ``earlier_folders`` (other attempts' validation folders) are
    taken over. Raises Interrupted before a case where a signal asked to stop, or where there is no
    time for it.
    """
    folder = Path(trainer.output_folder) / "validation"
    ending = trainer.dataset_json["file_ending"]
    claim(folder, origin=origin, ending=ending)
    trusted = [folder, *(other for other in earlier_folders if origin_of(other) == origin)]
    _, cases = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, list(cases))
    predictor = predictor_of(
        trainer.network,
        plans_manager=trainer.plans_manager,
        configuration_manager=trainer.configuration_manager,
        dataset_json=trainer.dataset_json,
        trainer_name=type(trainer).__name__,
        mirroring_axes=trainer.inference_allowed_mirroring_axes,
        device=trainer.device,
        origin=origin,
    )
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    try:
        for done, case in enumerate(dataset.identifiers, start=1):
            targets = origin.files(folder, case=case, ending=ending)
            reused = take_over(targets, folders=trusted)
            if not reused:
                if reason := pace.reason_to_stop("case"):
                    emit(pace.stopping(reason))
                    raise Interrupted
                with pace.measured("case"):
                    _predict(predictor, case=case, dataset=dataset, targets=targets)
            emit(
                {
                    "event": "validation",
                    "case": case,
                    "done": done,
                    "total": len(dataset.identifiers),
                    "reused": reused,
                }
            )
    finally:
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        compute_gaussian.cache_clear()
    return _write_summary(trainer, folder=folder, cases=dataset.identifiers)


def _predict(predictor: Any, *, case: str, dataset: Any, targets: Sequence[Path]) -> None:
    image, _, _, properties = dataset.load_case(case)
    # Copied, since the file is mapped read-only and torch wants to write.
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(image[:])))
    write_segmentation(predictor, logits, properties=properties, targets=targets)


def _write_summary(trainer: Any, *, folder: Path, cases: Sequence[str]) -> Path:
    """Score as nnU-Net does; the layout of ``summary.json`` is nnU-Net's."""
    manager = trainer.label_manager
    labels = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    reference_folder = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
    ending = trainer.dataset_json["file_ending"]
    scores = [
        compute_metrics(
            str(reference_folder / (case + ending)),
            str(folder / (case + ending)),
            trainer.plans_manager.image_reader_writer_class(),
            labels,
            manager.ignore_label,
        )
        for case in cases
    ]
    summary = {"metric_per_case": scores, **_means(scores, labels=labels)}
    for part in (*scores, summary["mean"], summary["foreground_mean"]):
        recursive_fix_for_json_export(part)
    target = folder / "summary.json"
    with replacing(target) as partial:
        save_summary_json(summary, str(partial))
    return target


def _means(scores: Sequence[Mapping[str, Any]], *, labels: Sequence[Any]) -> dict[str, Any]:
    """Per label over the cases that define a score, then over the labels."""
    metrics = list(scores[0]["metrics"][labels[0]])
    with warnings.catch_warnings():
        # A label that no case has, in reference or prediction, has no Dice: NaN, as in nnU-Net.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = {
            label: {m: np.nanmean([s["metrics"][label][m] for s in scores]) for m in metrics}
            for label in labels
        }
    foreground = {m: np.mean([of[m] for label, of in mean.items() if label != 0]) for m in metrics}
    return {"mean": mean, "foreground_mean": foreground}
