"""Plans patched for a network. Pure: dictionaries in, dictionaries out.

Axes: images are stored in SCT's RPI, whose arrays nnU-Net's readers turn into (SI, AP, RL).
``transpose_forward`` then says which of these each axis of the network is. The weights expect the
axes that they were trained with; every kernel is 3x3x3, so that nothing but the result would
complain about others.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from ca_hpc.core.profile import Axis, Network
from ca_hpc.core.spec import ByAxis, PatchSize
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.folders import CONFIGURATION
from ca_hpc.weights.patch import divisors, is_legal, nearest_legal

ARRAY_AXES: Final[tuple[Axis, Axis, Axis]] = ("SI", "AP", "RL")  # of an RPI file
# What decides about the preprocessed data: plans that agree in it can share them.
_PREPROCESSING: Final = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)

# Where plans before nnU-Net 2.4 have their topology (plans_handler.py, ConfigurationManager).
# 2.8 converts these keys only where there is no "architecture"; left in, they would contradict it.
_OLD_TOPOLOGY: Final = (
    "UNet_class_name",
    "UNet_base_num_features",
    "unet_max_num_features",
    "conv_kernel_sizes",
    "pool_op_kernel_sizes",
    "num_pool_per_axis",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
)


def patch_plans(
    plans: Mapping[str, Any],
    network: Network,
    *,
    plans_name: str,
    patch_size: Sequence[int],
    batch_size: int,
    axes: Literal["anatomical", "recipe"] = "anatomical",
) -> dict[str, Any]:
    """The planner's plans with ``network`` in them, on its axes.

    ``patch_size``: voxels in the order of ``network.axes``. Only ``3d_fullres`` stays: the other
    configurations belong to the planner's own axes and network (``3d_cascade_fullres`` would
    inherit the patch). ``axes="recipe"`` leaves the planner's axes, so that the patch lies on other
    anatomical axes than in the pretraining. Works on plans of any nnU-Net 2. Raises CaHpcError for
    plans without 3d_fullres.
    """
    if CONFIGURATION not in plans["configurations"]:
        raise CaHpcError(
            f"nnU-Net planned no {CONFIGURATION} for these data: the images are flat",
            hint="fine-tuning needs 3D images",
        )
    out = copy.deepcopy({k: v for k, v in plans.items() if k != "configurations"})
    own = copy.deepcopy(plans["configurations"][CONFIGURATION])
    before = list(plans["transpose_forward"])
    anatomical = [ARRAY_AXES.index(axis) for axis in network.axes]
    after = anatomical if axes == "anatomical" else before

    def moved(values: Sequence[Any]) -> list[Any]:
        in_array_order = dict(zip(before, values, strict=True))
        return [in_array_order[axis] for axis in after]

    out["plans_name"] = plans_name
    out["transpose_forward"] = after
    out["transpose_backward"] = [after.index(axis) for axis in range(3)]
    for key in ("original_median_spacing_after_transp", "original_median_shape_after_transp"):
        out[key] = moved(plans[key])
    own["data_identifier"] = f"{plans_name}_{CONFIGURATION}"
    own["spacing"] = moved(own["spacing"])
    own["median_image_size_in_voxels"] = moved(own["median_image_size_in_voxels"])
    own["patch_size"] = list(patch_size)
    own["batch_size"] = batch_size
    for key in _OLD_TOPOLOGY:
        own.pop(key, None)
    own["architecture"] = {
        "network_class_name": network.network_class_name,
        "arch_kwargs": copy.deepcopy(dict(network.arch_kwargs)),
        "_kw_requires_import": list(network.requires_import),
    }
    out["configurations"] = {CONFIGURATION: own}
    return out


def along(axes: Sequence[Axis], by_axis: PatchSize | ByAxis) -> list[Any]:
    """The numbers of ``by_axis`` in the order of ``axes``."""
    return [getattr(by_axis, axis) for axis in axes]


def planned_patch(plans: Mapping[str, Any], network: Network) -> list[int]:
    """The planner's own patch (voxels) in the order of ``network.axes``."""
    own = plans["configurations"][CONFIGURATION]["patch_size"]
    by_axis = {ARRAY_AXES[i]: n for i, n in zip(plans["transpose_forward"], own, strict=True)}
    return [int(by_axis[axis]) for axis in network.axes]


def share_preprocessed(plans: Sequence[dict[str, Any]]) -> list[str]:
    """Give plans that need the same preprocessed data one ``data_identifier``, the first one's.

    Returns, for each of ``plans``, the name of the plans by which its data are preprocessed.
    """
    first: dict[str, tuple[str, str]] = {}
    by = []
    for one in plans:
        own = one["configurations"][CONFIGURATION]
        key = json.dumps([one["transpose_forward"], *(own.get(k) for k in _PREPROCESSING)])
        identifier, name = first.setdefault(
            key, (f"{one['plans_name']}_{CONFIGURATION}", one["plans_name"])
        )
        own["data_identifier"] = identifier
        by.append(name)
    return by


def check_patch(patch: PatchSize, network: Network) -> None:
    """Raise CaHpcError, with the nearest legal size, for a patch that the network cannot take.

    Legal: divisible by the strides' product, and more than one voxel left at the bottleneck
    (instance norm has nothing to normalise over one).
    """
    by = divisors(network.arch_kwargs)
    given = along(network.axes, patch)
    if is_legal(given, by):
        return
    legal = dict(zip(network.axes, nearest_legal(given, by), strict=True))
    each = dict(zip(network.axes, by, strict=True))
    rule = ", ".join(f"{axis} by {each[axis]}" for axis in ("RL", "AP", "SI"))
    told = ", ".join(f"{axis}: {getattr(patch, axis)}" for axis in ("RL", "AP", "SI"))
    nearest = ", ".join(f"{axis}: {legal[axis]}" for axis in ("RL", "AP", "SI"))
    raise CaHpcError(
        f"plans.patch_size {{{told}}} does not fit the network: it must be divisible, {rule}, and "
        "more than one voxel must be left at the bottleneck",
        hint=f"patch_size: {{{nearest}}}",
    )


def target_spacing(spacing: ByAxis | None) -> list[float] | None:
    """The planner's ``overwrite_target_spacing``: mm in the order of the array's axes."""
    return None if spacing is None else [float(n) for n in along(ARRAY_AXES, spacing)]
