"""A checkpoint, whatever program wrote it: the tensors of its network, and plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from ca_hpc.errors import CaHpcError
from ca_hpc.weights import safetensors_file
from ca_hpc.weights.inert_pickle import Opaque
from ca_hpc.weights.tensors import Tensor, Tensors, distinct
from ca_hpc.weights.torch_file import SAVE_AGAIN, read_torch_file
from ca_hpc.weights.zip_file import FETCH_AGAIN

Family: TypeAlias = Literal["nnU-Net", "Lightning", "state dict", "safetensors"]

# What training wraps around a network: Lightning modules of this field, DDP, torch.compile.
PREFIXES: Final = ("net.", "module.", "_orig_mod.")
# Where programs put the network's tensors.
WEIGHTS_KEYS: Final = ("network_weights", "state_dict", "model_state_dict", "model")
DEEPEST: Final = 50
MOST_VALUES: Final = 500_000  # of one entry; 1000 epochs log some 10,000

_LFS: Final = b"version https://git-lfs"
# The first bytes of what is given in place of a checkpoint; the first that fits is told.
_NO_CHECKPOINT: Final[tuple[tuple[bytes, str, str], ...]] = (
    (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "is in the layout of torch before 1.6, which can only be unpickled",
        "Where you trust it, torch.save(torch.load(FILE, weights_only=True), NEW) writes today's.",
    ),
    (b"\x80", "is a plain pickle: nnU-Net 1 and others write these beside weights", SAVE_AGAIN),
    (b"<", "is a web page", "Download the file itself; a login or a release page came instead."),
    (_LFS, "is a Git LFS pointer, not the file", "Fetch the file itself: git lfs pull."),
    (b"\x89HDF", "is an HDF5 file (Keras)", "Give a checkpoint of nnU-Net 2."),
    (b"\x1f\x8b", "is packed with gzip", "Unpack it and give the checkpoint in it."),
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``tensors`` by their names in the network, without the ``prefix`` that all had.

    ``content``: the file's other entries that are plain values; ``left_out``: what is not here and
    why, as "optimizer_state (tensors)".
    """

    family: Family
    tensors: Tensors
    prefix: str
    content: Mapping[str, Any]
    left_out: tuple[str, ...]

    @property
    def aliases(self) -> dict[str, str]:
        """For each name of a tensor that has several but the shortest: the shortest."""
        return safetensors_file.aliases_of(self.tensors)


def read_checkpoint(path: Path, *, trust: bool = False) -> Checkpoint:
    """Any checkpoint, recognised by its bytes. Its tensors' values are read when asked for.

    Nothing of the file is run. Raises CaHpcError where it is damaged, no checkpoint or holds no
    weights, and where it names what is neither tensor nor number: with ``trust`` that is left out.
    """
    if not path.is_file():
        raise CaHpcError(f"There are no weights at {path}.", hint="Check the path.")
    if path.name.endswith((".model", ".model.pkl")):
        raise _of_nnunet_1(path)
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"PK"):
        return _checkpoint(read_torch_file(path, trust=trust), path=path)
    if start[8:9] == b"{":
        whole = _checkpoint(safetensors_file.read(path), path=path)
        return replace(whole, family="safetensors")
    for signature, told, hint in _NO_CHECKPOINT:
        if start.startswith(signature):
            raise CaHpcError(f"{path} {told}.", hint=hint)
    size = path.stat().st_size
    raise CaHpcError(
        f"{path} ({size} bytes) is {'no checkpoint' if size else 'empty'}.", hint=FETCH_AGAIN
    )


def check_finite(tensors: Tensors, *, file: Path) -> None:
    """Read all values. Raises CaHpcError where one of ``file``'s is NaN or infinite."""
    for name, tensor in distinct(tensors).items():
        array = tensor.array()
        if np.isfinite(array).all():
            continue
        kind = "NaN" if np.isnan(array).any() else "infinite"
        count = array.size - int(np.isfinite(array).sum())
        raise CaHpcError(
            f"{file} is of no use: {count} of the {array.size} values of {name} are {kind}.",
            hint="Its training diverged: give an earlier or another checkpoint.",
        )


def _checkpoint(saved: Any, *, path: Path) -> Checkpoint:
    if not isinstance(saved, dict):
        raise CaHpcError(
            f"{path} holds a {type(saved).__name__}, not a checkpoint's dict.", hint=SAVE_AGAIN
        )
    if {"plot_stuff", "state_dict"} <= saved.keys():
        raise _of_nnunet_1(path)
    key = next((key for key in WEIGHTS_KEYS if isinstance(saved.get(key), dict)), None)
    weights = saved if key is None else saved[key]
    tensors = {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise _without_weights(saved, path)
    prefix = _prefix(tensors)
    inside = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    content, left_out = _plain_part(
        {
            **({} if key is None else {name: saved[name] for name in saved if name != key}),
            **{name: value for name, value in weights.items() if not isinstance(value, Tensor)},
        }
    )
    left_out += [f"{name} (outside of {prefix})" for name in tensors if name not in inside]
    return Checkpoint(
        family=_family(saved, key),
        tensors={name.removeprefix(prefix): tensor for name, tensor in inside.items()},
        prefix=prefix,
        content=content,
        left_out=tuple(left_out),
    )


def _family(saved: Mapping[Any, Any], key: str | None) -> Family:
    if key == "network_weights":
        return "nnU-Net"
    return "Lightning" if "pytorch-lightning_version" in saved else "state dict"


def _prefix(names: Iterable[str]) -> str:
    """What wrappers put before the network's names: those of a loss beside it do not have it."""
    prefix = ""
    while longer := [p for p in PREFIXES if any(n.startswith(prefix + p) for n in names)]:
        prefix += longer[0]
    return prefix


def _without_weights(saved: Mapping[Any, Any], path: Path) -> CaHpcError:
    names = [str(name)[:40] for name in saved]
    optimizer = any("optimizer" in name or name == "param_groups" for name in names)
    return CaHpcError(
        f"{path} holds no weights{', only the state of an optimizer' if optimizer else ''}: "
        f"its entries are {names[:10]}.",
        hint="Give a checkpoint with a network in it: nnU-Net's checkpoint_final.pth, or a state "
        "dict.",
    )


def _of_nnunet_1(path: Path) -> CaHpcError:
    return CaHpcError(
        f"{path} was written by nnU-Net 1, whose networks nnU-Net 2 cannot load.",
        hint="Use a checkpoint that was trained with nnU-Net 2.",
    )


class _NotPlain(Exception):
    """A value that no JSON file could hold."""


def _plain_part(entries: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    content, left_out = {}, []
    for name, value in entries.items():
        try:
            content[str(name)] = _plain(value, depth=0, visited=count())
        except _NotPlain as reason:
            left_out.append(f"{name} ({reason})")
    return content, left_out


def _plain(value: Any, *, depth: int, visited: Iterator[int]) -> Any:
    """A copy. In a pickle's lists, one list can be in many places, itself included."""
    if depth > DEEPEST or next(visited) > MOST_VALUES:
        raise _NotPlain("too large")
    if isinstance(value, Opaque):
        raise _NotPlain(value.name)
    if isinstance(value, Tensor):
        raise _NotPlain("tensors")
    if isinstance(value, dict):
        return {
            key: _plain(member, depth=depth + 1, visited=visited) for key, member in value.items()
        }
    if isinstance(value, list | tuple):
        members = (_plain(member, depth=depth + 1, visited=visited) for member in value)
        return tuple(members) if isinstance(value, tuple) else list(members)
    if not isinstance(value, str | int | float | NoneType):
        raise _NotPlain(type(value).__name__)
    return value
