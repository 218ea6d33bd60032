"""What the command line asks of the step that makes a model's zip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kept: TypeAlias = Literal["final", "best"]  # nnU-Net's two checkpoints of a fold

REQUEST_NAME: Final = "request.json"
ZIP_NAME: Final = "model.zip"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Which published folds, by name, and which checkpoint of each."""

    folds: tuple[str, ...]
    checkpoint: Kept

    @property
    def checkpoint_name(self) -> str:
        """nnU-Net's name of the file."""
        return f"checkpoint_{self.checkpoint}.pth"
