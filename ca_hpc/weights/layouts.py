"""Which of the files of a release or training is the checkpoint, by their names alone. Pure.

nnU-Net's layout is ``TRAINER__PLANS__CONFIGURATION/{plans,dataset}.json`` and below it
``fold_N/checkpoint_{final,best}.pth``; releases have it below any number of folders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, TypeAlias

from ca_hpc.errors import CaHpcError

Which: TypeAlias = Literal["final", "best"]

ENDINGS: Final = (".pth", ".pt", ".ckpt", ".safetensors")
CONFIGURATIONS: Final = ("3d_fullres", "3d_lowres")
REFUSED: Final = {
    "2d": "kernels with two axes fit no 3D network",
    "3d_cascade_fullres": "the second network of a cascade needs the first one's masks as input",
}
_WHICH: Final[tuple[Which, ...]] = ("final", "best")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint by its name in the folder or zip, and what this says."""

    name: str

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)

    @property
    def fold(self) -> str | None:
        found = re.fullmatch(r"fold_(\d{1,4}|all)", self.path.parent.name)
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


def candidates(names: Sequence[str]) -> list[Candidate]:
    """Of all files, in order; macOS puts a ``__MACOSX/._NAME`` beside each NAME of a zip."""
    return [
        Candidate(name)
        for name in sorted(names)
        if name.endswith(ENDINGS)
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    ]


def choose(names: Sequence[str], *, place: str, fold: str | None, which: Which | None) -> Candidate:
    """The checkpoint of ``fold``, else of all cases, else of the first fold.

    ``which``: without it the final one, else the best, else the only one.
    ``place`` is what the messages call the folder or zip with the files ``names``. Raises
    CaHpcError where there is none or several come into question, and for networks that nnU-Net
    cannot start from.
    """
    found = candidates(names)
    if not found:
        raise _nothing(names, place)
    usable = [c for c in found if c.configuration not in REFUSED]
    if not usable:
        kind = found[0].configuration or ""
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
    kinds = [kind for kind in _WHICH if kind in {c.which for c in usable}]
    wanted = which or next(iter(kinds), None)
    matching = [c for c in usable if wanted in (None, c.which)]
    if len(matching) == 1:
        return matching[0]
    told = ", ".join(c.name for c in matching or usable)
    why = "which one is meant?" if matching else f"none is the {which} one."
    raise CaHpcError(f"{place} holds {told}: {why}", hint="Give the file itself.")


def _nothing(names: Sequence[str], place: str) -> CaHpcError:
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
