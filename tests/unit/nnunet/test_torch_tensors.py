"""A file's tensors as torch's: equal bit for bit, also those of a training by nnU-Net itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.weights.checkpoint import read_checkpoint
from tests.torch_files import network, saved

if TYPE_CHECKING:
    from tests.blobs import Preprocessed


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool], ids=str
)
def test_types_and_values_are_the_files(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {"a": torch.randn(2, 3).to(dtype), "scalar": torch.ones((), dtype=dtype)}
    weights |= {"transposed": weights["a"].mT, "empty": torch.zeros(0, 2, dtype=dtype)}
    read = as_torch(read_checkpoint(saved(weights, tmp_path / "a.pt")).tensors)
    for name, tensor in weights.items():
        assert read[name].dtype == dtype
        assert torch.equal(read[name], tensor)


def test_they_load_into_the_network_and_can_be_trained(tmp_path: Path) -> None:
    source, target = network(), network()
    tensors = read_checkpoint(saved(source.state_dict(), tmp_path / "a.pt")).tensors
    read = as_torch(tensors)
    target.load_state_dict(read)
    image = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(source(image)[0], target(image)[0])
    read["encoder.stages.0.0.convs.0.conv.weight"].add_(1)
    alias = read["decoder.encoder.stages.0.0.convs.0.all_modules.0.weight"]
    assert torch.equal(alias, read["encoder.stages.0.0.convs.0.conv.weight"])


def test_the_checkpoint_of_a_training_by_nnunet_is_read_without_trust(
    blobs: Preprocessed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    plans = json.loads(blobs.plans_file.read_text()) | {"continue_training": False}
    dataset_json = json.loads(blobs.dataset_json_file.read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    trainer.num_epochs = trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 1
    trainer.run_training()
    file = Path(trainer.output_folder) / "checkpoint_final.pth"
    theirs = torch.load(file, weights_only=False)
    checkpoint = read_checkpoint(file)
    read = as_torch(checkpoint.tensors)
    assert list(read) == list(theirs["network_weights"])
    assert all(torch.equal(read[name], theirs["network_weights"][name]) for name in read)
    assert (checkpoint.family, checkpoint.prefix) == ("nnU-Net", "")
    assert checkpoint.left_out == ("optimizer_state (tensors)",)
    assert checkpoint.content["logging"] == theirs["logging"]
    assert checkpoint.content["trainer_name"] == "nnUNetTrainer"
    assert checkpoint.content["init_args"]["plans"] == theirs["init_args"]["plans"]
    assert checkpoint.content["inference_allowed_mirroring_axes"] == (0, 1, 2)
