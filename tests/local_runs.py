"""Jobs on this machine, without SLURM and without an image, for the tiers that run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOB = """
kind: finetune
name: small
cluster: local
data: [{type: bids, path: data, label_suffix: _label-SC_seg}]
weights: null
model: demo
splits: {folds: 3}
folds: [0]
arms: {scratch: {weights: random, plans: model}}
plans: {patch_size: {RL: 16, AP: 24, SI: 32}}
training: {epochs: 1, iterations_per_epoch: 1, validation_iterations_per_epoch: 1}
validation: {tile_step: 1.0, mirroring: false}
"""


def ca_hpc(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-I", "-m", "ca_hpc", *map(str, arguments))
    return subprocess.run(argv, cwd=cwd, text=True, capture_output=True, check=False, timeout=1200)


def submit(folder: Path, text: str, *options: str) -> Path:
    job = folder / "changed.yaml"
    job.write_text(text)
    done = ca_hpc("submit", job, "--detach", "--json", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])


def shell_environment() -> dict[str, str]:
    """The environment without what trainings in this process have set for nnU-Net."""
    return {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}


def until(true: Callable[[], bool], *, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def status(run: Path) -> dict[str, Any]:
    return json.loads(ca_hpc("status", "--json", run, cwd=run).stdout)  # type: ignore[no-any-return]


def states(run: Path) -> dict[str, str]:
    return {task["task"]: task["state"] for task in status(run)["tasks"]}


def processes_of(run: Path) -> list[str]:
    """Command lines of live processes that name the run folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(run) in line and int(entry.name) != os.getpid():
            found.append(line)
    return found
