"""Batches whose content depends on nothing but (seed, stream, index).

nnU-Net's own loaders keep random state in their workers, prefetch, and draw a batch at every start
(``NonDetMultiThreadedAugmenter``, nnU-Net 2.8.1), so a continued training sees other batches than
an undisturbed one. Here batch ``index`` reseeds every generator, so that the number of worker
processes and the place where a training was continued leave no trace.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform

from ca_hpc import processes

# The numbers are part of what a seed means: never renumber, only append.
STREAMS: Final[Mapping[str, int]] = {
    "training": 0,
    "validation": 1,
    "network": 2,
    "initial weights": 3,
    "shuffled weights": 4,
}


def seed_generators(seed: int, *, stream: str, index: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices) for one draw.

    ``seed`` and ``index`` are not negative; ``stream`` is a key of ``STREAMS``.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], index))
    words = sequence.generate_state(6)
    np.random.seed(words[:4])
    torch.manual_seed(int.from_bytes(words[4:].tobytes(), sys.byteorder))
    random.seed(words.tobytes())


@contextmanager
def seeded(seed: int, *, stream: str, index: int) -> Iterator[None]:
    """Seed the CPU's generators for one draw and give their states back afterwards."""
    numpy_state = np.random.get_state()
    torch_state = torch.get_rng_state()
    python_state = random.getstate()
    seed_generators(seed, stream=stream, index=index)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        random.setstate(python_state)


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A tensor on its way between processes, as an array.

    torch would send it through /dev/shm, which is 64 MB in many containers, and by a handle that
    its sender must outlive: a shutdown in the wrong moment ends in a traceback.
    """

    array: np.ndarray[Any, Any]


class NumberedBatches:
    """Draws the batches ``first, first + stride, ...`` of a stream from a nnU-Net loader.

    In a worker process, ``set_thread_id`` (called there by ``MultiThreadedAugmenter``) shifts
    ``first`` by the worker's number: with as many workers as ``stride``, asked in turn, the batches
    come in the order of the stream.
    """

    def __init__(self, loader: Any, *, seed: int, stream: str, first: int, stride: int) -> None:
        self._loader = loader
        self._seed = seed
        self._stream = stream
        self._next = first
        self._stride = stride
        self._owner = os.getpid()
        self._in_worker = False

    def set_thread_id(self, thread_id: int) -> None:
        _die_with(self._owner)
        self._in_worker = True
        torch.set_num_threads(1)
        self._loader.set_thread_id(thread_id)
        self._next += thread_id

    def __iter__(self) -> NumberedBatches:
        return self

    def __next__(self) -> dict[str, Any]:
        with seeded(self._seed, stream=self._stream, index=self._next):
            batch: dict[str, Any] = next(self._loader)
        self._next += self._stride
        return _packed(batch) if self._in_worker else batch


class BatchStream:
    """The batches ``first, first + 1, ...`` of a stream, drawn here or by ``workers`` processes.

    A batch is nnU-Net's: ``data`` (batch, channel, *patch) float32, ``target`` the same with one
    channel int16, or a list of such, one per resolution, finest first; ``keys`` the cases.
    """

    def __init__(self, loader: Any, *, seed: int, stream: str, first: int, workers: int) -> None:
        settle_blur(getattr(loader, "transforms", None))
        batches = NumberedBatches(
            loader, seed=seed, stream=stream, first=first, stride=max(1, workers)
        )
        self._batches: Any = MultiThreadedAugmenter(batches, None, workers) if workers else batches

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> dict[str, Any]:
        batch: dict[str, Any] = _unpacked(next(self._batches))
        return batch

    def close(self) -> None:
        """End the worker processes. Harmless when there are none, or when called again."""
        if not isinstance(self._batches, MultiThreadedAugmenter):
            return
        processes = list(self._batches._processes)
        self._batches._finish()
        for process in processes:
            # Workers ignore SIGTERM (they inherit our handler), so terminate() cannot end one
            # that is stuck in a batch for longer than the grace time of _finish().
            if process.is_alive():
                process.kill()
                process.join()


def settle_blur(transform: Any) -> None:
    """Keep every Gaussian blur in a tree of transforms from choosing its algorithm by stopwatch.

    ``GaussianBlurTransform(benchmark=True)`` times FFT against direct convolution once per process
    and shape (batchgeneratorsv2 0.3.6), and the two differ in the last bits.
    """
    if isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    if isinstance(transform, BasicTransform):
        for member in vars(transform).values():
            settle_blur(member)
    if isinstance(transform, list | tuple):
        for member in transform:
            settle_blur(member)


def _packed(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        return PackedTensor(item.numpy())
    return _mapped(_packed, item)


def _unpacked(item: Any) -> Any:
    if isinstance(item, PackedTensor):
        return torch.from_numpy(item.array)
    return _mapped(_unpacked, item)


def _mapped(function: Callable[[Any], Any], item: Any) -> Any:
    if isinstance(item, dict):
        return {key: function(member) for key, member in item.items()}
    if isinstance(item, list):
        return [function(member) for member in item]
    return item


def _die_with(parent: int) -> None:
    """Have the kernel kill this worker when ``parent`` dies.

    Workers wait for an event that a killed parent can never set: without this they live on for
    minutes, with about 600 MB each.
    """
    processes.end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
