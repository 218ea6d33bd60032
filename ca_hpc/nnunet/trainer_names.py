"""What trainers' names say. Needs nothing that the submitting host does not have."""

from __future__ import annotations

import re
from typing import Final

EPOCHS: Final = re.compile(r"_(\d+)ep(?:ochs?)?(?:_|$)")


def epochs_in_trainer_name(name: str) -> int | None:
    """The epochs that a name promises: 250 of ``nnUNetTrainer_250epochs``, None of most.

    The job's own ``epochs`` decide nevertheless.
    """
    found = EPOCHS.search(name)
    return int(found[1]) if found else None
