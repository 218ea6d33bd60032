"""``pytest tests/golden --update-golden`` records the texts anew; look at the difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "recorded"
Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="record what is produced now")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """``golden(name, text)``: ``text`` is what was recorded under ``name``."""

    def compare(name: str, text: str) -> None:
        file = RECORDED / name
        if request.config.getoption("--update-golden", default=False):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.is_file(), (
            f"nothing is recorded in {file.name}: pytest {file.parents[1]} --update-golden"
        )
        assert text == file.read_text(encoding="utf-8")

    return compare
