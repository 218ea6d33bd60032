"""A fold on a real GPU, without an image; `make test-gpu`. Fails where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.nnunet.pretrained import network_of, read_checkpoint
from tests.local_runs import JOB, states, status, submit, until

PROFILE = """
name: one-gpu
executor: local
runtime: none
gpu: any
gpus: {any: {flag: "--gpus={count}", cpus: 2, ram: 8GB}}
node: {gpus: 1}
"""


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.fail("torch finds no GPU here: take a machine with one and torch's CUDA build")


def test_a_fold_trains_on_the_gpu_and_its_checkpoint_loads_on_the_cpu(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", people=4, seed=9, contrasts=("T2starw",))
    (tmp_path / "one-gpu.yaml").write_text(PROFILE)
    run = submit(tmp_path, JOB.replace("cluster: local", "cluster: one-gpu.yaml"))
    until(lambda: status(run)["ended"], seconds=1800, what="the run did not end")
    assert set(states(run).values()) == {"COMPLETED"}
    (progress,) = run.glob("tasks/train-*/attempts/*/progress.jsonl")
    assert json.loads(progress.read_text().splitlines()[0])["device"] == "cuda"
    (checkpoint,) = run.glob("results/scratch/*/*/fold_0/checkpoint_final.pth")
    tensors = network_of(read_checkpoint(checkpoint))
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}
