"""Checkpoints of others are read without running them, and fit the network or are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.nnunet.pretrained import (
    describe_network,
    load_into,
    network_of,
    read_checkpoint,
    verified_sha256,
)


class Network(torch.nn.Module):
    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.stem = torch.nn.Conv3d(1, features, 3)
        self.norm = torch.nn.InstanceNorm3d(features, affine=True)
        self.decoder = torch.nn.Module()
        self.decoder.seg_layers = torch.nn.ModuleList([torch.nn.Conv3d(features, 2, 1)])


class Command:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def genuine(weights: dict[str, Any]) -> dict[str, Any]:
    """The keys and kinds of values of a checkpoint that nnU-Net 2 writes."""
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.1)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {"configuration": "3d_fullres", "device": torch.device("cuda")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_numpy_numbers_in_a_genuine_checkpoint_are_read(tmp_path: Path, legacy: bool) -> None:
    file = tmp_path / "checkpoint_final.pth"
    torch.save(genuine(Network().state_dict()), file, _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(file)
    assert checkpoint["_best_ema"] == 0.5
    assert set(network_of(checkpoint)) == set(Network().state_dict())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    file, witness = tmp_path / "checkpoint.pth", tmp_path / "witness"
    torch.save(
        genuine({}) | {"extra": Command(witness)},
        file,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(CaHpcError, match=r"it would run posix\.mkdir"):
        read_checkpoint(file)
    assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", pickle.dumps({"a": 1}, protocol=2), None],
    ids=["empty", "text", "pickle", "truncated"],
)
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save(genuine(Network().state_dict()), file)
    file.write_bytes(file.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(CaHpcError, match=r"checkpoint\.pth"):
        read_checkpoint(file)


def test_all_but_the_head_is_loaded() -> None:
    torch.manual_seed(0)
    source, target = Network(), Network()
    head = target.decoder.seg_layers[0].weight.clone()
    report = load_into(target, {**source.state_dict(), "teacher.weight": torch.ones(1)})
    assert torch.equal(target.stem.weight, source.stem.weight)
    assert torch.equal(target.decoder.seg_layers[0].weight, head)
    assert report.loaded == ("stem.weight", "stem.bias", "norm.weight", "norm.bias")
    assert report.skipped == ("decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias")
    assert report.unused == ("teacher.weight",)


def test_prefixes_of_wrappers_are_taken_off() -> None:
    weights = {f"module._orig_mod.{key}": of for key, of in Network().state_dict().items()}
    assert set(network_of({"network_weights": weights})) == set(Network().state_dict())


def test_a_misfit_names_the_first_tensor_both_shapes_and_the_count() -> None:
    target = Network(features=4)
    before = target.stem.weight.clone()
    with pytest.raises(CaHpcError) as caught:
        load_into(target, Network(features=8).state_dict())
    assert "4 of 4 tensors differ, first stem.weight" in caught.value.message
    assert "(8, 1, 3, 3, 3) in the file, (4, 1, 3, 3, 3) in the network" in caught.value.message
    assert len(caught.value.message) < 300
    assert torch.equal(target.stem.weight, before)


def test_a_missing_tensor_is_named() -> None:
    weights = Network().state_dict()
    del weights["norm.weight"]
    with pytest.raises(CaHpcError, match=r"1 of 4 tensors differ, first norm\.weight: missing"):
        load_into(Network(), weights)


def test_another_file_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    found = verified_sha256(file, None)
    assert verified_sha256(file, found) == found
    with pytest.raises(DigestMismatch, match=found):
        verified_sha256(file, "0" * 64)
    with pytest.raises(CaHpcError, match="no weights at"):
        verified_sha256(tmp_path / "absent.pth", None)


def test_the_network_of_inheriting_plans_is_described() -> None:
    architecture = {"network_class_name": "Net", "arch_kwargs": {"n_stages": 2}}
    base = {"architecture": architecture, "patch_size": [64, 192, 320], "spacing": [1.0, 1.0, 1.0]}
    plans = {
        "transpose_forward": [2, 1, 0],
        "configurations": {
            "3d_fullres": base,
            "small": {"inherits_from": "3d_fullres", "patch_size": [32, 32, 32]},
        },
    }
    described = describe_network({"init_args": {"plans": plans, "configuration": "small"}})
    assert described is not None
    assert described.patch_size == (32, 32, 32)
    assert described.spacing == (1.0, 1.0, 1.0)
    assert described.transpose_forward == (2, 1, 0)
    assert described.architecture == architecture


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
def test_plans_of_early_nnunet_2_are_converted() -> None:
    configuration = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [2, 2, 2],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3]] * 3,
        "patch_size": [16, 32, 32],
        "spacing": [1, 1, 1],
    }
    plans = {"transpose_forward": [0, 1, 2], "configurations": {"3d_fullres": configuration}}
    checkpoint = {"init_args": {"plans": plans, "configuration": "3d_fullres"}}
    described = describe_network(checkpoint)
    assert described is not None
    kwargs = described.architecture["arch_kwargs"]
    assert kwargs["features_per_stage"] == [32, 64, 128]
    assert kwargs["strides"][-1] == [1, 2, 2]
    assert "UNet_class_name" in configuration  # the checkpoint's own plans stay as they are


def test_a_checkpoint_that_says_nothing_is_described_by_nothing() -> None:
    assert describe_network({}) is None
    assert describe_network({"init_args": {"configuration": "2d", "plans": {}}}) is None
