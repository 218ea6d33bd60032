"""Names of images in a store: a file each, which holds a sha256."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError, DigestMismatch, SpecError
from ca_hpc.images.reference import check_name
from ca_hpc.store import atomic
from ca_hpc.store.shared import READABLE, is_shared, owner, small_text

OWN_STORE: Final = "ask its owner, or name a store of your own: --store FOLDER, CA_HPC_STORE"

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Names:
    """Names in ``folder``, for all who use the store. ``listing``: the command that shows them."""

    folder: Path
    listing: str

    def all(self) -> dict[str, str]:
        """The sha256 that each name stands for. Raises CaHpcError where they may not be seen."""
        found = {file.name: _named(file) for file in listed(self.folder)}
        return {name: sha256 for name, sha256 in found.items() if sha256 is not None}

    def check(self, name: str, sha256: str) -> None:
        """That ``name`` may be given to an image. Raises SpecError for what is no name, and
        DigestMismatch where it stands for another image."""
        there = self.all().get(check_name(name), sha256)
        if there != sha256:
            raise DigestMismatch(
                f"image {name} in {self.folder.parent} is sha256:{there}, not sha256:{sha256}",
                hint="--replace gives the name to the new one; the old one keeps its sha256",
            )

    def give(self, name: str, sha256: str, *, replace: bool = False) -> None:
        """Let ``name`` stand for an image. Raises as ``check``, unless it is to be replaced,
        and CaHpcError where that is not this user's to do."""
        if self.all().get(check_name(name)) == sha256:
            return
        if not replace:
            self.check(name, sha256)
        file = self.folder / name
        try:
            mode = READABLE if is_shared(self.folder) else None
            atomic.write_text(file, f"{sha256}\n", mode=mode)
        except OSError as error:
            raise CaHpcError(
                f"the name {name} cannot be given: {file}: {error.strerror}",
                hint="it is somebody else's: choose another name",
            ) from error

    def take(self, name: str) -> None:
        """Let ``name`` stand for no image any more. Raises CaHpcError where it stands for none, or
        that is not this user's to do."""
        file = self.folder / check_name(name)
        try:
            file.unlink()
        except FileNotFoundError as error:
            raise CaHpcError(
                f"no name {name} in {self.folder.parent}", hint=self.listing
            ) from error
        except OSError as error:
            raise CaHpcError(
                f"the name {name} cannot be taken away: {file}: {error.strerror}",
                hint=f"ask {owner(file)}, who gave it, or {owner(file.parent)}, who owns the "
                "folder",
            ) from error


def listed(folder: Path) -> list[Path]:
    """What is in a folder of a store, if there is one. Raises CaHpcError."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CaHpcError(f"{folder} cannot be read: {error.strerror}", hint=OWN_STORE) from error


def _named(file: Path) -> str | None:
    """The sha256 that a name stands for. All of a group put files there: None for what is no
    name, or holds no sha256. Raises CaHpcError where that cannot be told."""
    try:
        text = small_text(file).strip() if check_name(file.name) else ""
    except (SpecError, ValueError, FileNotFoundError, PermissionError):
        return None
    except OSError as error:
        raise CaHpcError(f"{file} cannot be read: {error.strerror}", hint="try again") from error
    return text if _DIGEST.fullmatch(text) else None
