"""What a job's ``weights`` mean by how they are written. Pure."""

from __future__ import annotations

from typing import Final

from ca_hpc.weights.manifest import SHORTEST

IN_IMAGE: Final = "image"  # the weights that the image carries
ENDINGS: Final = (".pth", ".pt", ".ckpt", ".safetensors")
PROFILES: Final = (".yaml", ".yml")


def is_file_name(weights: str) -> bool:
    """Whether a job's ``weights`` are a checkpoint's path, rather than a profile or a sha256."""
    return weights.endswith(ENDINGS) or ("/" in weights and not weights.endswith(PROFILES))


def is_digest(weights: str) -> bool:
    """Whether they are a sha256 or its beginning; "sha256:" may be left out."""
    digits = weights.removeprefix("sha256:").lower()
    hexadecimal = set(digits) <= set("0123456789abcdef")
    return weights != digits or (hexadecimal and len(digits) >= SHORTEST)
