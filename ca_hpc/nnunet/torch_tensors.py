"""Tensors of a file as torch's."""

from __future__ import annotations

from typing import Any

import torch

from ca_hpc.weights.tensors import Tensor, Tensors


def as_torch(tensors: Tensors) -> dict[str, torch.Tensor]:
    """By name, on the CPU. Names that share values in the file share one tensor here."""
    made = {tensor: _torch(tensor) for tensor in set(tensors.values())}
    return {name: made[tensor] for name, tensor in tensors.items()}


def _torch(tensor: Tensor) -> Any:
    dtype = getattr(torch, tensor.dtype)
    if not tensor.nbytes:  # torch.frombuffer wants at least one value
        return torch.empty(tensor.shape, dtype=dtype)
    # a copy of our own: torch's tensors can be written to
    return torch.frombuffer(bytearray(tensor.read()), dtype=dtype).reshape(tensor.shape)
