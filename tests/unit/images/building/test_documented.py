"""docs/images.md tells what the images hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca_hpc.images.building import recipes

DOCUMENT = Path(__file__).parents[4] / "docs/images.md"


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_every_package_is_listed_with_its_version(variant: str) -> None:
    words = " ".join(DOCUMENT.read_text().split())
    pins = recipes.base(variant).pins
    assert [pin.name for pin in pins if f"{pin.name} {pin.version}" not in words] == []
