"""Fingerprint, plans and preprocessing, by calling nnU-Net's own classes.

nnU-Net is imported inside the functions: its folders must be set first (``folders.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.folders import CONFIGURATION
from ca_hpc.store import atomic

# the names that people use for nnU-Net's presets of residual encoders
SHORT: Final = {f"ResEnc{size}": f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")}
FEW_PROCESSES = 8  # as nnU-Net's default_num_processes; each costs memory for a whole image


def fingerprint(dataset: str, *, processes: int) -> None:
    """``dataset_fingerprint.json`` in the preprocessed folder."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )

    DatasetFingerprintExtractor(dataset, min(processes, FEW_PROCESSES)).run(overwrite_existing=True)


def plan(
    dataset: str,
    planner_name: str,
    *,
    gpu_memory_mib: int | None,
    spacing: Sequence[float] | None,
    plans_name: str | None = None,
) -> dict[str, Any]:
    """A planner's plans, also written to the preprocessed folder.

    ``spacing``: mm along the array's axes (SI, AP, RL), None: the planner's choice. ``plans_name``:
    None for the planner's own. Raises CaHpcError for a planner that nnU-Net does not have.
    """
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = str(Path(nnunetv2.__path__[0]) / "experiment_planning")
    planner = recursive_find_python_class(
        folder,
        SHORT.get(planner_name, planner_name),
        current_module="nnunetv2.experiment_planning",
    )
    if planner is None:
        raise CaHpcError(
            f"planner: nnU-Net has no planner {planner_name}",
            hint="ExperimentPlanner, ResEncM, ResEncL, ResEncXL, or a class of nnU-Net by its name",
        )
    options: dict[str, Any] = {} if plans_name is None else {"plans_name": plans_name}
    if gpu_memory_mib is not None:
        options["gpu_memory_target_in_gb"] = gpu_memory_mib / 1024
    plans: dict[str, Any] = planner(
        dataset, overwrite_target_spacing=spacing, **options
    ).plan_experiment()
    return plans


def write_plans(plans: Mapping[str, Any], folder: Path) -> None:
    """``folder/PLANS_NAME.json``."""
    text = json.dumps(plans, indent=4) + "\n"
    atomic.write_text(folder / f"{plans['plans_name']}.json", text)


def preprocess(dataset: str, *, plans_name: str, processes: int) -> None:
    """Preprocessed cases of 3d_fullres and, once, ``gt_segmentations``."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    number = int(dataset.removeprefix("Dataset").split("_", 1)[0])  # it takes no names
    preprocess_dataset(number, plans_name, (CONFIGURATION,), [min(processes, FEW_PROCESSES)])


def build_network(plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> Any:
    """The untrained network of the plans' 3d_fullres, on the CPU."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    configuration = manager.get_configuration(CONFIGURATION)
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, configuration, dataset_json),
        manager.get_label_manager(dataset_json).num_segmentation_heads,
        allow_init=False,
        deep_supervision=True,
    )
