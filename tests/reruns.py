"""What ``ca-hpc rerun --json`` tells, as its tests look at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# what only a node can tell
NOT_YET: Final = dict.fromkeys(("node", "cpu", "cpu.torch", "gpu", "driver"), "unknown")
#: the same of an archive, which names no node
NOT_YET_THERE: Final = {name: verdict for name, verdict in NOT_YET.items() if name != "node"}
#: of another site
PLACES: Final = dict.fromkeys(("cluster", "partition", "folder"), "expected")


def differing(rows: list[Mapping[str, Any]]) -> dict[str, str]:
    """The verdicts of a table of drift, but for what is the same."""
    return {row["aspect"]: row["verdict"] for row in rows if row["verdict"] != "same"}
