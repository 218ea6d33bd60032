"""Networks that are not nnU-Net's U-Nets, recognised by the names of their tensors. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ca_hpc.errors import CaHpcError


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file: what its tensors' names look like, what it is, what to do."""

    pattern: str
    told: str
    hint: str


_OTHER: Final = (
    "weights fit only the network that they were trained in: give a checkpoint of nnU-Net 2, or of "
    "its PlainConvUNet or ResidualEncoderUNet trained elsewhere (*_nnunet_compatible)"
)
_ENCODER: Final = Foreign(
    r"(encoder\.)?(stages|stem)\.",
    "an encoder without its decoder, probably of a self-supervised (nnssl) pretraining",
    # in the repository, but not in the package of release 2.8.1
    "nnU-Net's repository has its own commands for these: nnUNetv2_preprocess_like_nnssl and "
    "nnUNetv2_train_pretrained",
)
_V1: Final = "nnU-Net 2 cannot load it: use a checkpoint that was trained with nnU-Net 2"

# The names are those of each project's modules. First match wins.
FOREIGN: Final = (
    Foreign(r"model\.\d+\.(conv|submodule|adn)\.|model\.\d+\.\d+\.", "MONAI's UNet", _OTHER),
    Foreign(r"swinViT\.", "MONAI's SwinUNETR", _OTHER),
    Foreign(r"vit\.", "MONAI's UNETR, or another vision transformer", _OTHER),
    Foreign(r"(input_block|downsamples|upsamples|skip_layers)\.", "MONAI's DynUNet", _OTHER),
    Foreign(r"(convInit|down_layers)\.", "MONAI's SegResNet", _OTHER),
    Foreign(r"conv_0\.conv_0\.|upcat_\d\.", "MONAI's BasicUNet", _OTHER),
    Foreign(r"conv3d_c1_1\.", "ivadomed's Modified3DUNet", _OTHER),
    Foreign(r"(eva|down_projection|up_projection)\.", "nnU-Net's Primus, a transformer", _OTHER),
    Foreign(r"conv_blocks_(context|localization)\.", "a network of nnU-Net 1", _V1),
)


def refuse_foreign(shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise CaHpcError, in plain words, unless the names are those of a 3D U-Net of nnU-Net.

    ``shapes``: names and shapes of all tensors.
    """
    if not shapes:
        raise CaHpcError("there are no tensors", hint="give a checkpoint of a network")
    for kind in FOREIGN:
        if any(re.match(kind.pattern, name) for name in shapes):
            raise _refusal(kind)
    _refuse_prefix(shapes)
    if not any(name.startswith("decoder.stages.") for name in shapes):
        if any(re.match(_ENCODER.pattern, name) for name in shapes):
            raise _refusal(_ENCODER)
        some = ", ".join(list(shapes)[:3])
        raise CaHpcError(f"these are not the weights of a network of nnU-Net: {some}", hint=_OTHER)
    if any(len(shape) == 4 for shape in shapes.values()):
        raise CaHpcError(
            "the weights belong to a 2D network: its kernels have two axes",
            hint="give a checkpoint of a 3d_fullres training",
        )


def _refuse_prefix(shapes: Mapping[str, Sequence[int]]) -> None:
    for name in shapes:
        found = re.match(r"(.+?\.)(?:decoder\.)?encoder\.(?:stages|stem)\.", name)
        if found and found[1] != "decoder.":
            raise CaHpcError(
                f"the tensors are nnU-Net's, but behind a prefix that is not known: {found[1]!r} "
                f"(as in {name})",
                hint=f"save them again without it: name.removeprefix({found[1]!r})",
            )


def _refusal(kind: Foreign) -> CaHpcError:
    return CaHpcError(f"the tensors' names are those of {kind.told}", hint=kind.hint)
