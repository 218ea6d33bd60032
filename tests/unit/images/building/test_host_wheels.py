"""Wheels of the host side: what pyproject.toml names, and all that these need."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tomllib

from ca_hpc.errors import CaHpcError
from ca_hpc.images.building.host_wheels import DIRECT, fetch_host_wheels, installed_with
from ca_hpc.processes import Finished

ROOT = Path(__file__).parents[4]


def test_they_are_what_the_package_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(line.split(">")[0] for line in project["dependencies"]) == sorted(DIRECT)


def test_what_they_need_comes_along_at_the_version_that_is_here(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], **given: Any) -> Finished:
        asked.append(argv)
        return Finished(0)

    fetch_host_wheels(tmp_path, run=run)
    (argv,) = asked
    assert argv[:4] == (sys.executable, "-m", "pip", "--disable-pip-version-check")
    assert f"pydantic-core=={metadata.version('pydantic-core')}" in argv
    assert [file.name[:6] for file in tmp_path.iterdir()] == ["ca_hpc"]


def test_without_an_index_it_says_how_to_do_without(tmp_path: Path) -> None:
    def run(argv: Sequence[str], **given: Any) -> Finished:
        return Finished(1, stderr="no matching distribution")

    with pytest.raises(CaHpcError, match="no matching distribution") as refused:
        fetch_host_wheels(tmp_path, run=run)
    assert "--without wheels" in (refused.value.hint or "")


def test_a_package_that_is_not_here_is_named() -> None:
    with pytest.raises(CaHpcError, match="no-such-package"):
        installed_with(["no-such-package"])
