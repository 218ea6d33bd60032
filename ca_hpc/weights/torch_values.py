"""What the names in torch's files mean: tensors, their storages, numpy values, plain containers.

All that a file can call is here. Arguments come from the file, so each is checked before it is
used: hashing or printing tuples nested in tuples can take for ever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from ca_hpc.weights.inert_pickle import mapping
from ca_hpc.weights.tensors import NUMPY_CODES, Tensor, itemsize

MOST_AXES: Final = 32  # numpy 1's limit
LONGEST_AXIS: Final = 1 << 31
MOST_COPIES: Final = 8  # how often windows may show the values of one storage


@dataclass(slots=True)
class Storage:
    """``nbytes`` of values, and the windows onto them: the same object for the same window."""

    dtype: str
    nbytes: int
    read: Callable[[], bytes]
    windows: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    shown: int = 0

    def window(self, offset: Any, shape: Any, stride: Any, *, dtype: Any = None) -> Tensor:
        """Offset and strides count values. Raises ValueError where it would reach outside."""
        dtype = dtype or self.dtype
        if not isinstance(dtype, str) or any(type(n) is not int for n in (offset, *shape, *stride)):
            raise TypeError("a tensor's shape is not made of whole numbers")
        held = self.nbytes // itemsize(dtype)
        _check(held, offset, shape, stride)
        key = (dtype, offset, *shape, *stride)
        if key not in self.windows:
            read = partial(_values, self.read, dtype, offset, shape, stride)
            self.windows[key] = Tensor(dtype, tuple(shape), read)
            self.shown += self.windows[key].nbytes
            if self.shown > MOST_COPIES * self.nbytes:
                raise ValueError("too many tensors show the same values")
        return self.windows[key]


def _check(held: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    if min(offset, *shape, *stride, 0) < 0 or len(shape) > MOST_AXES:
        raise ValueError(f"a tensor has the shape {shape}, strides {stride} and offset {offset}")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # with a stride of 0 a single value could fill the memory
    if (count and max(last + 1, count) > held) or max(shape, default=0) > LONGEST_AXIS:
        raise ValueError(
            f"a tensor of the shape {shape} reaches outside of the {held} values there"
        )


def _values(
    read: Callable[[], bytes],
    dtype: str,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> memoryview:
    flat = np.frombuffer(read(), NUMPY_CODES[dtype])[offset:]
    steps = [step * flat.itemsize for step in stride]
    window = np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
    return np.ascontiguousarray(window).reshape(-1).view(np.uint8).data


def _tensor(storage: Storage, offset: Any, shape: Any, stride: Any, *rest: Any) -> Tensor:
    """``rest``: requires_grad, hooks, and whether it is a conjugated or negated view."""
    _refuse_view(rest[2:])
    return storage.window(offset, shape, stride)


def _tensor_of_type(storage: Storage, offset: Any, shape: Any, stride: Any, *rest: Any) -> Tensor:
    """``rest``: as for ``_tensor``, with the type in the third place."""
    _refuse_view(rest[3:])
    return storage.window(offset, shape, stride, dtype=rest[2])


def _refuse_view(metadata: tuple[Any, ...]) -> None:
    if any(metadata):
        raise ValueError("a tensor is a conjugated or negated view")


class _NumpyType:
    """numpy's dtype: made with a code, its byte order told afterwards."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"b1|[iuf][1248]|[US][0-9]{1,6}", code)):
            raise ValueError("a numpy value is neither number nor text")
        self.dtype = np.dtype(code)

    def complete(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _NumpyArray(list[Any]):
    """numpy's array as nested lists: made empty, filled afterwards."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def complete(self, state: Any) -> None:
        _, shape, kind, by_columns, raw = state
        values = np.frombuffer(raw, kind.dtype)
        if values.size:  # else the shape could ask for any number of empty lists
            whole = values.reshape(shape, order="F" if by_columns else "C")
            self[:] = np.atleast_1d(whole).tolist()


def _numpy_scalar(kind: _NumpyType, raw: bytes) -> Any:
    return np.frombuffer(raw, kind.dtype, count=1)[0].item()


def _encode(text: Any, codec: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or codec != "latin1":
        raise ValueError("bytes are written in an unknown way")
    return text.encode("latin1")


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise TypeError("a device is not a name and a number")
    return kind if index is None else f"{kind}:{index}"


_STORAGES: Final = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "ComplexFloat": "complex64", "Long": "int64", "Int": "int32", "Short": "int16",
    "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip

GLOBALS: Final[Mapping[str, Any]] = {
    "_codecs.encode": _encode,
    "builtins.set": list,
    "collections.OrderedDict": mapping,
    "numpy.dtype": _NumpyType,
    "numpy.ndarray": "numpy.ndarray",
    # numpy 1 wrote numpy.core, numpy 2 writes numpy._core
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _NumpyArray,
    "numpy._core.multiarray._reconstruct": _NumpyArray,
    **{f"torch.{kind}Storage": dtype for kind, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": "uint8",  # each tensor says its own type
    **{f"torch.{dtype}": dtype for dtype in NUMPY_CODES},
    "torch.Size": tuple,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
}

OTHER_TENSORS: Final[Mapping[str, str]] = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (device meta)",
}
