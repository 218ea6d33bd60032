"""Speed, as ratios of things measured side by side in one run. Prints; judges nothing.

``python -m tests.bench [NAME …]``. What needs SLURM runs on a throw-away cluster of its own (root).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import overhead, prepare, startup, submission, weights
from tests.lab import slurm
from tests.lab.places import cache_root

ALONE: dict[str, Callable[[Path], None]] = {
    "startup": startup.measure,
    "weights": weights.measure,
    "prepare": prepare.measure,
}
ON_SLURM: dict[str, Callable[[Path], None]] = {
    "submission": submission.measure,
    "overhead": overhead.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join({**ALONE, **ON_SLURM}))
    wanted = parser.parse_args().names or [*ALONE, *ON_SLURM]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache_root()) as folder:
        Path(folder).chmod(0o755)  # the daemons are other users
        for name in wanted:
            if name in ALONE:
                ALONE[name](Path(folder))
        on_slurm = [name for name in wanted if name in ON_SLURM]
        if not on_slurm:
            return
        if os.geteuid() != 0:
            print(f"skipped, need root for a cluster of their own: {', '.join(on_slurm)}")
            return
        root = Path(folder) / "slurm"
        try:
            os.environ.update(slurm.up(root).env)
            for name in on_slurm:
                ON_SLURM[name](Path(folder))
        finally:
            slurm.down(root, wipe=True)


if __name__ == "__main__":
    main()
