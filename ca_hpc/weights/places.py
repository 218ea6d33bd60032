"""Where a checkpoint is: in a folder or zip of any layout that releases and trainings have.

The usual one is nnU-Net's: ``TRAINER__PLANS__CONFIGURATION/{plans,dataset}.json`` and
``fold_N/checkpoint_{final,best}.pth`` below it, itself below any number of folders.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Literal, TypeAlias

from ca_hpc.errors import CaHpcError
from ca_hpc.weights.zip_file import DAMAGED, FETCH_AGAIN, open_zip

Which: TypeAlias = Literal["final", "best"]

ENDINGS: Final = (".pth", ".pt", ".ckpt", ".safetensors")
CONFIGURATIONS: Final = ("3d_fullres", "3d_lowres")
REFUSED: Final = {
    "2d": "kernels with two axes fit no 3D network",
    "3d_cascade_fullres": "the second network of a cascade needs the first one's masks as input",
}
LARGEST_JSON: Final = 1 << 24  # bytes
_WHICH: Final[tuple[Which, ...]] = ("final", "best")


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


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A checkpoint by its name in the folder or zip, and what this says."""

    name: str

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)

    @property
    def fold(self) -> str | None:
        found = re.fullmatch(r"fold_(\d+|all)", self.path.parent.name)
        return found[1] if found else None

    @property
    def model(self) -> PurePosixPath:
        """The folder with plans.json."""
        return self.path.parent.parent if self.fold else self.path.parent

    @property
    def configuration(self) -> str | None:
        ends = [part.split("__")[-1] for part in self.path.parts[:-1]]
        return next((end for end in ends[::-1] if end in (*CONFIGURATIONS, *REFUSED)), None)

    @property
    def which(self) -> Which | None:
        return next((w for w in _WHICH if w in re.split(r"[-_.]", self.path.stem)), None)

    @property
    def rank(self) -> tuple[int, int]:
        """All cases first, then the folds in order, then what belongs to none."""
        match self.fold:
            case "all":
                return 0, 0
            case None:
                return 2, 0
            case number:
                return 1, int(number)


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
        found = _choose(names, place=path, fold=fold, which=which)
        plans, dataset_json = _beside(found, names, opened=lambda name: (path / name).open("rb"))
        file, member = path / found.name, None
    elif is_archive(path):
        with open_zip(path) as archive:
            names = archive.namelist()
            found = _choose(names, place=path, fold=fold, which=which)
            plans, dataset_json = _beside(found, names, opened=archive.open)
        file, member = path, found.name
    else:
        return Place(path, which=_Candidate(path.name).which)
    return Place(
        file=file,
        member=member,
        plans=plans,
        dataset_json=dataset_json,
        fold=found.fold,
        configuration=found.configuration,
        which=found.which,
        others=tuple(c.name for c in _candidates(names) if c != found),
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


def _candidates(names: Sequence[str]) -> list[_Candidate]:
    """Of all files, in order; macOS puts a ``__MACOSX/._NAME`` beside each NAME of a zip."""
    return [
        _Candidate(name)
        for name in sorted(names)
        if name.endswith(ENDINGS)
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    ]


def _choose(
    names: Sequence[str], *, place: Path, fold: str | None, which: Which | None
) -> _Candidate:
    candidates = _candidates(names)
    if not candidates:
        raise _nothing(names, place)
    usable = [c for c in candidates if c.configuration not in REFUSED]
    if not usable:
        kind = candidates[0].configuration or ""
        raise CaHpcError(
            f"{place} holds {kind} only: {REFUSED[kind]}.",
            hint=f"Give a model that has {' or '.join(CONFIGURATIONS)}.",
        )
    models = sorted({str(c.model) for c in usable})
    if len(models) > 1:
        raise CaHpcError(
            f"{place} holds {len(models)} models: {', '.join(models)}.",
            hint="Give the folder of one (of a zip: unpack it first).",
        )
    folds = {c.fold for c in usable}
    if fold is not None and fold not in folds:
        told = ", ".join(sorted(f for f in folds if f)) or "none"
        raise CaHpcError(
            f"{place} has no fold {fold}; its folds: {told}.", hint="Name one of them."
        )
    first = min(usable, key=lambda c: c.rank).fold if fold is None else fold
    usable = [c for c in usable if c.fold == first]
    wanted = _WHICH if which is None else (which,)
    named = [c for kind in wanted for c in usable if c.which == kind]
    if named or (which is None and len(usable) == 1):
        return (named or usable)[0]
    told = ", ".join(c.name for c in usable)
    raise CaHpcError(
        f"{place} holds {told}: {f'none is the {which} one' if which else 'which one is meant?'}",
        hint="Give the file itself.",
    )


def _nothing(names: Sequence[str], place: Path) -> CaHpcError:
    if any(name.endswith((".model", ".model.pkl", "plans.pkl")) for name in names):
        return CaHpcError(
            f"{place} holds a model of nnU-Net 1, whose networks nnU-Net 2 cannot load.",
            hint="Use a model that was trained with nnU-Net 2.",
        )
    inner = [name for name in names if name.endswith((".zip", ".tar.gz", ".tgz"))]
    return CaHpcError(
        f"{place} holds no checkpoint ({', '.join(ENDINGS)}): {sorted(names)[:5]}.",
        hint=f"Unpack it and give {inner[0]}." if inner else "Give another folder or file.",
    )


def _beside(
    found: _Candidate, names: Sequence[str], *, opened: Callable[[str], IO[bytes]]
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
