"""What is trained: on the GPU, and in a rehearsal that runs the same code on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Setting:
    """``patch`` and ``images``: voxels of 1 mm along RL, AP, SI. ``model``: a profile's name.

    ``cpus``: for each of these numbers a training is timed, over ``measured`` iterations or more.
    """

    device: Literal["cuda", "cpu"]
    model: str
    patch: tuple[int, int, int]
    images: tuple[int, int, int]
    cpus: tuple[int, ...]
    measured: int


GPU: Final = Setting(
    device="cuda",
    model="contrast-agnostic-v2",
    patch=(64, 192, 320),
    images=(70, 200, 330),
    cpus=(16, 8, 3),  # most first: the first training compiles the network for all
    measured=40,
)
REHEARSAL: Final = Setting(
    device="cpu",
    model="demo",
    patch=(16, 24, 32),
    images=(20, 28, 36),
    cpus=(2, 1),
    measured=5,
)
