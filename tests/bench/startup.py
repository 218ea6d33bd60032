"""``ca-hpc --help`` beside an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench.pairs import compare


def measure(folder: Path) -> None:
    program = str(Path(sys.executable).with_name("ca-hpc"))

    def ours() -> None:
        subprocess.run((program, "--help"), stdout=subprocess.DEVNULL, check=True)

    def nothing() -> None:
        subprocess.run((sys.executable, "-I", "-c", "pass"), check=True)

    compare("ca-hpc --help", ours, nothing, pairs=11, what="python -c pass")
