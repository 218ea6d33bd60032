"""Records of our own as JSON, and back: checked for their types, fast to import and to read.

What people write goes through pydantic (``core/door.py``), which explains what is wrong. Records
are written by programs and read on every node, before every task; msgspec takes a fiftieth of the
time for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from ca_hpc.core.utf8 import not_utf8

T = TypeVar("T")


def encode(record: object) -> str:
    """JSON, stable to the byte: two spaces, keys in the order of the class.

    Raises CaHpcError for a path that is no UTF-8.
    """
    try:
        raw = msgspec.json.encode(record, enc_hook=_path_out)
    except UnicodeEncodeError as error:
        raise not_utf8(error.object) from error
    return msgspec.json.format(raw, indent=2).decode() + "\n"


def decode(kind: type[T], text: str) -> T:
    """Read back what ``encode`` wrote. Raises ValueError when it is not a ``kind``."""
    try:
        return msgspec.json.decode(text, type=kind, dec_hook=_path_in)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:  # foreign texts can be nested as deep as their writer likes
        raise ValueError("nested too deeply") from error


def convert(kind: type[T], value: object) -> T:
    """The same of plain values, of which NaN may be one. Raises ValueError."""
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def _path_out(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a record")


def _path_in(kind: type, value: object) -> Path:
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise TypeError(f"{kind.__name__} has no place in a record")
