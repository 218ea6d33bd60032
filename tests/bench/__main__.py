"""Speed, as ratios of things measured side by side in one run. Prints; judges nothing.

``python -m tests.bench [NAME …]``. What needs SLURM runs on a throw-away cluster of its own (root).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import image, overhead, prepare, startup, submission, weights
from tests.lab import slurm
from tests.lab.places import cache_root

Measure = Callable[[Path], None]
ALONE: dict[str, Measure] = {
    "startup": startup.measure,
    "weights": weights.measure,
    "prepare": prepare.measure,
}
# as an ordinary user, with real Apptainer
AS_ROOT: dict[str, Measure] = {"image": image.measure}
ON_SLURM: dict[str, Measure] = {
    "submission": submission.measure,
    "overhead": overhead.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join({**ALONE, **AS_ROOT, **ON_SLURM}))
    wanted = parser.parse_args().names or [*ALONE, *AS_ROOT, *ON_SLURM]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache_root()) as folder:
        Path(folder).chmod(0o755)  # the daemons are other users
        _measure(ALONE, wanted, Path(folder))
        left = [name for name in wanted if name not in ALONE]
        if left and os.geteuid() != 0:
            print(f"skipped, they need root: {', '.join(left)}")
            return
        _measure(AS_ROOT, wanted, Path(folder))
        if not any(name in ON_SLURM for name in wanted):
            return
        root = Path(folder) / "slurm"
        try:
            os.environ.update(slurm.up(root).env)
            _measure(ON_SLURM, wanted, Path(folder))
        finally:
            slurm.down(root, wipe=True)


def _measure(table: dict[str, Measure], wanted: list[str], folder: Path) -> None:
    for name in wanted:
        if name in table:
            table[name](folder)


if __name__ == "__main__":
    main()
