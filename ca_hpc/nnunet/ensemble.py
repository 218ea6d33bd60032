"""All folds of a model as one: each case's logits are averaged over them, as nnU-Net does."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.calls import PredictionCall
from ca_hpc.nnunet.checkpoints import Emit, weights_sha256
from ca_hpc.nnunet.device import take_device
from ca_hpc.nnunet.pace import Pace
from ca_hpc.nnunet.raw_dataset import folders_of_test_set
from ca_hpc.nnunet.sliding_window import (
    Origin,
    claim,
    origin_of,
    predictor_of,
    take_over,
    write_segmentation,
)
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.nnunet.trainer_search import resolve_trainer
from ca_hpc.weights.checkpoint import read_checkpoint


def predict(call: PredictionCall, *, emit: Emit, pace: Pace) -> bool:
    """See ``prediction.predict_test_sets``, which sets the stage for this."""
    device = take_device(call.device, threads=call.torch_threads)
    checkpoints = {fold: read_checkpoint(file) for fold, file in call.checkpoints.items()}
    weights = {fold: as_torch(checkpoint.tensors) for fold, checkpoint in checkpoints.items()}
    origin = Origin(
        {fold: weights_sha256(tensors) for fold, tensors in weights.items()},
        tile_step=call.tile_step,
        mirroring=call.mirroring,
        probabilities=call.probabilities,
    )
    plans_manager = PlansManager(json.loads((call.model_folder / "plans.json").read_text()))
    configuration_manager = plans_manager.get_configuration(call.configuration)
    dataset_json = json.loads((call.model_folder / "dataset.json").read_text())
    first, *_ = checkpoints.values()  # the folds' trainers are the same, so their axes are, too
    predictor = predictor_of(
        _network(call, plans_manager, configuration_manager, dataset_json),
        plans_manager=plans_manager,
        configuration_manager=configuration_manager,
        dataset_json=dataset_json,
        trainer_name=call.trainer,
        mirroring_axes=first.content.get("inference_allowed_mirroring_axes"),
        device=device,
        origin=origin,
        weights=list(weights.values()),
    )
    ending = dataset_json["file_ending"]
    for test_set in call.test_sets:
        claim(call.output_folder / test_set, origin=origin, ending=ending)
    cases = [(test_set, case) for test_set, ids in call.test_sets.items() for case in ids]
    try:
        for done, (test_set, case) in enumerate(cases, start=1):
            folder = call.output_folder / test_set
            others = [other / test_set for other in call.earlier_folders]
            trusted = [folder, *(other for other in others if origin_of(other) == origin)]
            targets = origin.files(folder, case=case, ending=ending)
            reused = take_over(targets, folders=trusted)
            if not reused:
                if reason := pace.reason_to_stop("case"):
                    emit(pace.stopping(reason))
                    return False
                with pace.measured("case"):
                    _predict(call, predictor, test_set=test_set, case=case, targets=targets)
            emit(
                {
                    "event": "case",
                    "set": test_set,
                    "case": case,
                    "done": done,
                    "total": len(cases),
                    "reused": reused,
                }
            )
    finally:
        compute_gaussian.cache_clear()
    return True


def _network(
    call: PredictionCall,
    plans_manager: Any,
    configuration_manager: Any,
    dataset_json: Mapping[str, Any],
) -> Any:
    """The network, which is the trainer's to build; as nnU-Net's predictor does."""
    build: Any = resolve_trainer(call.trainer).build_network_architecture  # type: ignore[attr-defined]
    numbers = (
        determine_num_input_channels(plans_manager, configuration_manager, dataset_json),
        plans_manager.get_label_manager(dataset_json).num_segmentation_heads,
    )
    if "plans_manager" in inspect.signature(build).parameters:
        return build(plans_manager, configuration_manager, *numbers, enable_deep_supervision=False)
    return build(  # of trainers for nnU-Net before 2.8
        configuration_manager.network_arch_class_name,
        configuration_manager.network_arch_init_kwargs,
        configuration_manager.network_arch_init_kwargs_req_import,
        *numbers,
        enable_deep_supervision=False,
    )


def _predict(
    call: PredictionCall, predictor: Any, *, test_set: str, case: str, targets: tuple[Path, ...]
) -> None:
    configuration, dataset_json = predictor.configuration_manager, predictor.dataset_json
    images, _ = folders_of_test_set(test_set)
    files = [
        call.raw_folder / images / f"{case}_{int(channel):04d}{dataset_json['file_ending']}"
        for channel in dataset_json["channel_names"]
    ]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise CaHpcError(
            f"There is no {missing[0]}, which test_sets.json names.",
            hint="The run's raw data set was changed; submit the job again.",
        )
    preprocessor = configuration.preprocessor_class(verbose=False)
    image, _, properties = preprocessor.run_case(
        [str(file) for file in files], None, predictor.plans_manager, configuration, dataset_json
    )
    logits = predictor.predict_logits_from_preprocessed_data(
        torch.from_numpy(image).to(dtype=torch.float32, memory_format=torch.contiguous_format)
    )
    write_segmentation(predictor, logits, properties=properties, targets=targets)
