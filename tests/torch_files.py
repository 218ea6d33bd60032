"""Files as torch, nnU-Net and Lightning write them, and the same with something wrong in them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

Members = dict[str, bytes]


def network(features: tuple[int, ...] = (4, 8), *, dimensions: int = 3) -> PlainConvUNet:
    """A small network of nnU-Net's with random weights."""
    stages = len(features)
    conv, norm = {
        2: (torch.nn.Conv2d, torch.nn.InstanceNorm2d),
        3: (torch.nn.Conv3d, torch.nn.InstanceNorm3d),
    }[dimensions]
    return PlainConvUNet(
        1,
        n_stages=stages,
        features_per_stage=features,
        conv_op=conv,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=1,
        num_classes=2,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        deep_supervision=True,
    )


def nnunet(weights: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What nnU-Net 2.8.1 saves (nnUNetTrainer.save_checkpoint) after a step of its optimizer."""
    trained = network()
    optimizer = torch.optim.SGD(trained.parameters(), 1e-2, momentum=0.99, nesterov=True)
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "network_weights": trained.state_dict() if weights is None else weights,
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.float64("nan")],
            "dice_per_class_or_region": [[np.float64(0.5), np.float32(0.25)]],
            "train_losses": [np.float32(0.1)],
            "lrs": [0.01],
            "cases": np.arange(6, dtype=np.int16).reshape(2, 3),
            "name": np.str_("blob"),
        },
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {
            "plans": {"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": {}}},
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"labels": {"background": 0, "blob": 1}},
            "device": torch.device("cuda", 0),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def lightning(**hyper_parameters: Any) -> dict[str, Any]:
    """What Lightning saves of a module that keeps nnU-Net's network as ``net`` beside a loss."""
    weights = {f"net.{name}": tensor for name, tensor in network().state_dict().items()}
    return {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": {**weights, "loss_function.weight": torch.ones(2)},
        "optimizer_states": [nnunet()["optimizer_state"]],
        "hyper_parameters": hyper_parameters,
    }


def saved(content: Any, file: Path, *, protocol: int = 2) -> Path:
    torch.save(content, file, pickle_protocol=protocol)
    return file


def rewritten(file: Path, change: Callable[[Members], Mapping[str, bytes]]) -> Path:
    """A zip with its members changed. The folder inside is called ``archive`` afterwards."""
    with zipfile.ZipFile(file) as archive:
        members = {
            "archive/" + name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()
        }
    return zipped(file, change(members))


def zipped(file: Path, members: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def replaced(file: Path, old: bytes, new: bytes) -> Path:
    """The file with ``old``, which must be there, replaced in its pickle."""

    def change(members: Members) -> Members:
        assert old in members["archive/data.pkl"]
        return members | {"archive/data.pkl": members["archive/data.pkl"].replace(old, new)}

    return rewritten(file, change)


def with_pickle(file: Path, program: bytes) -> Path:
    """A torch file whose pickle is ``program``."""
    return zipped(file, {"archive/data.pkl": program, "archive/version": b"3\n"})
