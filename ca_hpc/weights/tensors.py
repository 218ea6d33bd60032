"""A tensor of a file: what it is, and its values when asked for. Neither needs torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

# Under torch's names. numpy has no bfloat16: its 16 bits are the upper half of a float32.
NUMPY_CODES: Final[Mapping[str, str]] = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "complex64": "<c8",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint64": "<u8",
    "uint32": "<u4",
    "uint16": "<u2",
    "uint8": "|u1",
    "bool": "|b1",
}


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One tensor, its values still in the file. Names that share values share this object.

    ``dtype`` is torch's name without "torch.". ``read()`` gives the values as little-endian bytes,
    last axis fastest, and raises CaHpcError where the file is damaged or gone.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], memoryview]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * itemsize(self.dtype)

    def array(self) -> npt.NDArray[Any]:
        """The values as a read-only array of ``shape``; bfloat16 becomes float32."""
        values = np.frombuffer(self.read(), NUMPY_CODES[self.dtype]).reshape(self.shape)
        if self.dtype == "bfloat16":
            return (values.astype("<u4") << 16).view("<f4")
        return values


Tensors: TypeAlias = Mapping[str, Tensor]


def itemsize(dtype: str) -> int:
    """Bytes per value."""
    return np.dtype(NUMPY_CODES[dtype]).itemsize


def distinct(tensors: Tensors) -> dict[str, Tensor]:
    """One name for each tensor: of those that share it the shortest, then the first by letter."""
    first: dict[Tensor, str] = {}
    for name in sorted(tensors, key=lambda name: (len(name), name)):
        first.setdefault(tensors[name], name)
    return {name: tensor for tensor, name in first.items()}
