"""Where a checkpoint is: a file, or in a folder or zip of any layout that is known."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from ca_hpc.errors import CaHpcError
from ca_hpc.weights.layouts import Candidate, Which, candidates, choose
from ca_hpc.weights.zip_file import DAMAGED, FETCH_AGAIN, open_zip

LARGEST_JSON: Final = 1 << 24  # bytes


@dataclass(frozen=True, slots=True)
class Place:
    """One checkpoint. ``file``: the checkpoint itself, or the zip in which it is ``member``.

    ``plans``, ``dataset_json``: nnU-Net's files beside it. ``which`` is None for a file of another
    name. ``others``: the checkpoints that were not chosen, by their path in the folder or zip.
    """

    file: Path
    member: str | None = None
    plans: dict[str, Any] | None = None
    dataset_json: dict[str, Any] | None = None
    fold: str | None = None
    configuration: str | None = None
    which: Which | None = None
    others: tuple[str, ...] = ()


def is_archive(path: Path) -> bool:
    """Whether this is a zip to look into, rather than one of torch's, which are zips as well.

    Of a damaged one the ending decides.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in archive.namelist())
    except (*DAMAGED, OSError):
        return path.suffix.lower() == ".zip"


def find_checkpoint(path: Path, *, fold: str | None = None, which: Which | None = None) -> Place:
    """The checkpoint in a folder or zip: of ``fold``, else of all cases, else of the first fold.

    Without ``which`` the final one, else the best, else the only one; a file is its own place.
    Raises CaHpcError where there is none or several come into question, for networks that nnU-Net
    cannot start from, and for zips that are damaged or not safe.
    """
    if path.is_dir():
        names = _files(path)
        found = choose(names, place=str(path), fold=fold, which=which)
        plans, dataset_json = _beside(found, names, opened=lambda name: (path / name).open("rb"))
        file, member = path / found.name, None
    elif is_archive(path):
        with open_zip(path) as archive:
            names = archive.namelist()
            found = choose(names, place=str(path), fold=fold, which=which)
            plans, dataset_json = _beside(found, names, opened=archive.open)
        file, member = path, found.name
    else:
        return Place(path, which=Candidate(path.name).which)
    return Place(
        file=file,
        member=member,
        plans=plans,
        dataset_json=dataset_json,
        fold=found.fold,
        configuration=found.configuration,
        which=found.which,
        others=tuple(c.name for c in candidates(names) if c != found),
    )


def extract(place: Place, into: Path) -> Path:
    """The checkpoint as a file: itself, or copied out of its zip into the folder ``into``.

    Raises CaHpcError where the zip is damaged, OSError where ``into`` cannot take the file.
    """
    if place.member is None:
        return place.file
    target = into / PurePosixPath(place.member).name
    with open_zip(place.file) as archive, target.open("xb") as copy:
        try:
            with archive.open(place.member) as member:
                shutil.copyfileobj(member, copy)
        except DAMAGED as error:
            target.unlink()
            raise CaHpcError(
                f"{place.file} is damaged: {place.member} cannot be read ({error}).",
                hint=FETCH_AGAIN,
            ) from error
    return target


def _files(folder: Path) -> list[str]:
    return [
        str((Path(where) / name).relative_to(folder))
        for where, _, names in os.walk(folder)
        for name in names
    ]


def _beside(
    found: Candidate, names: Sequence[str], *, opened: Callable[[str], IO[bytes]]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """plans.json and dataset.json of the model, None where it has none."""

    def read(name: str) -> dict[str, Any] | None:
        path = str(found.model / name)
        if path not in names:
            return None
        try:
            with opened(path) as stream:
                content = json.loads(stream.read(LARGEST_JSON))
        except (*DAMAGED, RecursionError) as error:
            raise CaHpcError(f"{path} is no JSON: {error}.", hint=FETCH_AGAIN) from error
        return content if isinstance(content, dict) else None

    return read("plans.json"), read("dataset.json")
