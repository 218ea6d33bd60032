"""Predict and score the validation cases of a fold, one after the other, in this process.

Stands in for nnU-Net's ``perform_actual_validation``: its spawned pool imports torch once more per
process, its tile step and mirroring are fixed, and it starts over after every interruption.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from ca_hpc.nnunet.checkpoints import Emit, link_or_copy, replacing
from ca_hpc.nnunet.interruption import Interrupted, StopRequest

ORIGIN_NAME: Final = "predicted_by.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What made predictions: the same origin, the same predictions.

    ``tile_step`` is the sliding window's step as a share of the patch.
    """

    weights_sha256: str
    tile_step: float
    mirroring: bool
    probabilities: bool

    def files(self, folder: Path, *, case: str, ending: str) -> tuple[Path, ...]:
        """What predicting a case leaves in ``folder``: the segmentation, and what goes with it."""
        # nnU-Net's names: the probabilities, and the image's properties that they belong to
        endings = (ending, ".npz", ".pkl") if self.probabilities else (ending,)
        return tuple(folder / (case + of) for of in endings)


def validate_fold(
    trainer: Any,
    *,
    origin: Origin,
    earlier_folders: Sequence[Path],
    emit: Emit,
    stop: StopRequest,
) -> Path:
    """Predict the trainer's validation cases with the weights it holds; return ``summary.json``.

    Predictions of the same origin in ``earlier_folders`` (other attempts' validation folders) are
    taken over. Raises Interrupted after the current case where a signal asked to stop.
    """
    folder = Path(trainer.output_folder) / "validation"
    ending = trainer.dataset_json["file_ending"]
    _claim(folder, origin=origin, ending=ending)
    trusted = [folder, *(other for other in earlier_folders if _origin_of(other) == origin)]
    _, cases = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, list(cases))
    predictor = _predictor(trainer, origin=origin)
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    try:
        for done, case in enumerate(dataset.identifiers, start=1):
            targets = origin.files(folder, case=case, ending=ending)
            reused = _take_over(targets, folders=trusted)
            if not reused:
                _predict(trainer, predictor, case=case, dataset=dataset, targets=targets)
            emit(
                {
                    "event": "validation",
                    "case": case,
                    "done": done,
                    "total": len(dataset.identifiers),
                    "reused": reused,
                }
            )
            if stop.asked:
                raise Interrupted
    finally:
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        compute_gaussian.cache_clear()
    return _write_summary(trainer, folder=folder, cases=dataset.identifiers)


def _origin_of(folder: Path) -> Origin | None:
    try:
        return Origin(**json.loads((folder / ORIGIN_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _claim(folder: Path, *, origin: Origin, ending: str) -> None:
    """Make the folder one of ``origin``: predictions of another one go."""
    folder.mkdir(parents=True, exist_ok=True)
    if _origin_of(folder) == origin:
        return
    for pattern in (f"*{ending}", "*.npz", "*.pkl"):
        for stale in folder.glob(pattern):
            stale.unlink()
    with replacing(folder / ORIGIN_NAME) as partial:
        partial.write_text(json.dumps(asdict(origin)))


def _take_over(targets: Sequence[Path], *, folders: Sequence[Path]) -> bool:
    for folder in folders:
        sources = [folder / target.name for target in targets]
        if all(source.is_file() for source in sources):
            for source, target in zip(sources, targets, strict=True):
                link_or_copy(source, target)
            return True
    return False


def _predictor(trainer: Any, *, origin: Origin) -> Any:
    predictor = nnUNetPredictor(
        tile_step_size=origin.tile_step,
        use_gaussian=True,
        use_mirroring=origin.mirroring,
        perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    return predictor


def _predict(
    trainer: Any, predictor: Any, *, case: str, dataset: Any, targets: Sequence[Path]
) -> None:
    image, _, _, properties = dataset.load_case(case)
    # Copied, since the file is mapped read-only and torch wants to write.
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(image[:])))
    ending = trainer.dataset_json["file_ending"]
    with ExitStack() as stack:
        partials = [stack.enter_context(replacing(target)) for target in targets]
        export_prediction_from_logits(
            logits.cpu(),
            properties,
            trainer.configuration_manager,
            trainer.plans_manager,
            trainer.dataset_json,
            str(partials[0]).removesuffix(ending),
            save_probabilities=len(targets) > 1,
            num_threads_torch=torch.get_num_threads(),
        )


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
