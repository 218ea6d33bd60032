"""Empty files: a scan looks at names only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Put = Callable[..., None]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Make empty files below the test's folder."""

    def make(*names: str) -> None:
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    return make


@pytest.fixture
def put_bids(put: Put) -> Put:
    """Make images of subjects (``sub-01_ses-a_T2w``) with their labels, by suffix."""

    def make(*stems: str, suffixes: tuple[str, ...] = ("_seg",), top: str = "bids") -> None:
        for stem in stems:
            session = [part for part in stem.split("_") if part.startswith("ses-")]
            folder = "/".join([stem.split("_")[0], *session, "anat"])
            put(f"{top}/{folder}/{stem}.nii.gz")
            for suffix in suffixes:
                put(f"{top}/derivatives/labels/{folder}/{stem}{suffix}.nii.gz")

    return make
