"""The device that torch computes on, and its threads."""

from __future__ import annotations

from typing import Literal

import torch

from ca_hpc.errors import CaHpcError


def take_device(name: Literal["cuda", "cpu"], *, threads: int) -> torch.device:
    """Set up torch in this process. Raises CaHpcError where there is no GPU to be seen."""
    if name == "cuda" and not torch.cuda.is_available():
        raise CaHpcError(
            "The job asks for a GPU, and torch sees none on this node.",
            hint="Check the driver with nvidia-smi, and that the runtime passes the GPU on.",
        )
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = name == "cuda"  # as nnU-Net's run_training does
    return torch.device(name)
