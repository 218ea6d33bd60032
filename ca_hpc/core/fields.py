"""Field types shared by the job spec and the profiles: strict, with units.

Specs and profiles are plain frozen dataclasses; the annotations here are read by pydantic at the
door (``core/door.py``) and mean nothing afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationError,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ca_hpc.core.units import (
    format_duration,
    format_length,
    format_size,
    parse_duration,
    parse_length,
    parse_size,
)

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid")
SHORTEST_SLICE_S: Final = 120
# a file name of several of them must stay within the 255 bytes of a file system
MOST_IN_NAME = 64

# sbatch's options that tie jobs to their run: records, logs and dependencies hang on them
OWN_OPTIONS = frozenset(
    {"array", "dependency", "error", "job-name", "output", "parsable", "test-only", "wait", "wrap"}
)


def _duration(value: object) -> int:
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError('a duration is text with a unit, like "24:00:00", "90min" or "3h"')


def _slice(seconds: int) -> int:
    if seconds < SHORTEST_SLICE_S:
        raise ValueError(
            f"{format_duration(seconds)} is too short to start, train and save; write at least "
            f'"{format_duration(SHORTEST_SLICE_S)}", hours are usual'
        )
    return seconds


def _size(value: object) -> int:
    if isinstance(value, str):
        return parse_size(value)
    raise ValueError('a size is text with a unit, like "512MB" or "16GB"')


def _length(value: object) -> float:
    if isinstance(value, str):
        return parse_length(value)
    raise ValueError('a length is text with a unit, like "30mm"')


def _name(value: str) -> str:
    if not value or not all(c.isascii() and (c.isalnum() or c in "-_") for c in value):
        raise ValueError("use letters, digits, - and _ only: it becomes part of file names")
    if len(value) > MOST_IN_NAME:
        raise ValueError(f"use at most {MOST_IN_NAME} characters: it becomes part of file names")
    return value


def _line(value: str) -> str:
    # what follows a newline would be a line of the batch script, which is shell
    if not value.isprintable():
        raise ValueError("must be one line of printable characters")
    return value


def _option(value: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9-]*", value) is None:
        raise ValueError("write sbatch's long option without dashes: mail-type")
    if value in OWN_OPTIONS:
        raise ValueError("is set by ca-hpc itself")
    return value


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a null character, which no path or argument can")
    return value


def consistent(found: Callable[[T], Iterable[tuple[tuple[str, ...], str]]]) -> AfterValidator:
    """Refuse a value whose keys contradict each other: each is told at its own key.

    ``found``: paths of keys inside the value, and what is wrong there. (A ValueError would stand at
    the whole value, and tell one problem alone.)
    """

    def checked(value: T) -> T:
        details = [
            InitErrorDetails(
                type=PydanticCustomError("contradiction", "{text}", {"text": text}),
                loc=path,
                input=value,
            )
            for path, text in found(value)
        ]
        if details:
            raise ValidationError.from_exception_data("contradictions", details)
        return value

    return AfterValidator(checked)


# as long as a path may be
Text = Annotated[str, Strict(), Field(min_length=1, max_length=4096), AfterValidator(_text)]
Line = Annotated[Text, AfterValidator(_line)]
Name = Annotated[str, Strict(), AfterValidator(_name)]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
CountOrZero = Annotated[int, Strict(), Field(ge=0)]
Index = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Sha256 = Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Strict(), Field(gt=0, le=1)]
FractionOrZero = Annotated[float, Strict(), Field(ge=0, lt=1)]
Commit = Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{40}$")]
Sbatch = Mapping[Annotated[str, Strict(), AfterValidator(_option)], Line | Count | Flag]
# seconds inside, "HH:MM:SS" outside
Duration = Annotated[int, BeforeValidator(_duration), PlainSerializer(format_duration)]
# of a task that takes longer: one of the jobs that it goes on in
Slice = Annotated[Duration, AfterValidator(_slice)]
# mm inside, "30mm" outside
Length = Annotated[float, BeforeValidator(_length), PlainSerializer(format_length)]
# MiB inside, "16GB" outside
Size = Annotated[int, BeforeValidator(_size), PlainSerializer(format_size)]
