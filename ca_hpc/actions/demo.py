"""The demo: the main job on data that the package makes, on this machine, without an image."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from ca_hpc.actions.prepare import Host, Overrides, read_job
from ca_hpc.actions.submit import submit
from ca_hpc.errors import CaHpcError
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.shipped import shipped

# People of the two data sets: other seeds, so other people. The first is for the checkpoint.
DATA_SETS = {"pretraining": (6, 1), "data": (12, 2)}
JOBS = ("demo-pretraining", "demo")
PRETRAINED = "pretrained.pth"

Say = Callable[[str], None]
Watch = Callable[[str, RunFolder], None]


def demo(folder: Path, *, host: Host, say: Say, watch: Watch) -> RunFolder:
    """Make data, pretrain a checkpoint on some of them, then run the main job from it.

    ``watch`` shows a run until it has ended. A folder that has the data and the checkpoint
    already is used again. Raises CaHpcError.
    """
    from ca_hpc.imaging.synthetic import write_dataset

    folder = folder.absolute()
    for name, (people, seed) in DATA_SETS.items():
        if not (folder / name).exists():
            say(f"making {people} synthetic people in {folder / name}")
            folder.mkdir(parents=True, exist_ok=True)
            write_dataset(folder / name, people=people, seed=seed)
    for name in JOBS:  # beside the data: the paths in a job count from its file
        (folder / f"{name}.yaml").write_text(shipped("jobs", f"{name}.yaml").read_text())
    checkpoint = folder / PRETRAINED
    if not checkpoint.exists():
        run = _run("demo-pretraining", folder, host=host, say=say)
        watch("pretraining a checkpoint (one fold, random weights)", run)
        checkpoint.write_bytes(_final_checkpoint(run).read_bytes())
    run = _run("demo", folder, host=host, say=say)
    watch("the main job: 5 folds, from the pretrained weights and from scratch", run)
    return run


def _run(name: str, folder: Path, *, host: Host, say: Say) -> RunFolder:
    job = read_job(folder / f"{name}.yaml", host=host, overrides=Overrides(output=folder / "runs"))
    return submit(
        job,
        host=host,
        token=secrets.token_hex(4),
        now=datetime.now(timezone.utc),
        warn=say,
        say=say,
    )


def _final_checkpoint(run: RunFolder) -> Path:
    for arm in run.spec.arms:
        for _, fold in run.folds(arm):
            return fold / "checkpoint_final.pth"
    raise CaHpcError(f"{run.path} has no finished fold", hint=f"ca-hpc logs {run.path}")
