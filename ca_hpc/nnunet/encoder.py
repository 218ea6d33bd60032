"""The encoder of a network, which can be held still while the rest learns."""

from __future__ import annotations

from typing import Any

import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.pretrained import unwrapped


def encoder_of(network: Any) -> torch.nn.Module:
    """The network's encoder. Raises CaHpcError where it has none."""
    module = unwrapped(network)
    encoder = getattr(module, "encoder", None)
    if not isinstance(encoder, torch.nn.Module):
        raise CaHpcError(
            f"{type(module).__name__} has no encoder that could be frozen.",
            hint="Leave out frozen_encoder_epochs, or take plans with a U-Net.",
        )
    return encoder


def freeze(encoder: torch.nn.Module) -> None:
    """Hold the parameters and running averages still, until ``thaw``.

    Without gradients SGD leaves a weight alone; zero ones would let momentum and decay move it.
    """
    encoder.requires_grad_(False)
    encoder.eval()  # for batch norm; nnU-Net's train() at the start of each epoch undoes it


def thaw(encoder: torch.nn.Module) -> None:
    """Let the encoder learn again."""
    encoder.requires_grad_(True)
