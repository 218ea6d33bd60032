"""Checkpoints of nnU-Net, Lightning and of plain torch are told apart and read without trust."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.weights.checkpoint import check_finite, read_checkpoint
from tests.torch_files import lightning, network, nnunet, saved, with_pickle

NAMES = list(network().state_dict())


def test_nnunets_own_is_read_with_what_it_says_of_its_training(tmp_path: Path) -> None:
    file = saved(nnunet(), tmp_path / "checkpoint_final.pth")
    checkpoint = read_checkpoint(file)
    assert (checkpoint.family, checkpoint.prefix) == ("nnU-Net", "")
    assert list(checkpoint.tensors) == NAMES
    assert checkpoint.left_out == ("optimizer_state (tensors)",)
    content = checkpoint.content
    assert content["init_args"]["device"] == "cuda:0"
    assert content["init_args"]["plans"]["plans_name"] == "nnUNetPlans"
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert (content["_best_ema"], content["current_epoch"]) == (0.5, 1)
    assert content["logging"]["cases"] == [[0, 1, 2], [3, 4, 5]]
    assert json.loads(json.dumps(content))["trainer_name"] == "nnUNetTrainer"


def test_lightnings_is_read_without_the_loss_beside_the_network(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(lightning(lr=1e-3), tmp_path / "best.ckpt"))
    assert (checkpoint.family, checkpoint.prefix) == ("Lightning", "net.")
    assert list(checkpoint.tensors) == NAMES
    assert checkpoint.content["hyper_parameters"] == {"lr": 1e-3}
    assert checkpoint.left_out == (
        "optimizer_states (tensors)",
        "loss_function.weight (outside of net.)",
    )


@pytest.mark.parametrize(
    ("value", "name"),
    [(argparse.Namespace(lr=1), "argparse.Namespace"), (Path("a"), "pathlib.PosixPath")],
    ids=["Namespace", "Path"],
)
def test_hyper_parameters_of_other_kinds_are_left_out_where_trusted(
    tmp_path: Path, value: Any, name: str
) -> None:
    file = saved(lightning(given=value), tmp_path / "best.ckpt")
    with pytest.raises(CaHpcError, match=f"best.ckpt was not read: it asks for '{name}'") as caught:
        read_checkpoint(file)
    assert "--trust" in str(caught.value.hint)
    checkpoint = read_checkpoint(file, trust=True)
    assert list(checkpoint.tensors) == NAMES
    assert f"hyper_parameters ({name})" in checkpoint.left_out
    assert "hyper_parameters" not in checkpoint.content


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_state_dicts_are_found_where_programs_put_them(tmp_path: Path, key: str | None) -> None:
    state = network().state_dict()
    content = state if key is None else {"epoch": 3, key: state}
    checkpoint = read_checkpoint(saved(content, tmp_path / "model.pt"))
    assert checkpoint.family == "state dict"
    assert list(checkpoint.tensors) == NAMES
    assert checkpoint.content == ({} if key is None else {"epoch": 3})


@pytest.mark.parametrize("prefix", ["net.", "module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in network().state_dict().items()}
    checkpoint = read_checkpoint(saved(nnunet(state), tmp_path / "a.pth"))
    assert checkpoint.prefix == prefix
    assert list(checkpoint.tensors) == NAMES


def test_parameters_and_half_precision_are_read(tmp_path: Path) -> None:
    state: dict[str, Any] = dict(network().named_parameters())
    state["half"], state["bfloat16"] = torch.ones(2).half(), torch.ones(2).bfloat16()
    read = as_torch(read_checkpoint(saved(state, tmp_path / "a.pt")).tensors)
    assert all(torch.equal(read[name], tensor.detach()) for name, tensor in state.items())
    assert {str(tensor.dtype) for tensor in read.values()} == {
        *("torch.float32", "torch.float16", "torch.bfloat16"),
    }


def test_finite_weights_are_let_through(tmp_path: Path) -> None:
    state = {"a": torch.ones(2).bfloat16(), "steps": torch.tensor(3), "empty": torch.zeros(0)}
    file = saved(state, tmp_path / "a.pt")
    check_finite(read_checkpoint(file).tensors, file=file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_single_value_that_is_not_finite_is_named(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    state = {"a": torch.ones(2), "b": torch.tensor([1, 2, value]).to(dtype)}
    file = saved(state, tmp_path / "a.pt")
    with pytest.raises(CaHpcError, match=r"a\.pt is of no use: 1 of the 3 values of b are"):
        check_finite(read_checkpoint(file).tensors, file=file)


def test_values_that_contain_themselves_or_explode_are_left_out(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    doubling: list[Any] = []
    for _ in range(40):
        doubling = [doubling, doubling]
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    state = {"weight": torch.ones(1)}
    content = {"state_dict": state, "loop": loop, "doubling": doubling, "deep": deep, "epoch": 1}
    checkpoint = read_checkpoint(saved(content, tmp_path / "a.pt"))
    assert checkpoint.content == {"epoch": 1}
    assert checkpoint.left_out == ("loop (too large)", "doubling (too large)", "deep (too large)")


def test_keys_that_would_take_for_ever_to_hash_are_refused(tmp_path: Path) -> None:
    doubled = b"q\x00h\x00\x86" * 60  # a pair of the pair before, 60 times
    file = with_pickle(tmp_path / "a.pt", b"\x80\x02})" + doubled + b"K\x01s.")
    with pytest.raises(
        CaHpcError, match=r"a\.pt is damaged or was tampered with: a tuple is a key"
    ):
        read_checkpoint(file)
