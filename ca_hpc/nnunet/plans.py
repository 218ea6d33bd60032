"""Plans patched for a model's network. Pure: dictionaries in, dictionaries out.

Axes: images are stored in SCT's RPI, whose arrays nnU-Net's readers turn into (SI, AP, RL).
``transpose_forward`` then says which of these each axis of the network is. The weights expect the
axes that they were trained with; every kernel is 3x3x3, so that nothing but the result would
complain about others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from ca_hpc.core.profile import Model
from ca_hpc.core.spec import ByAxis, PatchSize, Plans
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.folders import CONFIGURATION

Axis = Literal["RL", "AP", "SI"]
ARRAY_AXES: Final[tuple[Axis, Axis, Axis]] = ("SI", "AP", "RL")  # of an RPI file


def patch_plans(
    plans: Mapping[str, Any], model: Model, *, plans_name: str, request: Plans
) -> dict[str, Any]:
    """The planner's plans with the model's network on the model's axes.

    Only ``3d_fullres`` stays: the others belong to the planner's own axes and network. A new
    ``data_identifier`` is given when the data must be preprocessed again. Raises CaHpcError for
    plans without 3d_fullres and for an illegal patch size.
    """
    if CONFIGURATION not in plans["configurations"]:
        raise CaHpcError(
            f"nnU-Net planned no {CONFIGURATION} for these data: the images are flat",
            hint="fine-tuning needs 3D images",
        )
    out = copy.deepcopy({k: v for k, v in plans.items() if k != "configurations"})
    own = copy.deepcopy(plans["configurations"][CONFIGURATION])
    before = list(plans["transpose_forward"])
    after = [ARRAY_AXES.index(axis) for axis in model.axes]

    def moved(values: Sequence[Any]) -> list[Any]:
        in_array_order = dict(zip(before, values, strict=True))
        return [in_array_order[axis] for axis in after]

    out["plans_name"] = plans_name
    out["transpose_forward"] = after
    out["transpose_backward"] = [after.index(axis) for axis in range(3)]
    for key in ("original_median_spacing_after_transp", "original_median_shape_after_transp"):
        out[key] = moved(plans[key])
    own["spacing"] = moved(own["spacing"])
    own["median_image_size_in_voxels"] = moved(own["median_image_size_in_voxels"])
    patch = request.patch_size or model.patch_size
    own["patch_size"] = [getattr(patch, axis) for axis in model.axes]
    own["batch_size"] = request.batch_size or model.batch_size
    own["architecture"] = {
        "network_class_name": model.network_class_name,
        "arch_kwargs": copy.deepcopy(dict(model.arch_kwargs)),
        "_kw_requires_import": list(model.requires_import),
    }
    if after != before:
        own["data_identifier"] = f"{plans_name}_{CONFIGURATION}"
    check_patch(patch, model)
    out["configurations"] = {CONFIGURATION: own}
    return out


def divisors(model: Model) -> dict[Axis, int]:
    """What the patch must be divisible by, per anatomical axis: the product of the strides."""
    strides = model.arch_kwargs["strides"]
    return {axis: math.prod(stage[i] for stage in strides) for i, axis in enumerate(model.axes)}


def check_patch(patch: PatchSize, model: Model) -> None:
    """Raise CaHpcError, with the nearest legal size, for a patch that the network cannot take.

    Legal: divisible by the strides' product, and more than one voxel left at the bottleneck
    (instance norm has nothing to normalise over one).
    """
    by = divisors(model)
    given = {axis: getattr(patch, axis) for axis in model.axes}
    bottleneck = math.prod(given[axis] / by[axis] for axis in model.axes)
    legal = {axis: max(1, round(given[axis] / by[axis])) * by[axis] for axis in model.axes}
    if math.prod(legal[axis] // by[axis] for axis in model.axes) < 2:
        legal["SI"] = 2 * by["SI"]
    if legal == given and bottleneck >= 2:
        return
    rule = ", ".join(f"{axis} by {by[axis]}" for axis in ("RL", "AP", "SI"))
    nearest = ", ".join(f"{axis}: {legal[axis]}" for axis in ("RL", "AP", "SI"))
    raise CaHpcError(
        f"plans.patch_size {given} does not fit the network: {rule}, and more than one voxel "
        "must be left at the bottleneck",
        hint=f"patch_size: {{{nearest}}}",
    )


def target_spacing(spacing: ByAxis | None) -> list[float] | None:
    """The planner's ``overwrite_target_spacing``: mm in the order of the array's axes."""
    return None if spacing is None else [float(getattr(spacing, axis)) for axis in ARRAY_AXES]


def model_from_network(
    *,
    name: str,
    architecture: Mapping[str, Any],
    patch_size: Sequence[int],
    spacing: Sequence[float],
    transpose_forward: Sequence[int],
    batch_size: int = 2,
) -> Model:
    """The model that a checkpoint's own plans describe (``pretrained.describe_network``).

    Its axes follow from its ``transpose_forward``, its training images being in RPI. Raises
    CaHpcError for a network that is not 3D.
    """
    if len(patch_size) != 3:
        raise CaHpcError(
            f"the weights belong to a {len(patch_size)}D network (patch size {list(patch_size)})",
            hint="give a checkpoint of a 3d_fullres training",
        )
    axes = tuple(ARRAY_AXES[i] for i in transpose_forward)
    return Model(
        name=name,
        axes=axes,  # type: ignore[arg-type]
        patch_size=PatchSize(**dict(zip(axes, patch_size, strict=True))),
        batch_size=batch_size,
        arch_kwargs=architecture["arch_kwargs"],
        network_class_name=architecture["network_class_name"],
        requires_import=tuple(architecture["_kw_requires_import"]),
        spacing=ByAxis(**dict(zip(axes, spacing, strict=True))),
    )
