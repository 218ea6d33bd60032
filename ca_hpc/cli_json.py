"""``--json``: one object on stdout, whatever happens: what was found, the error, or both.

Commands ``answer``; printing is left to the end, where it is known what has failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Final

import typer

from ca_hpc.errors import CaHpcError

FLAG: Final = "--json"
AsJson = Annotated[bool, typer.Option(FLAG, help="JSON for programs.")]

_ANSWER: ContextVar[dict[str, Any]] = ContextVar("answer")


@contextmanager
def one_object() -> Iterator[None]:
    """Print what was answered when the block ends, however it ends; nothing if nothing was."""
    found: dict[str, Any] = {}
    before = _ANSWER.set(found)
    try:
        yield
    finally:
        _ANSWER.reset(before)
        if found:
            typer.echo(json.dumps(found, indent=2, default=str))


def answer(found: Mapping[str, Any]) -> None:
    """Add to the object that is printed at the end."""
    _ANSWER.get().update(found)


def answer_error(error: CaHpcError) -> None:
    """The error as a part of the object, if ``--json`` was asked for.

    The words of the command line are looked at: those that are wrong have not been parsed.
    """
    if FLAG in sys.argv:
        told = {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
        answer({"error": told})
