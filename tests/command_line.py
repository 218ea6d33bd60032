"""``ca-hpc`` called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ca_hpc import cli


@dataclass(frozen=True)
class Shown:
    """What the shell sees."""

    code: object
    out: str
    err: str


Call = Callable[..., Shown]


def called(
    *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shown:
    monkeypatch.setattr(sys, "argv", ["ca-hpc", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return Shown(ended.value.code or 0, *capsys.readouterr())
