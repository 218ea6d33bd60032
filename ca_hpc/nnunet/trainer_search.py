"""Trainer classes by name: nnU-Net's own, and those of the folders in ``nnUNet_extTrainer``.

nnU-Net 2.8.1 (find_objects.py) imports every module of these folders until one has the name, and
so fails where one of them needs what is not installed, as timm needs a torchvision that fits torch.
Here the files are parsed, and only the one that defines the class is imported.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.folders import TRAINERS_VARIABLE
from ca_hpc.nnunet.uncollected import uncollected

OWN_PACKAGE: Final = ("nnunetv2", "training", "nnUNetTrainer")


@dataclass(frozen=True, slots=True)
class Definition:
    """A class in a file whose module is importable with ``folder`` on the path."""

    name: str
    file: Path
    folder: Path

    @property
    def module(self) -> str:
        return ".".join(self.file.relative_to(self.folder).with_suffix("").parts)


def resolve_trainer(name: str) -> type:
    """The nnU-Net trainer class of that name.

    Raises CaHpcError where there is none, where its module cannot be imported, and where it is not
    a nnU-Net trainer.
    """
    unreadable: list[str] = []
    known = list(_definitions(unreadable))
    places = [definition for definition in known if definition.name == name]
    theirs = [d for d in places if not d.module.startswith(f"{OWN_PACKAGE[0]}.")]
    if theirs and len(places) > 1:
        files = ", ".join(str(definition.file) for definition in places)
        raise CaHpcError(
            f"There are {len(places)} trainers {name}: {files}.",
            hint="Give yours a name of its own.",
        )
    if not places:
        if unreadable:
            raise CaHpcError(
                f"There is no trainer {name}, and these files cannot be parsed: "
                f"{'; '.join(unreadable)}.",
                hint="Repair them.",
            )
        near = difflib.get_close_matches(name, {definition.name for definition in known}, n=3)
        raise CaHpcError(
            f"There is no trainer {name}, neither nnU-Net's own nor in {TRAINERS_VARIABLE} "
            f"({os.environ.get(TRAINERS_VARIABLE) or 'not set'}).",
            hint=f"Did you mean {', '.join(near)}?" if near else "Check the name.",
        )
    with uncollected():
        found = _imported(places[0])
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    if not (isinstance(found, type) and issubclass(found, nnUNetTrainer)):
        raise CaHpcError(
            f"{name} ({places[0].module}) is not a nnU-Net trainer.",
            hint="Name a class that inherits from nnUNetTrainer.",
        )
    return found


def _definitions(unreadable: list[str]) -> Iterator[Definition]:
    import nnunetv2

    own = Path(nnunetv2.__path__[0]).parent
    yield from _defined_below(own.joinpath(*OWN_PACKAGE), folder=own, unreadable=unreadable)
    for path in os.environ.get(TRAINERS_VARIABLE, "").split(os.pathsep):
        if path.strip():
            yield from _defined_below(Path(path), folder=Path(path), unreadable=unreadable)


def _defined_below(place: Path, *, folder: Path, unreadable: list[str]) -> Iterator[Definition]:
    """The classes at the top of the modules below ``place``, outer folders first."""
    for file in sorted(place.rglob("*.py"), key=lambda file: (len(file.parts), file)):
        parts = file.relative_to(folder).with_suffix("").parts
        if not all(part.isidentifier() for part in parts) or parts[-1] == "__init__":
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError) as error:  # what cannot be parsed cannot be imported
            unreadable.append(f"{file.name} ({error})")
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                yield Definition(node.name, file, folder)


def _imported(definition: Definition) -> object:
    from nnunetv2.utilities.find_class_by_name import temporarily_extend_syspath

    try:
        with temporarily_extend_syspath(str(definition.folder)):
            module = importlib.import_module(definition.module)
    except (Exception, SystemExit) as error:
        # a user's module may do anything when it is imported; torch raises a RuntimeError at the
        # import of a torchvision that does not fit it
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CaHpcError(
            f"The trainer {definition.name} cannot be imported: {reason}",
            hint=f"{definition.module} in {definition.folder} needs more than is installed here.",
        ) from error
    origin = getattr(module, "__file__", None)  # those built into Python have none
    if origin is None or not definition.file.samefile(origin):
        raise CaHpcError(
            f"The trainer {definition.name} cannot be imported: {definition.file} has the name of "
            f"another module, {origin or module.__name__}.",
            hint="Rename the file.",
        )
    found: object = getattr(module, definition.name, None)
    return found
