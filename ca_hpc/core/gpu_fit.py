"""Whether a GPU and its driver can run what torch was built for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ca_hpc.core.run_record import Gpu
from ca_hpc.errors import CaHpcError

_TAG: Final = re.compile(r"\+cu(\d+)(\d)$")
_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Need:
    """The oldest driver, and the oldest GPUs by their compute capability."""

    driver: str
    capability: str


# By CUDA's major version. Drivers: NVIDIA, CUDA Compatibility, "Minor Version Compatibility", table
# 1, and the toolkit's release notes for the minor parts; GPUs: the release notes, "Deprecated
# Architectures" (13.0 left out all before Turing). Torch's own builds may leave out more of them.
NEEDS: Final[Mapping[int, Need]] = {
    11: Need("450.80.02", "3.5"),
    12: Need("525.60.13", "5.0"),
    13: Need("580", "7.5"),
}


def cuda_version(versions: Mapping[str, str]) -> str | None:
    """The CUDA that torch was built for, ``13.0``; None: for none, or nobody wrote it down.

    ``versions``: of packages by name, as an image tells them.
    """
    if told := versions.get("cuda"):
        return told
    tag = _TAG.search(versions.get("torch", ""))
    return f"{tag[1]}.{tag[2]}" if tag else None


def require_fit(gpu: Gpu, *, capability: str | None, versions: Mapping[str, str]) -> None:
    """Raise CaHpcError, with a sentence for the user, where the GPU cannot run the image's torch.

    ``capability``: CUDA's compute capability, ``9.0``; None where the driver does not tell. What
    nobody knows is not refused: torch itself will say.
    """
    torch = versions.get("torch", "")
    if torch.endswith("+cpu"):
        raise CaHpcError(
            f"torch {torch} in the image is built without CUDA, and the task is to use a GPU",
            hint="build an image with CUDA (ca-hpc image build), or set device: cpu",
        )
    cuda = cuda_version(versions)
    need = NEEDS.get(int(cuda.split(".")[0])) if cuda else None
    if need is None:
        return
    if _numbers(gpu.driver) < _numbers(need.driver):
        raise CaHpcError(
            f"the GPU driver {gpu.driver} is too old for CUDA {cuda} in the image, which needs "
            f"{need.driver} or later",
            hint="use nodes with a newer driver, or an image with an older CUDA",
        )
    if capability is not None and _numbers(capability) < _numbers(need.capability):
        raise CaHpcError(
            f"the GPU {gpu.name} has compute capability {capability}, and CUDA {cuda} in the "
            f"image needs {need.capability} or later",
            hint="ask for a newer GPU (resources.STAGE.gpu), or use an image with an older CUDA",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, _NUMBER.findall(version)))
