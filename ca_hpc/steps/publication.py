"""Where a finished attempt's work goes: to its place in the run folder, whole, in one rename.

A copy of the task may still run on a node that was taken for lost. Each works in its own attempt's
folder, and what is published stays: so the later one loses nothing but its own work.
"""

from __future__ import annotations

import errno
from pathlib import Path


def publish(draft: Path, target: Path) -> bool:
    """Rename the folder ``draft`` to ``target``. False where one is there already: it stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
