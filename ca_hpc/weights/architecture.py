"""nnU-Net's two U-Nets: their stages, and the names and shapes of their tensors. Pure.

From the class name and keyword arguments as in nnU-Net's plans since 2.4 ("architecture"). Source
of every name and shape: dynamic_network_architectures, ``architectures/unet.py`` and
``building_blocks/``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ca_hpc.errors import CaHpcError

Shape = tuple[int, ...]

# what the plans call the number of blocks per stage, by class
BLOCKS: Final = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
_OPTIONS: Final = {
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "conv_bias",
    "n_conv_per_stage_decoder", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs",
    "nonlin", "nonlin_kwargs", "deep_supervision",
}  # fmt: skip
_OWN_OPTIONS: Final = {
    "PlainConvUNet": {"n_conv_per_stage", "nonlin_first"},
    "ResidualEncoderUNet": {"n_blocks_per_stage", "stem_channels"},
}
AFFINE: Final = ("weight", "bias")
STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")
HEAD: Final = "decoder.seg_layers."


@dataclass(frozen=True, slots=True)
class Style:
    """What all convolution layers have in common; ``norm_at``: the norm's index in the layer."""

    bias: bool
    norm: tuple[str, ...]
    norm_at: int = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """One resolution of the encoder. ``blocks``: convolutions, or residual blocks of two each."""

    features: int
    kernel: Shape
    stride: Shape
    blocks: int


@dataclass(frozen=True, slots=True)
class UNet:
    """A PlainConvUNet or a ResidualEncoderUNet. ``stem``: features of the latter's first layer."""

    residual: bool
    stages: tuple[Stage, ...]
    decoder_blocks: tuple[int, ...]
    stem: int
    style: Style


def unet_of(arch_kwargs: Mapping[str, Any], network_class_name: str) -> UNet | None:
    """The network of these keyword arguments, or None where something of it is not known here.

    Raises CaHpcError for arguments that contradict each other.
    """
    # nnU-Net, too, goes by the last word where the path has changed (get_network_from_plans)
    name = network_class_name.rpartition(".")[2]
    if name not in BLOCKS or set(arch_kwargs) - _OPTIONS - _OWN_OPTIONS[name]:
        return None
    norm = _norm_tensors(arch_kwargs.get("norm_op"), arch_kwargs.get("norm_op_kwargs") or {})
    if norm is None:
        return None
    needed = ("n_stages", "conv_op", "features_per_stage", "kernel_sizes", "strides", BLOCKS[name],
              "n_conv_per_stage_decoder")  # fmt: skip
    if missing := [key for key in needed if key not in arch_kwargs]:
        raise CaHpcError(
            f"arch_kwargs of {name} lack {', '.join(missing)}",
            hint="repair the plans or the model profile",
        )
    count, axes = arch_kwargs["n_stages"], int(arch_kwargs["conv_op"][-2])  # …Conv3d

    def by_stage(key: str, *, stages: int = count) -> list[Any]:
        value = arch_kwargs[key]
        values = [value] * stages if isinstance(value, int) else list(value)
        if len(values) != stages:
            raise CaHpcError(
                f"arch_kwargs.{key} has {len(values)} entries, {stages} are needed for "
                f"{count} stages",
                hint="repair the plans or the model profile",
            )
        return values

    def by_axis(key: str) -> list[Shape]:
        return [(v,) * axes if isinstance(v, int) else tuple(v) for v in by_stage(key)]

    columns = zip(
        by_stage("features_per_stage"),
        by_axis("kernel_sizes"),
        by_axis("strides"),
        by_stage(BLOCKS[name]),
        strict=True,
    )
    stages = tuple(Stage(*column) for column in columns)
    nonlin_first = arch_kwargs.get("nonlin_first", False) and arch_kwargs.get("nonlin") is not None
    return UNet(
        residual=name == "ResidualEncoderUNet",
        stages=stages,
        decoder_blocks=tuple(by_stage("n_conv_per_stage_decoder", stages=count - 1)),
        stem=arch_kwargs.get("stem_channels") or stages[0].features,
        style=Style(
            bias=arch_kwargs.get("conv_bias", False),
            norm=norm,
            norm_at=1 + (arch_kwargs.get("dropout_op") is not None) + nonlin_first,
        ),
    )


def state_shapes(unet: UNet, *, channels: int, heads: int) -> dict[str, Shape]:
    """Names and shapes of the network's ``state_dict()``, in its order, aliases included."""
    encoder = _encoder(unet, channels=channels)
    # the decoder keeps a reference to the encoder, which makes all of it appear twice
    twice = {f"decoder.{name}": shape for name, shape in encoder.items()}
    return encoder | twice | _decoder(unet, heads=heads)


def _norm_tensors(norm_op: str | None, options: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of a normalisation's tensors (torch.nn), None where it is not known here."""
    if norm_op is None:
        return ()
    kind = re.fullmatch(r"(?:.*\.)?(Instance|Batch)Norm[123]d", norm_op)
    if kind is None:
        return None
    default = kind[1] == "Batch"
    affine = options.get("affine", default)
    tracked = options.get("track_running_stats", default)
    return (AFFINE if affine else ()) + (STATISTICS if tracked else ())


def _layer(
    name: str, *, inputs: int, outputs: int, kernel: Shape, style: Style
) -> dict[str, Shape]:
    """A convolution and its normalisation; both appear a second time in ``all_modules``."""
    conv: dict[str, Shape] = {"weight": (outputs, inputs, *kernel)}
    if style.bias:
        conv["bias"] = (outputs,)
    norm: dict[str, Shape] = {
        tensor: () if tensor == "num_batches_tracked" else (outputs,) for tensor in style.norm
    }
    parts: dict[str, dict[str, Shape]] = {
        "conv": conv,
        "norm": norm,
        "all_modules.0": conv,
        f"all_modules.{style.norm_at}": norm,
    }
    return {
        f"{name}.{part}.{tensor}": shape
        for part, tensors in parts.items()
        for tensor, shape in tensors.items()
    }


def _residual_block(
    name: str, *, inputs: int, stage: Stage, pooled: bool, style: Style
) -> dict[str, Shape]:
    """BasicBlockD: only its first convolution has dropout, and its skip has no bias."""
    bare = replace(style, norm_at=1)
    outputs, kernel = stage.features, stage.kernel
    shapes = _layer(f"{name}.conv1", inputs=inputs, outputs=outputs, kernel=kernel, style=style)
    shapes |= _layer(f"{name}.conv2", inputs=outputs, outputs=outputs, kernel=kernel, style=bare)
    if inputs != outputs:
        shapes |= _layer(
            f"{name}.skip.{int(pooled)}",  # behind the average pooling, if there is one
            inputs=inputs,
            outputs=outputs,
            kernel=(1,) * len(kernel),
            style=replace(bare, bias=False),
        )
    return shapes


def _encoder(unet: UNet, *, channels: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    inputs, style = channels, unet.style
    if unet.residual:
        kernel = unet.stages[0].kernel
        shapes |= _layer(
            "encoder.stem.convs.0", inputs=inputs, outputs=unet.stem, kernel=kernel, style=style
        )
        inputs = unet.stem
    for number, stage in enumerate(unet.stages):
        for block in range(stage.blocks):
            if unet.residual:
                pooled = block == 0 and any(step != 1 for step in stage.stride)
                name = f"encoder.stages.{number}.blocks.{block}"
                shapes |= _residual_block(
                    name, inputs=inputs, stage=stage, pooled=pooled, style=style
                )
            else:
                shapes |= _layer(
                    f"encoder.stages.{number}.0.convs.{block}",
                    inputs=inputs,
                    outputs=stage.features,
                    kernel=stage.kernel,
                    style=style,
                )
            inputs = stage.features
    return shapes


def _decoder(unet: UNet, *, heads: int) -> dict[str, Shape]:
    """Decoder stages are counted from the bottleneck upwards."""
    stages: dict[str, Shape] = {}
    ups: dict[str, Shape] = {}
    segments: dict[str, Shape] = {}
    upwards = unet.stages[::-1]
    pairs = zip(upwards, upwards[1:], unet.decoder_blocks, strict=False)
    for number, (lower, upper, blocks) in enumerate(pairs):
        features = upper.features
        for block in range(blocks):
            stages |= _layer(
                f"decoder.stages.{number}.convs.{block}",
                inputs=features if block else 2 * features,  # the first one takes the skip as well
                outputs=features,
                kernel=upper.kernel,
                style=unet.style,
            )
        ups[f"decoder.transpconvs.{number}.weight"] = (lower.features, features, *lower.stride)
        if unet.style.bias:
            ups[f"decoder.transpconvs.{number}.bias"] = (features,)
        ones = (1,) * len(upper.kernel)
        segments[f"{HEAD}{number}.weight"] = (heads, features, *ones)
        segments[f"{HEAD}{number}.bias"] = (heads,)
    return stages | ups | segments
