"""The check of GPU and driver on the node, before a task that uses them starts."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import pytest

from ca_hpc.core.model import Element, Resources, Runtime, Stage, Task, Workflow
from ca_hpc.core.record import Attempt, Pins, Result
from ca_hpc.core.run_record import File, Image
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.execution import Execution
from ca_hpc.worker.node import Node

OLD = "0, GPU-1, Tesla V100-SXM2-32GB, 32768, 535.183.01, 7.0"
NEW = "0, GPU-1, NVIDIA H100 80GB HBM3, 81559, 580.65.06, 9.0"


def ran(
    folder: Path, gpu: str, *, device: Literal["cuda", "cpu"] = "cuda", image: bool = True
) -> tuple[Result, Attempt, bool]:
    """Result and record of one attempt on a node with this GPU, and whether its step was begun."""
    for name, script in {"nvidia-smi": f"echo '{gpu}'", "python": "touch begun"}.items():
        (folder / name).write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
        (folder / name).chmod(0o755)
    run = RunFolder.create(folder / "runs", "neck")
    stage = Stage(
        "train",
        (Element("train.0", (Task("a", "module"),)),),
        Resources(60, cpus=1, memory_mib=1024, gpus=1, device=device),
        {},
        at_once=1,
    )
    flow = Workflow(
        run_folder=str(run.path),
        executor="local",
        node_python=sys.executable,
        node_local=None,
        setup=(),
        runtime=Runtime("none", str(folder / "python")),
        mounts=(),
        threads=None,
        stages=(stage,),
    )
    versions = {"torch": "2.13.0", "cuda": "13.0"}
    pinned = Image(File("/x.sif", "ab" * 32, 1), versions=versions) if image else None
    run.write("workflow.json", flow)
    run.write("pins.json", Pins("0.1.0", "token", "", weights=None, image=pinned))
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0"}
    Execution(run, Node(environment, "host1", lambda: datetime.now(timezone.utc))).run("train.0")
    (attempt,) = run.attempts("a")
    result, record = run.attempt_result(attempt), run.attempt_record(attempt)
    assert result is not None and record is not None
    return result, record, (folder / "begun").exists()


def test_a_gpu_that_does_not_fit_the_image_is_refused_with_a_sentence(tmp_path: Path) -> None:
    result, record, begun = ran(tmp_path, OLD)
    assert not begun
    assert (result.failure, result.exit_code) == ("gpu", 2)
    assert result.cause == (
        "the GPU driver 535.183.01 is too old for CUDA 13.0 in the image, which needs 580 or later"
    )
    assert record.machine is not None
    assert [gpu.driver for gpu in record.machine.gpus] == ["535.183.01"]


@pytest.mark.parametrize(
    ("gpu", "device", "image", "gpus"),
    [
        (NEW, "cuda", True, 1),
        (OLD, "cuda", False, 1),  # nobody has written down what the node's torch needs
        (OLD, "cpu", True, 0),  # nor are GPUs of interest there
    ],
)
def test_all_others_start(
    tmp_path: Path, gpu: str, device: Literal["cuda", "cpu"], image: bool, gpus: int
) -> None:
    result, record, begun = ran(tmp_path, gpu, device=device, image=image)
    assert begun and result.failure is None
    assert record.machine is not None
    assert (record.machine.host, len(record.machine.gpus)) == ("host1", gpus)
