"""Segmentations by nnU-Net's sliding window, in this process, each with a record of its origin.

nnU-Net's own commands spawn pools that import torch once more per process, and start over after
every interruption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from ca_hpc.nnunet.checkpoints import link_or_copy, replacing

ORIGIN_NAME: Final = "predicted_by.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What made predictions: the same origin, the same predictions.

    ``weights_sha256``: over the tensors (``checkpoints.weights_sha256``), by fold. ``tile_step``:
    the sliding window's step as a share of the patch.
    """

    weights_sha256: Mapping[str, str]
    tile_step: float
    mirroring: bool
    probabilities: bool

    def files(self, folder: Path, *, case: str, ending: str) -> tuple[Path, ...]:
        """What predicting a case leaves in ``folder``: the segmentation, and what goes with it."""
        # nnU-Net's names: the probabilities, and the image's properties that they belong to
        endings = (ending, ".npz", ".pkl") if self.probabilities else (ending,)
        return tuple(folder / (case + of) for of in endings)


def origin_of(folder: Path) -> Origin | None:
    """The origin of the predictions in ``folder``; None where it is not recorded."""
    try:
        return Origin(**json.loads((folder / ORIGIN_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def outdated(published: Path, *, by: Path) -> bool:
    """Whether the predictions in ``by`` are to take the place of those in ``published``.

    Both hold a folder per test set. Those by fewer folds never do, nor do fewer of the same: they
    are of a copy of the task that began before the others were trained, or came to no end.
    """
    there, here = _origins(published), _origins(by)
    if there == here:
        return _files(published) < _files(by)
    folds, new_folds = ({f for origin in of for f in origin.weights_sha256} for of in (there, here))
    return folds <= new_folds


def _origins(sets: Path) -> list[Origin]:
    found = (origin_of(folder) for folder in sorted(sets.iterdir()))
    return [origin for origin in found if origin is not None]


def _files(sets: Path) -> set[Path]:
    """Whole ones: what is being written has a dot before its name."""
    return {file.relative_to(sets) for file in sets.glob("*/[!.]*")}


def claim(folder: Path, *, origin: Origin, ending: str) -> None:
    """Make the folder one of ``origin``: predictions of another one go."""
    folder.mkdir(parents=True, exist_ok=True)
    if origin_of(folder) == origin:
        return
    for pattern in (f"*{ending}", "*.npz", "*.pkl"):
        for stale in folder.glob(pattern):
            stale.unlink()
    with replacing(folder / ORIGIN_NAME) as partial:
        partial.write_text(json.dumps(asdict(origin)))


def take_over(targets: Sequence[Path], *, folders: Sequence[Path]) -> bool:
    """Let ``targets`` be the files of these names in the first of ``folders`` that has them all."""
    for folder in folders:
        sources = [folder / target.name for target in targets]
        if all(source.is_file() for source in sources):
            for source, target in zip(sources, targets, strict=True):
                link_or_copy(source, target)
            return True
    return False


def predictor_of(
    network: Any,
    *,
    plans_manager: Any,
    configuration_manager: Any,
    dataset_json: Mapping[str, Any],
    trainer_name: str,
    mirroring_axes: Sequence[int] | None,
    device: torch.device,
    origin: Origin,
    weights: Sequence[Mapping[str, torch.Tensor]] | None = None,
) -> Any:
    """nnU-Net's predictor. ``weights``: of several folds, whose logits are averaged."""
    predictor = nnUNetPredictor(
        tile_step_size=origin.tile_step,
        use_gaussian=True,
        use_mirroring=origin.mirroring,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network,
        plans_manager,
        configuration_manager,
        weights,
        dataset_json,
        trainer_name,
        mirroring_axes,
    )
    return predictor


def write_segmentation(
    predictor: Any,
    logits: torch.Tensor,
    *,
    properties: Mapping[str, Any],
    targets: Sequence[Path],
) -> None:
    """Bring logits (channel and the network's axes) onto the image's grid, and write ``targets``.

    ``properties``: of the image, as its preprocessing left them. ``targets``: ``Origin.files``.
    """
    ending = predictor.dataset_json["file_ending"]
    with ExitStack() as stack:
        partials = [stack.enter_context(replacing(target)) for target in targets]
        export_prediction_from_logits(
            logits.cpu(),
            properties,
            predictor.configuration_manager,
            predictor.plans_manager,
            predictor.dataset_json,
            str(partials[0]).removesuffix(ending),
            save_probabilities=len(targets) > 1,
            num_threads_torch=torch.get_num_threads(),
        )
