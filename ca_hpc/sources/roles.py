"""Names of the parts of a split, as lists and tables write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ca_hpc.core.data_spec import SEEN, TAKEN

ROLES: Final[Mapping[str, str]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "test": "test",
}


def role(written: str | None) -> tuple[str | None, str | None]:
    """``train``, ``val`` or the name of a test set, and what is wrong with it."""
    if not written:
        return None, None
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", written) is None:  # it becomes part of file names
        return None, f"split {written!r}: use letters, digits, - and _ only"
    found = ROLES.get(written, written)
    if found in TAKEN and found not in SEEN:
        return None, f"split {written}: the name of something else; take another one"
    return found, None
