"""Field types shared by the job spec and the profiles: strict, with units.

Specs and profiles are plain frozen dataclasses; the annotations here are read by pydantic at the
door (``core/door.py``) and mean nothing afterwards.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict

from ca_hpc.core.units import format_duration, format_size, parse_duration, parse_size

STRICT = ConfigDict(extra="forbid")


def _duration(value: object) -> int:
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError('a duration is text with a unit, like "24:00:00", "90min" or "3h"')


def _size(value: object) -> int:
    if isinstance(value, str):
        return parse_size(value)
    raise ValueError('a size is text with a unit, like "512MB" or "16GB"')


def _name(value: str) -> str:
    if not value or not all(c.isascii() and (c.isalnum() or c in "-_") for c in value):
        raise ValueError("use letters, digits, - and _ only: it becomes part of file names")
    return value


Text = Annotated[str, Strict(), Field(min_length=1)]
Name = Annotated[str, Strict(), AfterValidator(_name)]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
CountOrZero = Annotated[int, Strict(), Field(ge=0)]
Index = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Strict(), Field(gt=0, le=1)]
# seconds inside, "HH:MM:SS" outside
Duration = Annotated[int, BeforeValidator(_duration), PlainSerializer(format_duration)]
# MiB inside, "16GB" outside
Size = Annotated[int, BeforeValidator(_size), PlainSerializer(format_size)]

AXES: tuple[Literal["RL", "AP", "SI"], ...] = ("RL", "AP", "SI")
