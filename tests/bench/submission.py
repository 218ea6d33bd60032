"""``ca-hpc submit`` of a whole job: seconds, and scheduler calls, beside five sbatch by hand."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from ca_hpc.imaging.synthetic import write_dataset
from tests.bench.pairs import compare
from tests.checkpoints import write_checkpoint

CLIENTS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")
COUNTING = '#!/bin/sh\necho {name} >>"{log}"\nexec {program} "$@"\n'


def measure(folder: Path) -> None:
    """The job has ten tasks in five stages; it is held, so that nothing runs meanwhile."""
    write_dataset(folder / "data", people=6, seed=3, contrasts=("T2starw",))
    # of the true size, 123 MB: they are read, and checked against the network
    write_checkpoint(folder / "weights.pth", model="contrast-agnostic-v2")
    job = folder / "job.yaml"
    job.write_text(
        "kind: finetune\nname: bench\ncluster: lab\nruntime: none\n"
        "data: [{type: bids, path: data, label_suffix: _label-SC_seg}]\nweights: weights.pth\n"
        "model: contrast-agnostic-v2\n"
        "resources: {prepare: {sbatch: {hold: true}}}\n"
    )
    log = folder / "calls"
    environment = {**os.environ, "PATH": f"{_counting(folder, log)}:{os.environ['PATH']}"}
    program = str(Path(sys.executable).with_name("ca-hpc"))

    def ours() -> None:
        subprocess.run(
            (program, "submit", str(job), "--output", str(folder / "runs")),
            env=environment, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip

    def by_hand() -> None:
        for _ in range(5):
            argv = ("sbatch", "--hold", "--output=/dev/null", "--wrap", "true")
            subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)

    compare("ca-hpc submit, 5 stages", ours, by_hand, pairs=7, what="five sbatch by hand")
    calls = log.read_text().split()
    print(f"scheduler calls per submit: {len(calls) / 8:g} ({', '.join(sorted(set(calls)))})")
    subprocess.run(("scancel", "--user", "root"), check=True)


def _counting(folder: Path, log: Path) -> Path:
    """Programs that note their name and then are the real ones."""
    bin_folder = folder / "counting"
    bin_folder.mkdir()
    for name in CLIENTS:
        program = bin_folder / name
        program.write_text(COUNTING.format(name=name, log=log, program=shutil.which(name)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return bin_folder
