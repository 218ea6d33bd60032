"""Checkpoints of the true shape, made here: the released weights cannot be fetched everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

from ca_hpc import configs

_IMPORTED = {
    "conv_op": torch.nn.Conv3d,
    "norm_op": torch.nn.InstanceNorm3d,
    "nonlin": torch.nn.LeakyReLU,
}


def write_checkpoint(file: Path, *, model: str, seed: int = 0) -> None:
    """A file with the keys of nnU-Net's checkpoints and the network of a model profile.

    Its weights are random but the same for the same seed, and so are its bytes: the file's name
    goes into what ``torch.save`` writes, so it is always saved under one name.
    """
    profile = configs.model(model, relative_to=file.parent)
    torch.manual_seed(seed)
    arguments = {**profile.arch_kwargs, **_IMPORTED}
    network = PlainConvUNet(1, num_classes=2, deep_supervision=True, **arguments)
    content = {
        "network_weights": network.state_dict(),
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
