"""From a network to its tensors' names and shapes, and from these back to the network. Pure.

A network is given as in nnU-Net's plans since 2.4 ("architecture"): the class and its keyword
arguments. Only the two classes that nnU-Net's own planners choose are known here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ca_hpc.errors import CaHpcError
from ca_hpc.weights.architecture import (
    AFFINE,
    BLOCKS,
    HEAD,
    STATISTICS,
    Shape,
    state_shapes,
    unet_of,
)
from ca_hpc.weights.foreign import refuse_foreign

_PATH: Final = "dynamic_network_architectures.architectures.unet."


@dataclass(frozen=True, slots=True)
class Topology:
    """A network that was recognised by its tensors.

    ``arch_kwargs``, ``network_class_name`` and ``requires_import`` as in nnU-Net's plans;
    ``channels`` of the input, ``heads`` of the output (None: the file has no head).
    """

    network_class_name: str
    arch_kwargs: Mapping[str, Any]
    requires_import: tuple[str, ...]
    channels: int
    heads: int | None


def tensor_shapes(
    arch_kwargs: Mapping[str, Any], *, network_class_name: str, channels: int, heads: int
) -> dict[str, Shape] | None:
    """Names and shapes of the network's ``state_dict()``, in its order, aliases included.

    None for a class, an option or a normalisation that is not known here. Raises CaHpcError for
    arguments that contradict each other.
    """
    unet = unet_of(arch_kwargs, network_class_name)
    return None if unet is None else state_shapes(unet, channels=channels, heads=heads)


def canonical_name(name: str) -> str:
    """The first of the names that one tensor has in nnU-Net's state_dict.

    ``decoder.encoder.stages.0.0.convs.0.all_modules.0.weight`` is
    ``encoder.stages.0.0.convs.0.conv.weight``.
    """
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    name = name.replace(".all_modules.0.", ".conv.")
    return re.sub(r"\.all_modules\.\d+\.", ".norm.", name)


def parameters(shapes: Mapping[str, Sequence[int]]) -> int:
    """How many numbers are trained: each tensor counted once, batch norm's statistics not."""
    own = {canonical_name(name): shape for name, shape in shapes.items()}
    return sum(math.prod(shape) for name, shape in own.items() if not name.endswith(STATISTICS))


def feature_map_size(
    arch_kwargs: Mapping[str, Any],
    *,
    network_class_name: str,
    patch: Sequence[int],
    heads: int = 2,
) -> int | None:
    """nnU-Net's measure of a patch's memory: numbers in the outputs of all convolutions.

    The same as ``network.compute_conv_feature_map_size(patch)`` without deep supervision, which is
    how nnU-Net's planners call it (``static_estimate_VRAM_usage``). ``patch``: voxels by axis of
    the network. None and errors as for ``tensor_shapes``.
    """
    unet = unet_of(arch_kwargs, network_class_name)
    if unet is None:
        return None
    total = unet.stem * math.prod(patch) if unet.residual else 0
    inputs, size = unet.stem, tuple(patch)
    skips: list[int] = []  # voxels of each stage's output
    for stage in unet.stages:
        before, size = size, tuple(n // by for n, by in zip(size, stage.stride, strict=True))
        convolutions = stage.blocks
        if unet.residual:
            has_skip = inputs != stage.features or size != before
            convolutions = 2 * stage.blocks + has_skip
        total += convolutions * stage.features * math.prod(size)
        skips.append(math.prod(size))
        inputs = stage.features
    for upper, voxels, blocks in zip(
        unet.stages[-2::-1], skips[-2::-1], unet.decoder_blocks, strict=True
    ):
        total += (blocks + 1) * upper.features * voxels  # with the transposed convolution
    return total + heads * skips[0]


def topology_of(shapes: Mapping[str, Sequence[int]]) -> Topology:
    """The network that tensors of these names and shapes belong to.

    The strides are those of the transposed convolutions (kernel == stride); the first stage's is 1.
    What has no tensors is taken as in nnU-Net's planners: leaky ReLU, no dropout. The tensors may
    be under any of their names, and the head may be missing. Raises CaHpcError saying what the file
    probably is, and what to do, when nnU-Net cannot take it.
    """
    refuse_foreign(shapes)
    own = {canonical_name(name): tuple(shape) for name, shape in shapes.items()}
    if any(re.search(r"\.all_modules\.[2-9]\.", name) for name in shapes):
        raise _undecided("its normalisation comes after dropout or after the nonlinearity")
    residual = any(name.startswith("encoder.stem.") for name in own)
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    try:
        arch_kwargs, channels = _derived(own, name)
    except (KeyError, IndexError, ValueError) as error:
        raise CaHpcError(
            f"the tensors' names are those of nnU-Net's {name}, but the network is not whole"
            + (f": there is no {error.args[0]}" if isinstance(error, KeyError) else ""),
            hint="give a checkpoint of the whole network",
        ) from error
    heads = [shape[0] for name, shape in own.items() if name.startswith(HEAD) and shape]
    topology = Topology(
        network_class_name=_PATH + name,
        arch_kwargs=arch_kwargs,
        requires_import=("conv_op", "norm_op", "dropout_op", "nonlin"),
        channels=channels,
        heads=heads[-1] if heads else None,
    )
    _check_complete(own, topology)
    return topology


def _derived(own: Mapping[str, Shape], name: str) -> tuple[dict[str, Any], int]:
    """Keyword arguments and input channels. Raises KeyError for a tensor that is not there."""
    residual = name == "ResidualEncoderUNet"
    per_stage = "blocks" if residual else "0.convs"
    first = "blocks.0.conv1" if residual else "0.convs.0"
    entry = "encoder.stem.convs.0" if residual else "encoder.stages.0.0.convs.0"
    blocks = _counts(own, rf"encoder\.stages\.(\d+)\.{re.escape(per_stage)}\.(\d+)\.")
    weights = [own[f"encoder.stages.{i}.{first}.conv.weight"] for i in range(len(blocks))]
    ups = [own[f"decoder.transpconvs.{i}.weight"] for i in range(len(blocks) - 1)]
    if any(len(shape) != 5 for shape in (*weights, *ups)):
        raise ValueError("kernels that are not 3D")
    options: dict[str, Any] = {
        "n_stages": len(blocks),
        "features_per_stage": [weight[0] for weight in weights],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [list(weight[2:]) for weight in weights],
        "strides": [[1, 1, 1], *(list(up[2:]) for up in reversed(ups))],
        BLOCKS[name]: blocks,
        "n_conv_per_stage_decoder": _counts(own, r"decoder\.stages\.(\d+)\.convs\.(\d+)\."),
        "conv_bias": f"{entry}.conv.bias" in own,
        **_norm_of(own, f"{entry}.norm."),
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    outputs, channels = own[f"{entry}.conv.weight"][:2]
    if residual and outputs != weights[0][0]:
        options["stem_channels"] = outputs
    return options, channels


def _counts(names: Iterable[str], pattern: str) -> list[int]:
    """How many blocks each stage has; the pattern's groups are the stage and the block."""
    found = {m.groups() for name in names if (m := re.match(pattern, name))}
    blocks = Counter(int(stage) for stage, _ in found)
    return [blocks[stage] for stage in sorted(blocks)]


def _norm_of(own: Mapping[str, Shape], prefix: str) -> dict[str, Any]:
    tensors = frozenset(name.removeprefix(prefix) for name in own if name.startswith(prefix))
    kinds = {
        frozenset(AFFINE): "torch.nn.modules.instancenorm.InstanceNorm3d",
        frozenset(AFFINE + STATISTICS): "torch.nn.modules.batchnorm.BatchNorm3d",
    }
    if tensors not in kinds:
        raise _undecided("its normalisation has no weights, or others than nnU-Net's")
    return {"norm_op": kinds[tensors], "norm_op_kwargs": {"eps": 1e-5, "affine": True}}


def _undecided(reason: str) -> CaHpcError:
    return CaHpcError(
        f"the network cannot be told from its tensors alone: {reason}",
        hint="give the nnU-Net results folder, or put its plans.json beside the checkpoint",
    )


def _check_complete(own: Mapping[str, Shape], topology: Topology) -> None:
    """Raise CaHpcError unless the derived network has these very tensors, the head aside."""
    expected = tensor_shapes(
        topology.arch_kwargs,
        network_class_name=topology.network_class_name,
        channels=topology.channels,
        heads=topology.heads or 1,
    )
    assert expected is not None  # it is of a class and with options of ours
    wanted = {canonical_name(name): shape for name, shape in expected.items()}
    wrong = [
        f"{name}: {_told(own.get(name))}, {_told(wanted.get(name))} expected"
        for name in sorted(own.keys() | wanted.keys())
        if own.get(name) != wanted.get(name) and not name.startswith(HEAD)
    ]
    if wrong:
        raise CaHpcError(
            f"the tensors are named as in nnU-Net's {topology.network_class_name}, but "
            f"{len(wrong)} of them do not fit it\n" + "\n".join(wrong[:3]),
            hint="the network was changed, or the file is not complete; nnU-Net cannot build it",
        )


def _told(shape: Shape | None) -> str:
    return "none" if shape is None else str(list(shape))
