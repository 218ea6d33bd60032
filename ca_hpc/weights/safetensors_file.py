"""safetensors files: tensors and nothing else, the same bytes for the same tensors.

The layout is that of https://github.com/huggingface/safetensors: the length of the header (8
bytes), the header in JSON, the values. The library reads all of a file at once and has no bfloat16
without torch, so the few lines that this takes are here.
"""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any, Final

from ca_hpc.errors import CaHpcError
from ca_hpc.weights.tensors import Tensor, Tensors, distinct, itemsize
from ca_hpc.weights.zip_file import FETCH_AGAIN

LONGEST_HEADER: Final = 1 << 26
ALIASES: Final = "aliases"  # of the metadata: names by other names, as JSON
_LENGTH: Final = 8

_CODES: Final = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_DTYPES: Final = {code: dtype for dtype, code in _CODES.items()}


def write(path: Path, tensors: Tensors) -> None:
    """Write a new file. Tensors under several names are stored once, under the shortest.

    The bytes depend on names, types, shapes and values alone; one tensor at a time is in memory.
    Raises OSError, also where ``path`` exists: who needs it whole or not at all renames it.
    """
    stored = distinct(tensors)
    # largest values first, so that each begins at a multiple of its size
    order = sorted(stored, key=lambda name: (-itemsize(stored[name].dtype), name))
    entries: dict[str, Any] = {}
    if aliases := aliases_of(tensors):
        entries["__metadata__"] = {ALIASES: json.dumps(aliases, sort_keys=True)}
    end = 0
    for name in order:
        tensor = stored[name]
        begin, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("xb") as stream:
        stream.write(len(header).to_bytes(_LENGTH, "little") + header)
        for name in order:
            stream.write(stored[name].read())
        stream.flush()
        os.fsync(stream.fileno())


def aliases_of(tensors: Tensors) -> dict[str, str]:
    """For each name of a tensor that is stored under another: that other name."""
    first = {tensor: name for name, tensor in distinct(tensors).items()}
    return {name: first[tensor] for name, tensor in tensors.items() if first[tensor] != name}


def read(path: Path) -> dict[str, Tensor]:
    """All tensors by all their names. Raises CaHpcError where the file is damaged or no such file.

    Values are read when asked for.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH), "little")
            begin, size = _LENGTH + length, path.stat().st_size
            if length > LONGEST_HEADER or begin > size:
                raise ValueError(f"its header should have {length} bytes")
            header = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", {})
        _check(header.values(), size=size - begin)
        tensors = {name: _tensor(path, entry, begin=begin) for name, entry in header.items()}
        aliases = json.loads(metadata.get(ALIASES, "{}"))
        return {**{name: tensors[first] for name, first in aliases.items()}, **tensors}
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as e:
        raise CaHpcError(
            f"{path} is a truncated or damaged safetensors file: {e}.", hint=FETCH_AGAIN
        ) from e


def _check(entries: Any, *, size: int) -> None:
    """Raise ValueError unless the values follow one another without gaps up to the file's end."""
    end = 0
    for begin, stop, shape, dtype in sorted(
        (*entry["data_offsets"], entry["shape"], entry["dtype"]) for entry in entries
    ):
        if any(type(n) is not int or n < 0 for n in (begin, stop, *shape)) or begin != end:
            raise ValueError("its tensors overlap or have gaps between them")
        end = stop
        if end - begin != math.prod(shape) * itemsize(_DTYPES[dtype]):
            raise ValueError(f"{end - begin} bytes are not the values of a tensor {shape}")
    if end != size:
        raise ValueError(f"its tensors need {end} bytes, {size} are there")


def _tensor(path: Path, entry: Any, *, begin: int) -> Tensor:
    first, end = entry["data_offsets"]
    values = partial(_values, path, begin=begin + first, length=end - first)
    return Tensor(_DTYPES[entry["dtype"]], tuple(entry["shape"]), values)


def _values(path: Path, *, begin: int, length: int) -> memoryview:
    with path.open("rb") as stream:
        stream.seek(begin)
        values = stream.read(length)
    if len(values) != length:
        raise CaHpcError(f"{path} became shorter while it was read.", hint=FETCH_AGAIN)
    return memoryview(values)
