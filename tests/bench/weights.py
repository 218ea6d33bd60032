"""Reading a checkpoint of the true size without torch, beside torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench.pairs import compare
from tests.checkpoints import write_checkpoint

WITH_TORCH = "import sys, torch; torch.load(sys.argv[1], map_location='cpu', weights_only=True)"


def measure(folder: Path) -> None:
    file = folder / "true-size.pth"
    write_checkpoint(file, model="contrast-agnostic-v2")
    program = str(Path(sys.executable).with_name("ca-hpc"))

    def ours() -> None:
        argv = (program, "weights", "inspect", str(file))
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)

    def with_torch() -> None:
        subprocess.run((sys.executable, "-I", "-c", WITH_TORCH, str(file)), check=True)

    what = "ca-hpc weights inspect, 123 MB"
    compare(what, ours, with_torch, pairs=5, what="python -c 'torch.load(…)'")
