"""Pretrained weights put into a network: fitted, or refused with what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import torch

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.nnunet.batches import seeded
from ca_hpc.store.digests import sha256_file

# The head: what nnU-Net's load_pretrained_weights makes anew for the labels at hand.
HEAD: Final = ".seg_layers."


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Names of the tensors: taken, left as initialised (the head), in the file but not needed.

    ``repeated``: how many input channels the weights have and the network, where they were
    repeated; None where the two agree.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    unused: tuple[str, ...]
    repeated: tuple[int, int] | None = None


def verified_sha256(path: Path, expected: str | None) -> str:
    """The file's sha256. Raises DigestMismatch unless it is ``expected`` (None expects nothing)."""
    if not path.is_file():
        raise CaHpcError(f"There are no weights at {path}.", hint="Check the path in the job spec.")
    found = sha256_file(path)
    if expected is not None and found != expected:
        raise DigestMismatch(
            f"{path} is sha256:{found}, recorded is sha256:{expected}.",
            hint="The file was changed or replaced; fetch the recorded one again.",
        )
    return found


def unwrapped(network: Any) -> Any:
    """The module inside DDP and torch.compile wrappers."""
    for wrapper in ("module", "_orig_mod"):
        network = getattr(network, wrapper, network)
    return network


def load_into(
    network: Any,
    weights: Mapping[str, torch.Tensor],
    *,
    stem: Literal["exact", "repeat"] = "exact",
    head: Literal["new", "pretrained"] = "new",
) -> LoadedWeights:
    """Copy ``weights`` into ``network``; a new head stays as initialised.

    With ``stem="repeat"`` channel i of the first convolution takes the weights of channel i mod K
    of the K that there are, divided by how often that one is taken: the same image in all channels
    gives the response that it had in one. Raises CaHpcError, and changes nothing, unless every
    tensor is there in the same shape.
    """
    module = unwrapped(network)
    own = module.state_dict()
    given = _under_all_names(module, weights)
    given, repeated = _with_stem(module, given, stem=stem)
    wanted = [name for name in own if HEAD not in name]
    if differing := _differing(wanted, own=own, weights=given):
        raise _misfit(differing, own=own, weights=given, count=len(wanted))
    heads = [name for name in own if HEAD in name]
    if head == "pretrained":
        if differing := _differing(heads, own=own, weights=given):
            raise _other_head(differing, own=own, weights=given)
        wanted, heads = [*wanted, *heads], []
    module.load_state_dict({**own, **{name: given[name] for name in wanted}})
    return LoadedWeights(
        loaded=tuple(wanted),
        skipped=tuple(heads),
        unused=tuple(name for name in weights if name not in own),
        repeated=repeated,
    )


def shuffle(network: Any, *, names: Iterable[str], seed: int) -> None:
    """Put the values of each named tensor in random places of the same tensor.

    A tensor with several names in the state dict is shuffled once, and is named by its first.
    """
    module, chosen = unwrapped(network), frozenset(names)
    tensors = chain(module.named_parameters(), module.named_buffers())
    for index, (name, tensor) in enumerate(tensors):
        if name in chosen:
            with seeded(seed, stream="shuffled weights", index=index):
                order = torch.randperm(tensor.numel()).to(tensor.device)
            values = tensor.detach()
            values.copy_(values.reshape(-1)[order].reshape(values.shape))


def _under_all_names(
    module: Any, weights: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """``weights``, where files that hold each parameter once are completed.

    nnU-Net's networks register many parameters twice, and the encoder again in the decoder.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    complete = dict(weights)
    for aliases in names.values():
        there = next((weights[name] for name in aliases if name in weights), None)
        if there is not None:
            complete.update({name: there for name in aliases if name not in weights})
    return complete


def _with_stem(
    module: Any, weights: Mapping[str, torch.Tensor], *, stem: str
) -> tuple[Mapping[str, torch.Tensor], tuple[int, int] | None]:
    """``weights`` for the network's number of input channels, and both numbers where they differ.

    The stem is the convolution that is registered first: with PlainConvUNet in the encoder's first
    stage, with ResidualEncoderUNet in ``encoder.stem``.
    """
    own = module.state_dict()
    names = _stem_names(module)
    there, here = (_shape(of, names[0]) if names else None for of in (weights, own))
    if there is None or here is None or there[1] == here[1]:
        return weights, None
    if there[:1] + there[2:] != here[:1] + here[2:]:
        return weights, None  # another network altogether
    if there[1] > here[1]:
        raise CaHpcError(
            f"The pretrained weights expect {there[1]} input channels, the images have {here[1]} "
            f"({_both_shapes(names[0], own=own, weights=weights)}).",
            hint="Give the images all of these channels: the first layer's responses are sums over "
            "them, and without one they are not what the other layers were trained on.",
        )
    if stem != "repeat":
        raise CaHpcError(
            f"The pretrained weights have {_count(there[1], 'input channel')}, the images have "
            f"{here[1]} ({_both_shapes(names[0], own=own, weights=weights)}).",
            hint="stem: repeat takes each channel's weights several times, scaled.",
        )
    repeated = _repeated(weights[names[0]], channels=here[1])
    return {**weights, **dict.fromkeys(names, repeated)}, (there[1], here[1])


def _stem_names(module: Any) -> list[str]:
    """The names, in the state dict, of the weight of the convolution registered first."""
    named = list(module.named_modules(remove_duplicate=False))
    first = next((of for _, of in named if isinstance(of, torch.nn.modules.conv._ConvNd)), None)
    return [f"{name}.weight" for name, of in named if of is first]


def _repeated(weight: torch.Tensor, *, channels: int) -> torch.Tensor:
    """(out, K, *kernel) to (out, channels, *kernel): the same response to a repeated image."""
    source = torch.arange(channels) % weight.shape[1]
    times = torch.bincount(source)[source]
    return weight[:, source] / times.reshape(-1, *[1] * (weight.ndim - 2))


def _shape(tensors: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _differing(
    names: Iterable[str], *, own: Mapping[str, Any], weights: Mapping[str, Any]
) -> list[str]:
    return [name for name in names if _shape(weights, name) != _shape(own, name)]


def _both_shapes(name: str, *, own: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    there = _shape(weights, name)
    return (
        f"{name}: {'missing' if there is None else there} in the file, "
        f"{_shape(own, name)} in the network"
    )


def _misfit(
    differing: list[str], *, own: Mapping[str, Any], weights: Mapping[str, Any], count: int
) -> CaHpcError:
    first = _both_shapes(differing[0], own=own, weights=weights)
    return CaHpcError(
        f"The pretrained weights do not fit the network: {len(differing)} of {count} tensors "
        f"differ, first {first}.",
        hint="Take the network from the weights: plans: model, with the profile of these weights.",
    )


def _other_head(
    differing: list[str], *, own: Mapping[str, Any], weights: Mapping[str, Any]
) -> CaHpcError:
    there = _shape(weights, differing[0])
    outputs = f"They have {_count(there[0], 'output')}" if there else "They have none here"
    wanted = own[differing[0]].shape[0]
    return CaHpcError(
        "The pretrained head cannot be taken: "
        f"{_both_shapes(differing[0], own=own, weights=weights)}.",
        hint=f"{outputs}, the data need {wanted}: of labels and the background one each, or one of "
        "each region. Set head: new; it is then trained from random weights.",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
