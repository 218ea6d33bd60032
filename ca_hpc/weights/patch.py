"""Which patch sizes a network can take, and what they cost. Pure; axes are the network's own."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from ca_hpc.errors import CaHpcError

Patch = tuple[int, ...]

# What nnU-Net's planners call 8 GB with a batch of 2: ``UNet_reference_val_3d`` in
# default_experiment_planner.py and residual_encoder_unet_planners.py. Measured there with mixed
# precision and deep supervision. ResEnc L and XL (2.1e9 for 24 GB, 3.6e9 for 40 GB) are on the
# same line within 6 %.
REFERENCE: Final = {"PlainConvUNet": 560_000_000, "ResidualEncoderUNet": 680_000_000}
REFERENCE_GIB: Final = 8
REFERENCE_BATCH: Final = 2


def divisors(arch_kwargs: Mapping[str, Any]) -> Patch:
    """What a patch must be divisible by, per axis: the product of all stages' strides."""
    strides = arch_kwargs["strides"]
    axes = max((len(stage) for stage in strides if not isinstance(stage, int)), default=3)
    by_stage = [(stage,) * axes if isinstance(stage, int) else stage for stage in strides]
    return tuple(math.prod(axis) for axis in zip(*by_stage, strict=True))


def is_legal(patch: Sequence[int], divisors: Sequence[int]) -> bool:
    """Whether the network can train on ``patch``: divisible, and more than one voxel left at the
    bottleneck (instance norm has nothing to normalise over one)."""
    left = [divmod(size, by) for size, by in zip(patch, divisors, strict=True)]
    return all(rest == 0 for _, rest in left) and math.prod(voxels for voxels, _ in left) > 1


def always(patch: Patch) -> bool:
    """No limit on the size of a patch."""
    return True


def nearest_legal(
    patch: Sequence[int], divisors: Sequence[int], *, fits: Callable[[Patch], bool] = always
) -> Patch:
    """The legal size closest to ``patch`` for which ``fits`` holds.

    Distance is Euclidean over the logarithms of the sizes, so that halving an axis counts as much
    as doubling it. ``fits`` must hold for every size that is smaller than one for which it holds,
    as it is with memory. Raises CaHpcError when not even the smallest legal size fits.
    """
    # Nothing further up than the next multiple can be closest. The second is needed where one
    # voxel would be left on every axis.
    choices = [
        [by * n for n in range(1, max(2, math.ceil(size / by)) + 1)]
        for size, by in zip(patch, divisors, strict=True)
    ]
    for candidate in _by_distance(patch, choices):
        if is_legal(candidate, divisors) and fits(candidate):
            return candidate
    raise CaHpcError(
        f"no patch fits, and the network takes only multiples of {' x '.join(map(str, divisors))}",
        hint="a smaller batch_size, a GPU with more memory, or a smaller network",
    )


def _by_distance(patch: Sequence[int], choices: Sequence[Sequence[int]]) -> Iterator[Patch]:
    """All combinations of the axes' choices, closest first, none computed before it is needed."""
    ranked = [
        sorted((math.log(choice / size) ** 2, choice) for choice in axis)
        for size, axis in zip(patch, choices, strict=True)
    ]

    def entry(ranks: Patch) -> tuple[float, Patch]:
        return sum(axis[rank][0] for axis, rank in zip(ranked, ranks, strict=True)), ranks

    start = (0,) * len(ranked)
    waiting, seen = [entry(start)], {start}
    while waiting:
        _, ranks = heapq.heappop(waiting)
        yield tuple(axis[rank][1] for axis, rank in zip(ranked, ranks, strict=True))
        for i, axis in enumerate(ranked):
            further = (*ranks[:i], ranks[i] + 1, *ranks[i + 1 :])
            if further[i] < len(axis) and further not in seen:
                seen.add(further)
                heapq.heappush(waiting, entry(further))


def training_memory_gib(
    feature_map_size: int, batch_size: int, *, network_class_name: str
) -> float:
    """About how much GPU memory a training takes, as nnU-Net's planners reckon it.

    Proportional to ``topology.feature_map_size`` and to the batch. A class without a reference of
    its own is reckoned as PlainConvUNet.
    """
    name = network_class_name.rpartition(".")[2]
    reference = REFERENCE.get(name, REFERENCE["PlainConvUNet"])
    return REFERENCE_GIB * feature_map_size / reference * batch_size / REFERENCE_BATCH
