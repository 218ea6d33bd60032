"""Checkpoints: written atomically, read without running code, named by a digest of the values."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from ca_hpc.nnunet.attempt_files import PARTIAL

Emit: TypeAlias = Callable[[Mapping[str, object]], None]

OUR_KEY: Final = "ca_hpc"
# What torch.load raises for truncated, empty, altered or foreign files: its unpickler interprets
# whatever it gets, so that a text file can end in an IndexError.
UNREADABLE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target``; what is written there becomes ``target``, whole or not.

    The name's ending is kept, because image writers choose the format by it.
    """
    partial = target.with_name(PARTIAL + target.name)
    partial.unlink(missing_ok=True)  # a killed process may have left a link to another's file
    try:
        yield partial
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Let ``target`` be the file ``source``, by a hard link where the file system has them."""
    if target.exists() and target.samefile(source):
        return
    with replacing(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def weights_sha256(weights: Mapping[str, Any]) -> str:
    """One digest over names, types, shapes and values of a state dict, independent of devices."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """Numpy values inside dicts, lists and tuples as tagged plain values, without loss."""
    if isinstance(value, np.generic):
        return {"numpy": value.dtype.name, "scalar": value.item()}
    if isinstance(value, np.ndarray):
        return {"numpy": value.dtype.name, "array": value.tolist()}
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return value


def unplain(value: Any) -> Any:
    """The inverse of ``plain`` (tuples come back as lists)."""
    if isinstance(value, dict) and "numpy" in value:
        dtype = np.dtype(value["numpy"])
        return dtype.type(value["scalar"]) if "scalar" in value else np.array(value["array"], dtype)
    if isinstance(value, dict):
        return {key: unplain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [unplain(member) for member in value]
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
