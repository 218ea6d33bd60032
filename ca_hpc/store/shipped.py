"""Where the files beside the code are: definition files and profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError

#: top-level folders of the repository that are installed with the package (see ``setup.py``)
FOLDERS: Final = ("configs", "containers", "jobs")

PACKAGE: Final = Path(__file__).resolve().parents[1]
INSTALLED: Final = PACKAGE / "_shipped"


def is_installed() -> bool:
    """Whether this package was installed, and does not run from a checkout."""
    return INSTALLED.is_dir()


def shipped(*parts: str) -> Path:
    """A file or folder of ``configs/`` or ``containers/``: ``shipped("containers", "base.def")``.

    An installed package holds them in ``_shipped``; in a checkout they lie beside it. Raises
    :class:`CaHpcError` if there is none.
    """
    place = (INSTALLED if is_installed() else PACKAGE.parent).joinpath(*parts)
    if not place.exists():
        raise CaHpcError(f"{place} is missing", hint="install ca-hpc again")
    return place
