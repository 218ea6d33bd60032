"""Long repetitions; `make soak`. CA_HPC_SOAK_REPEATS says how many (10)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.nnunet.checkpoints import weights_sha256
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.weights.checkpoint import read_checkpoint
from tests.local_runs import JOB, states, status, submit, until

REPEATS = int(os.environ.get("CA_HPC_SOAK_REPEATS", "10"))


def test_the_same_job_gives_the_same_weights_and_predictions_every_time(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", people=4, seed=9, contrasts=("T2starw",))
    found = set()
    for _ in range(REPEATS):
        run = submit(tmp_path, JOB)
        until(lambda run=run: status(run)["ended"], seconds=600, what="it did not end")
        assert set(states(run).values()) == {"COMPLETED"}
        (fold,) = run.glob("results/scratch/*/*/fold_0")
        checkpoint = read_checkpoint(fold / "checkpoint_final.pth")
        weights = weights_sha256(as_torch(checkpoint.tensors))
        masks = hashlib.sha256()
        for prediction in sorted((fold / "validation").glob("*.nii.gz")):
            masks.update(prediction.read_bytes())
        found.add((weights, masks.hexdigest()))
    assert len(found) == 1
