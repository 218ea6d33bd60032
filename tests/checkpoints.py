"""Checkpoints of the true shape, made here: the released weights cannot be fetched everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ca_hpc import configs
from ca_hpc.core.profile import Network
from ca_hpc.weights import describe
from ca_hpc.weights.manifest import Source
from ca_hpc.weights.safetensors_file import write
from ca_hpc.weights.store import Entry, WeightStore
from ca_hpc.weights.tensors import Tensor
from ca_hpc.weights.topology import canonical_name, tensor_shapes


def network_of(model: str) -> Network:
    network = configs.model(model, relative_to=Path()).network
    assert network is not None
    return network


def build(network: Network, *, channels: int = 1, heads: int = 2) -> Any:
    """The torch module of a profile's network, with the random weights of the moment."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    imported = {
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
    }
    arguments = {**network.arch_kwargs, **imported}
    return PlainConvUNet(channels, num_classes=heads, deep_supervision=True, **arguments)


def write_checkpoint(file: Path, *, model: str, seed: int = 0) -> None:
    """A file with the keys of nnU-Net's checkpoints and the network of a model profile.

    Its weights are random but the same for the same seed, and so are its bytes: the file's name
    goes into what ``torch.save`` writes, so it is always saved under one name.
    """
    import torch

    torch.manual_seed(seed)
    content = {
        "network_weights": build(network_of(model)).state_dict(),
        "optimizer_state": None,
        "current_epoch": 1000,
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "init_args": {},
    }
    draft = file.with_name(f"{file.name}.{os.getpid()}") / "checkpoint.pth"
    draft.parent.mkdir()
    torch.save(content, draft)
    draft.replace(file)
    draft.parent.rmdir()
    file.chmod(0o644)


def true_sized(folder: Path) -> Path:
    """A checkpoint of the true shape of the contrast-agnostic model v2.x, from a fixed seed."""
    file = folder / "contrast_agnostic_nnunet_compatible.pth"
    write_checkpoint(file, model="contrast-agnostic-v2")
    return file


def store_zeros(store: WeightStore, *, model: str, work: Path) -> Entry:
    """Weights of the shape of ``model``, all zero, under its name in ``store``; without torch."""
    network = network_of(model)
    shapes = tensor_shapes(
        network.arch_kwargs, network_class_name=network.network_class_name, channels=1, heads=2
    )
    assert shapes is not None
    stored: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        values = memoryview(bytes(4 * int(np.prod(shape))))
        stored.setdefault(canonical_name(name), Tensor("float32", shape, lambda v=values: v))
    file = work / "zeros.safetensors"
    write(file, {name: stored[canonical_name(name)] for name in shapes})
    source = Source(name=f"{model}.pth", sha256="0" * 64)
    found = describe.read(file)
    known = configs.model(model, relative_to=Path())
    manifest = describe.manifest_of(found, sha256="", source=source, model=known)
    return store.add(found.checkpoint.tensors, manifest, waiting=lambda: None)
