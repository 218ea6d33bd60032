"""Patch and batch of the patched plans: what the network takes and the GPU holds. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ca_hpc.core.profile import Network
from ca_hpc.core.spec import Plans
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.folders import CONFIGURATION
from ca_hpc.nnunet.plans import along, planned_patch
from ca_hpc.weights.patch import divisors, nearest_legal, training_memory_gib
from ca_hpc.weights.topology import feature_map_size

# nnU-Net's planner: what it plans for where nobody says otherwise, and the share of the data set's
# voxels that one batch may hold (default_experiment_planner.py, 2.8.1)
PLANNED_MEMORY_MIB: Final = 8 * 1024
LARGEST_SHARE: Final = 0.05
SMALLEST_BATCH: Final = 2


def patch_and_batch(
    plans: Mapping[str, Any],
    network: Network,
    request: Plans,
    *,
    cases: int,
    memory_mib: int | None,
) -> tuple[list[int], int]:
    """Patch (voxels, in the order of ``network.axes``) and batch size for the patched plans.

    ``plans``: the planner's, at the target spacing. ``memory_mib``: of the GPU, for one training;
    None: not known. Raises CaHpcError where nothing fits.
    """
    patch = _patch(plans, network, request, memory_mib=memory_mib)
    return patch, request.batch_size or _batch(
        plans, network, patch, cases=cases, memory_mib=memory_mib
    )


def memory_gib(network: Network, patch: Sequence[int], *, batch_size: int) -> float:
    """GPU memory of a training, as nnU-Net's planner estimates it; 0 for an unknown network."""
    features = feature_map_size(
        network.arch_kwargs, network_class_name=network.network_class_name, patch=patch
    )
    if features is None:
        return 0.0
    return training_memory_gib(features, batch_size, network_class_name=network.network_class_name)


def check_memory(network: Network, request: Plans, *, memory_mib: int | None) -> Iterator[str]:
    """A sentence if the patch is likely to need more than the GPU has, even alone in its batch."""
    if memory_mib is None or request.patch_size == "auto":
        return
    patch = along(network.axes, request.patch_size or network.patch_size)
    batch = request.batch_size or 1
    need = memory_gib(network, patch, batch_size=batch)
    if need * 1024 > memory_mib:
        told = " x ".join(f"{axis} {n}" for axis, n in zip(network.axes, patch, strict=True))
        yield (
            f"plans: a patch of {told} and batch {batch} need about {need:.1f} GB of GPU memory, "
            f"each training has {memory_mib / 1024:.1f} (patch_size: auto)"
        )


def _patch(
    plans: Mapping[str, Any], network: Network, request: Plans, *, memory_mib: int | None
) -> list[int]:
    if request.patch_size != "auto":
        return along(network.axes, request.patch_size or network.patch_size)
    most = (memory_mib or PLANNED_MEMORY_MIB) / 1024
    batch = request.batch_size or SMALLEST_BATCH
    return list(
        nearest_legal(
            planned_patch(plans, network),
            divisors(network.arch_kwargs),
            fits=lambda patch: memory_gib(network, patch, batch_size=batch) <= most,
        )
    )


def _batch(
    plans: Mapping[str, Any],
    network: Network,
    patch: Sequence[int],
    *,
    cases: int,
    memory_mib: int | None,
) -> int:
    """As many voxels in a step as in the pretraining, if data set and GPU allow."""
    own = math.prod(along(network.axes, network.patch_size))
    batch: int = network.batch_size * own // math.prod(patch)
    median = plans["configurations"][CONFIGURATION]["median_image_size_in_voxels"]
    share = round(cases * math.prod(median) * LARGEST_SHARE / math.prod(patch))
    batch = max(min(batch, share), SMALLEST_BATCH)
    if memory_mib is None:
        return batch
    most = memory_mib / 1024
    while batch > 1 and memory_gib(network, patch, batch_size=batch) > most:
        batch -= 1
    if memory_gib(network, patch, batch_size=batch) > most:
        raise CaHpcError(
            f"a patch of {' x '.join(map(str, patch))} ({', '.join(network.axes)}) needs about "
            f"{memory_gib(network, patch, batch_size=1):.1f} GB of GPU memory at batch 1, there "
            f"are {most:g}",
            hint="plans.patch_size: auto, or batch_size to insist",
        )
    return batch
