"""safetensors: what the library reads and writes, the same bytes for the same tensors."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.weights.checkpoint import read_checkpoint
from ca_hpc.weights.safetensors_file import read, write
from tests.torch_files import network, nnunet, saved

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


def of_all_types() -> dict[str, torch.Tensor]:
    tensors = {str(dtype): torch.tensor([[0.0, 1.0, 3.0]]).to(dtype) for dtype in DTYPES}
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


def test_the_library_reads_what_is_written_here(tmp_path: Path) -> None:
    tensors = read_checkpoint(saved(of_all_types(), tmp_path / "a.pt")).tensors
    write(tmp_path / "a.safetensors", tensors)
    assert_equal(safetensors.torch.load_file(tmp_path / "a.safetensors"), of_all_types())
    assert_equal(as_torch(read(tmp_path / "a.safetensors")), of_all_types())


def test_what_the_library_writes_is_read_here(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file(of_all_types(), file, metadata={"format": "pt"})
    assert_equal(as_torch(read(file)), of_all_types())


def test_a_network_of_nnunet_is_stored_once_and_read_by_all_its_names(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(nnunet(), tmp_path / "a.pth"))
    state = torch.load(tmp_path / "a.pth", weights_only=False)["network_weights"]
    file = tmp_path / "a.safetensors"
    write(file, checkpoint.tensors)
    values = sum(parameter.numel() for parameter in network().parameters())
    assert values * 4 < file.stat().st_size < values * 4 + 20_000
    assert_equal(as_torch(read(file)), state)
    again = read_checkpoint(file)
    assert again.family == "safetensors"
    assert again.aliases == checkpoint.aliases
    assert again.aliases["decoder.encoder.stages.0.0.convs.0.conv.weight"] == (
        "encoder.stages.0.0.convs.0.conv.weight"
    )


def test_the_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    weights = network().state_dict()
    shuffled = dict(random.Random(1).sample(list(weights.items()), k=len(weights)))
    files = []
    for index, content in enumerate((nnunet(weights), shuffled, {"state_dict": weights})):
        source = saved(content, tmp_path / f"{index}.pt")
        files.append(tmp_path / f"{index}.safetensors")
        write(files[-1], read_checkpoint(source).tensors)
    write(tmp_path / "3.safetensors", read(files[0]))
    files.append(tmp_path / "3.safetensors")
    assert len({file.read_bytes() for file in files}) == 1


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_text("a")
    with pytest.raises(FileExistsError):
        write(file, {})
    assert file.read_text() == "a"


HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def damaged(**changes: object) -> dict[str, object]:
    return {"a": {**HEADER["a"], **changes}}


@pytest.mark.parametrize(
    ("header", "values"),
    [
        (HEADER, 7),
        (HEADER, 9),
        (damaged(shape=[3]), 8),
        (damaged(shape=[-2]), 8),
        (damaged(shape=[2.0]), 8),
        (damaged(shape=[1 << 62, 1 << 62]), 8),
        (damaged(dtype="F8_E4M3"), 8),
        (damaged(data_offsets=[4, 12]), 12),
        (damaged(data_offsets=[0, 1 << 60]), 8),
        ({**HEADER, "b": HEADER["a"]}, 8),
        ({**HEADER, "__metadata__": {"aliases": '{"b": "c"}'}}, 8),
        ({**HEADER, "__metadata__": {"aliases": "[" * 100_000}}, 8),
        ({**HEADER, "__metadata__": 1}, 8),
        ([HEADER], 8),
    ],
    ids=[
        *("truncated", "too long", "shape", "negative", "float", "huge", "type", "gap", "far"),
        *("overlap", "alias of nothing", "deep", "metadata", "list"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, header: object, values: int) -> None:
    file = tmp_path / "a.safetensors"
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(values))
    with pytest.raises(CaHpcError, match=r"a\.safetensors is a truncated or damaged"):
        read(file)


@pytest.mark.parametrize("length", [1 << 62, 100, 3], ids=["huge", "beyond the end", "no JSON"])
def test_a_header_of_the_wrong_length_is_named(tmp_path: Path, length: int) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b'{"a":1}')
    with pytest.raises(CaHpcError, match=r"a\.safetensors is a truncated or damaged"):
        read(file)
