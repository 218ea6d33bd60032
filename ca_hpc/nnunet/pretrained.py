"""Pretrained weights: read from nnU-Net checkpoints without running their code, and loaded."""

from __future__ import annotations

import codecs
import copy
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.nnunet.checkpoints import UNREADABLE
from ca_hpc.store.digests import sha256_file

# The head is made anew for the labels at hand, as in nnU-Net's load_pretrained_weights.
HEAD: Final = ".seg_layers."


def _numpy_globals() -> list[Any]:
    """What genuine checkpoints name beyond tensors: numpy scalars in ``logging``, ``_best_ema``.

    numpy 1 wrote ``numpy.core``, numpy 2 writes ``numpy._core``.
    """
    scalar = np.float64().__reduce__()[0]
    reconstruct = np.zeros(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "?efdgFDSU"}
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *dtypes,
        codecs.encode,
    ]


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Names of the tensors: taken, left as initialised (the head), in the file but not needed."""

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkDescription:
    """What a checkpoint's own plans say about its network.

    ``patch_size`` (voxels) and ``spacing`` (mm) are in the network's axis order, which is the
    order of the image array (nnU-Net's readers: last image axis first) permuted by
    ``transpose_forward``. ``architecture`` is in the form of nnU-Net 2.4 and later.
    """

    configuration: str
    architecture: Mapping[str, Any]
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    transpose_forward: tuple[int, ...]


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A nnU-Net checkpoint, its tensors on the CPU.

    Raises CaHpcError where the file is missing or broken, or names anything to be executed.
    """
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden is None:
            raise _broken(path) from error
        raise CaHpcError(
            f"{path} was not read: it would run {forbidden[1]}, "
            "and a checkpoint needs nothing but tensors and numbers.",
            hint="Do not load this file with other tools either unless you trust its origin.",
        ) from error
    except UNREADABLE as error:
        raise _broken(path) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("network_weights"), dict):
        raise CaHpcError(
            f"{path} is not a nnU-Net checkpoint: it has no network_weights.",
            hint="Give a checkpoint_final.pth or checkpoint_best.pth of nnU-Net 2.",
        )
    return checkpoint


def network_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a checkpoint's network by name, without the prefixes of DDP and compile."""
    return {
        name.removeprefix("module.").removeprefix("_orig_mod."): tensor
        for name, tensor in checkpoint["network_weights"].items()
    }


def describe_network(checkpoint: Mapping[str, Any]) -> NetworkDescription | None:
    """What ``init_args`` say about the network, or None where they say nothing.

    Configurations that inherit are resolved, and plans of nnU-Net before 2.4 are converted, by
    nnU-Net itself.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    arguments = checkpoint.get("init_args") or {}
    plans, name = arguments.get("plans"), arguments.get("configuration")
    if not isinstance(plans, dict) or not isinstance(name, str):
        return None
    if name not in plans.get("configurations", {}):
        return None
    plans = copy.deepcopy(plans)  # the conversion of old plans works in place
    configuration = PlansManager(plans).get_configuration(name).configuration
    return NetworkDescription(
        configuration=name,
        architecture=configuration["architecture"],
        patch_size=tuple(configuration["patch_size"]),
        spacing=tuple(configuration["spacing"]),
        transpose_forward=tuple(plans["transpose_forward"]),
    )


def unwrapped(network: Any) -> Any:
    """The module inside DDP and torch.compile wrappers."""
    for wrapper in ("module", "_orig_mod"):
        network = getattr(network, wrapper, network)
    return network


def load_into(network: Any, weights: Mapping[str, Any]) -> LoadedWeights:
    """Copy ``weights`` into ``network``, all but the head, which stays as initialised.

    Raises CaHpcError, and changes nothing, unless every other tensor is there in the same shape.
    """
    module = unwrapped(network)
    own = module.state_dict()
    wanted = [name for name in own if HEAD not in name]
    differing = [name for name in wanted if _shape(weights, name) != _shape(own, name)]
    if differing:
        raise _misfit(differing, own=own, weights=weights, count=len(wanted))
    module.load_state_dict({**own, **{name: weights[name] for name in wanted}})
    return LoadedWeights(
        loaded=tuple(wanted),
        skipped=tuple(name for name in own if HEAD in name),
        unused=tuple(name for name in weights if name not in own),
    )


def _shape(tensors: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _misfit(
    differing: list[str], *, own: Mapping[str, Any], weights: Mapping[str, Any], count: int
) -> CaHpcError:
    name = differing[0]
    there = _shape(weights, name)
    return CaHpcError(
        f"The pretrained weights do not fit the network: {len(differing)} of {count} tensors "
        f"differ, first {name}: {'missing' if there is None else there} in the file, "
        f"{_shape(own, name)} in the network.",
        hint="Take the topology from the checkpoint's own plans, and check the number of input "
        "channels.",
    )


def _broken(path: Path) -> CaHpcError:
    return CaHpcError(
        f"{path} cannot be read as a checkpoint: missing, truncated or not a torch file.",
        hint="Fetch or copy the file again and compare its sha256.",
    )
