"""What is known about weights: their tensors, the network that they belong to, where they are from.

Beside the tensors in a store or an image; of a plain file it is made anew each time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from ca_hpc.core import door
from ca_hpc.core.profile import Network, TrainedOn
from ca_hpc.errors import CaHpcError

SHORTEST: Final = 8  # hex digits of a sha256 that name weights


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """``same_as``: the name under which the same values are stored."""

    dtype: str
    shape: tuple[int, ...]
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The file that was given: ``name`` without folders, ``url`` without credentials, ``member`` of
    an archive or folder."""

    name: str
    sha256: str
    url: str | None = None
    member: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """``sha256`` is of the file that holds the tensors; ``heads``: outputs, None without a head.

    ``network`` is None where the file does not say on which axes it was trained: the job's
    ``model`` must. ``prefix``: what was taken off the tensors' names. ``also_from``: other files
    that held the very same tensors. ``left_out``: what of the file is not kept, and why.
    ``doubts``: where the profile and the file contradict each other.
    """

    sha256: str
    source: Source
    family: str
    channels: int
    heads: int | None
    tensors: Mapping[str, TensorEntry]
    network: Network | None = None
    trained_on: TrainedOn = field(default_factory=TrainedOn)
    labels: Mapping[str, int] | None = None  # without background; None: not known
    profile: str | None = None
    trainer: str | None = None
    epochs: int | None = None
    prefix: str = ""
    also_from: tuple[Source, ...] = ()
    left_out: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    added: str | None = None
    format: Literal[1] = 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each tensor, by name."""
        return {name: entry.shape for name, entry in self.tensors.items()}

    @property
    def parameters(self) -> int:
        """Values, each counted once."""
        own = (e.shape for e in self.tensors.values() if e.same_as is None)
        return sum(math.prod(shape) for shape in own)

    def goes_by(self, name: str) -> bool:
        """Whether ``name`` is the profile, or (the beginning of) a sha256, of tensors or source."""
        digits = name.removeprefix("sha256:").lower()
        sources = (self.source, *self.also_from)
        return name == self.profile or (
            len(digits) >= SHORTEST
            and any(sha.startswith(digits) for sha in (self.sha256, *(s.sha256 for s in sources)))
        )


def dump(manifest: Manifest) -> str:
    """As JSON."""
    return door.dump(manifest)


def load(text: str, *, place: str) -> Manifest:
    """Read back what ``dump`` wrote. Raises CaHpcError."""
    try:
        return door.load(Manifest, text)
    except ValueError as error:
        reason, *_ = str(error).split("\n")
        raise CaHpcError(
            f"{place} is not the manifest of weights: {reason}",
            hint="delete its folder and add the weights again: ca-hpc weights add",
        ) from error
