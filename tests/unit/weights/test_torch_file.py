"""What torch saves is read as torch reads it, bit for bit, without torch and without waiting."""

from __future__ import annotations

import argparse
import codecs
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.weights.inert_pickle import Opaque
from ca_hpc.weights.tensors import Tensor
from ca_hpc.weights.torch_file import read_torch_file
from tests.torch_files import lightning, nnunet, replaced, rewritten, saved

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


def loaded_by_torch(file: Path) -> Any:
    numpy_types = [type(np.dtype(code)) for code in ("f8", "f4", "i2", "U1")]
    scalar, array = np.float64().__reduce__()[0], np.zeros(0).__reduce__()[0]
    allowed = [scalar, array, np.ndarray, np.dtype, codecs.encode, *numpy_types]
    with torch.serialization.safe_globals(allowed):
        return torch.load(file, map_location="cpu", weights_only=True)


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, Tensor)
        assert (f"torch.{ours.dtype}", ours.shape) == (str(theirs.dtype), tuple(theirs.shape))
        flat = theirs.detach().contiguous().reshape(-1)
        assert bytes(ours.read()) == flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(theirs, dict):
        assert isinstance(ours, dict) and list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert isinstance(ours, type(theirs)) and len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, np.ndarray):
        assert ours == theirs.tolist()
    elif isinstance(theirs, torch.device):
        assert ours == str(theirs)
    else:
        assert type(ours) is type(theirs.item() if isinstance(theirs, np.generic) else theirs)
        assert ours == theirs or (np.isnan(ours) and np.isnan(theirs))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_checkpoint_of_nnunet_is_read_as_torch_reads_it(tmp_path: Path, protocol: int) -> None:
    file = saved(nnunet(), tmp_path / "checkpoint_final.pth", protocol=protocol)
    assert_same(
        read_torch_file(file),
        # torch's weights_only knows protocol 2 only
        loaded_by_torch(saved(torch.load(file, weights_only=False), tmp_path / "2.pth")),
    )


def test_a_checkpoint_of_lightning_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    file = saved(lightning(lr=1e-3, patch=[64, 192, 320], name="unet"), tmp_path / "last.ckpt")
    assert_same(read_torch_file(file), loaded_by_torch(file))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_keeps_its_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1.0, 1.5, 100.0]).to(dtype)
    file = saved({"one": values, "none": values[:0], "scalar": values[1]}, tmp_path / "a.pt")
    assert_same(read_torch_file(file), loaded_by_torch(file))


def test_bfloat16_becomes_float32_in_numpy(tmp_path: Path) -> None:
    values = torch.randn(3, 4).to(torch.bfloat16)
    read = read_torch_file(saved([values], tmp_path / "a.pt"))[0]
    np.testing.assert_array_equal(read.array(), values.to(torch.float32).numpy())


def test_windows_onto_one_storage_are_read_as_they_were_seen(tmp_path: Path) -> None:
    whole = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)
    views = {
        "whole": whole,
        "transposed": whole.permute(2, 0, 1),
        "every second": whole[:, ::2, 1:],
        "last": whole[1, 2, 3],
        "parameter": torch.nn.Parameter(whole.mT),
    }
    file = saved(views, tmp_path / "a.pt")
    assert_same(read_torch_file(file), loaded_by_torch(file))


def test_names_that_share_values_share_one_object(tmp_path: Path) -> None:
    tensor = torch.randn(2, 3)
    content = {"a": tensor, "b": tensor.view(2, 3), "c": tensor.view(3, 2), "d": tensor.clone()}
    read = read_torch_file(saved(content, tmp_path / "a.pt"))
    assert read["a"] is read["b"]
    assert len({id(read[name]) for name in "abcd"}) == 3


def test_numpy_1_and_2_spell_their_modules_differently(tmp_path: Path) -> None:
    content = {"scalar": np.float64(0.5), "array": np.arange(3.0), "big-endian": np.ones(2, ">i4")}
    expected = {"scalar": 0.5, "array": [0.0, 1.0, 2.0], "big-endian": [1, 1]}
    file = saved(content, tmp_path / "a.pt")
    assert read_torch_file(file) == expected
    assert read_torch_file(replaced(file, b"numpy._core", b"numpy.core")) == expected


def test_tensors_saved_on_a_gpu_are_read_without_one(tmp_path: Path) -> None:
    state = OrderedDict(weight=torch.randn(4))
    file = saved(state, tmp_path / "a.pt")
    there = replaced(file, b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
    assert_same(read_torch_file(there), dict(state))


def test_a_file_without_the_newer_members_is_read(tmp_path: Path) -> None:
    file = saved({"weight": torch.ones(2)}, tmp_path / "a.pt")
    kept = ("archive/data.pkl", "archive/data/0", "archive/version")
    rewritten(file, lambda members: {name: members[name] for name in kept})
    assert_same(read_torch_file(file), {"weight": torch.ones(2)})


@pytest.mark.parametrize(
    "value",
    [Path("a", "b"), argparse.Namespace(lr=0.1), torch.nn.Linear(1, 1), 3j, slice(2)],
    ids=lambda value: type(value).__name__,
)
def test_the_unknown_is_a_name_only_where_it_is_trusted(tmp_path: Path, value: Any) -> None:
    file = saved({"a": 1, "value": value}, tmp_path / "a.pt")
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    with pytest.raises(CaHpcError, match=re.escape(name)):
        read_torch_file(file)
    assert read_torch_file(file, trust=True) == {"a": 1, "value": Opaque(name)}


def test_values_are_read_when_asked_for_and_survive_the_files_deletion(tmp_path: Path) -> None:
    file = saved({"weight": torch.ones(2)}, tmp_path / "a.pt")
    tensor = read_torch_file(file)["weight"]
    file.unlink()
    assert tensor.array().tolist() == [1, 1]


def test_a_large_checkpoint_is_described_without_being_read(tmp_path: Path) -> None:
    weights = {f"layer.{index}.weight": torch.zeros(1 << 18) for index in range(100)}
    file = saved({"network_weights": weights}, tmp_path / "a.pth")  # 105 MB
    program = f"""
import resource, sys
from pathlib import Path
from ca_hpc.weights.torch_file import read_torch_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read = read_torch_file(Path({str(file)!r}))["network_weights"]
assert read["layer.99.weight"].shape == (1 << 18,)
assert not [name for name in ("torch", "nnunetv2", "pydantic") if name in sys.modules]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert int(told.stdout) < 10, "MB"
