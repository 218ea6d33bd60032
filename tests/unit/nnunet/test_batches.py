"""Batch ``i`` of a stream is the same, whoever draws it and wherever the drawing began."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform

import ca_hpc
from ca_hpc.nnunet.batches import BatchStream, seed_generators, settle_blur

REPOSITORY = Path(ca_hpc.__file__).parents[1]
COUNT = 8


def digest(batch: dict[str, Any]) -> str:
    tensors = [batch["data"], *batch["target"]]
    content = b"".join(tensor.numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content + "".join(batch["keys"]).encode()).hexdigest()


def draw(loader: Any, *, first: int, count: int, workers: int, seed: int = 5) -> list[str]:
    stream = BatchStream(loader, seed=seed, stream="training", first=first, workers=workers)
    try:
        return [digest(next(stream)) for _ in range(count)]
    finally:
        stream.close()


@pytest.fixture
def drawn_here(make_loader: Callable[[], Any]) -> list[str]:
    return draw(make_loader(), first=0, count=COUNT, workers=0)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_are_the_same_with_any_number_of_workers(
    make_loader: Callable[[], Any], drawn_here: list[str], workers: int
) -> None:
    assert draw(make_loader(), first=0, count=COUNT, workers=workers) == drawn_here


@pytest.mark.parametrize(("first", "workers"), [(1, 0), (5, 0), (4, 3)])
def test_batches_are_the_same_from_any_start(
    make_loader: Callable[[], Any], drawn_here: list[str], first: int, workers: int
) -> None:
    drawn = draw(make_loader(), first=first, count=COUNT - first, workers=workers)
    assert drawn == drawn_here[first:]


def test_batches_of_a_stream_differ_and_change_with_the_seed(
    make_loader: Callable[[], Any], drawn_here: list[str]
) -> None:
    other = draw(make_loader(), first=0, count=COUNT, workers=0, seed=6)
    assert len({*drawn_here, *other}) == 2 * COUNT


def test_streams_and_indices_seed_every_generator_differently() -> None:
    def numbers(**draw: Any) -> tuple[float, float, float]:
        seed_generators(3, **draw)
        return np.random.random(), torch.rand(1).item(), random.random()

    first = numbers(stream="training", index=0)
    assert numbers(stream="training", index=0) == first
    for other in (numbers(stream="training", index=1), numbers(stream="validation", index=0)):
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_drawing_in_process_leaves_the_callers_generators_alone(
    make_loader: Callable[[], Any],
) -> None:
    seed_generators(1, stream="network", index=0)
    undisturbed = np.random.random(), torch.rand(1).item(), random.random()
    seed_generators(1, stream="network", index=0)
    draw(make_loader(), first=0, count=1, workers=0)
    assert (np.random.random(), torch.rand(1).item(), random.random()) == undisturbed


def test_blur_chooses_its_algorithm_without_a_stopwatch() -> None:
    blurs = [GaussianBlurTransform(benchmark=True) for _ in range(2)]
    settle_blur(
        ComposeTransforms(
            [RandomTransform(blurs[0]), OneOfTransform([ComposeTransforms([blurs[1]])])]
        )
    )
    assert [blur.benchmark for blur in blurs] == [False, False]


def test_closing_ends_all_workers_and_may_be_repeated(make_loader: Callable[[], Any]) -> None:
    stream = BatchStream(make_loader(), seed=1, stream="training", first=0, workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    stream.close()
    assert multiprocessing.active_children() == []


KILLED = """
import itertools, multiprocessing, os, signal, sys
from ca_hpc.nnunet.batches import BatchStream

class Numbers:
    count = itertools.count()
    def set_thread_id(self, number): pass
    def __next__(self): return {"data": next(self.count)}

stream = BatchStream(Numbers(), seed=1, stream="training", first=0, workers=2)
next(stream)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_workers_die_with_a_killed_training() -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert killed.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in killed.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"
