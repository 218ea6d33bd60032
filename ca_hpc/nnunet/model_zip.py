"""A trained model as nnU-Net's own export lays it out, smaller, and with nothing private in it."""

from __future__ import annotations

import ast
import inspect
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.nnunet.trainer_search import resolve_trainer
from ca_hpc.weights.checkpoint import Checkpoint

#: writes one file of the zip
Member: TypeAlias = Callable[[IO[bytes]], object]

# What a trainer is constructed with, less ``device``, which tells of where it ran.
INIT_ARGUMENTS: Final = ("plans", "configuration", "fold", "dataset_json")
_TIME: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: equal contents, equal zips


def write_zip(target: Path, members: Mapping[str, Member], *, largest: int) -> None:
    """Write a zip of ``members`` by name, whose bytes depend on them alone.

    Stored, not compressed: weights do not get smaller. ``largest``: what no member exceeds, bytes.
    Raises OSError.
    """
    with zipfile.ZipFile(target, "w") as archive:
        for name, write in sorted(members.items()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            entry.file_size = largest  # beyond 2 GB zipfile must know beforehand
            with archive.open(entry, "w") as stream:
                write(stream)


def write_reduced(checkpoint: Checkpoint, stream: IO[bytes]) -> None:
    """What predicting and pretraining need of a nnU-Net checkpoint, in ``torch.save``'s format.

    nnUNetPredictor (nnU-Net 2.8.1) reads all keys here but ``optimizer_state`` and
    ``current_epoch``. The optimiser's state would be as large as the network; logs have numpy's
    scalars, which ``torch.load(weights_only=True)`` refuses and numpy 1 does not know.
    """
    content = checkpoint.content
    arguments = {key: content["init_args"][key] for key in INIT_ARGUMENTS}
    mirroring = content["inference_allowed_mirroring_axes"]
    reduced: dict[str, Any] = {
        "network_weights": as_torch(checkpoint.tensors),
        "optimizer_state": None,
        "current_epoch": content["current_epoch"],
        # pickle refers back to an object that it meets again; after this none is met again
        "init_args": json.loads(json.dumps(arguments)),
        "trainer_name": content["trainer_name"],
        "inference_allowed_mirroring_axes": None if mirroring is None else tuple(mirroring),
    }
    torch.save(reduced, stream)  # a path would go into the bytes


def _neighbours(file: Path, source: str) -> list[str]:
    """The modules in the file's own folder that it imports."""
    nodes = [node for node in ast.walk(ast.parse(source)) if not isinstance(node, ast.expr)]
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    first = {name.split(".")[0] for name in names}
    return sorted(p.name for p in file.parent.glob("*.py") if p.stem in first and p != file)


def trainer_source(name: str) -> str | None:
    """A trainer's module, with the function by which SCT finds it; None for nnU-Net's own.

    Raises CaHpcError where there is no such trainer.
    """
    trainer = resolve_trainer(name)
    if trainer.__module__.split(".")[0] == "nnunetv2":
        return None
    file = Path(inspect.getfile(trainer))
    source = file.read_text(encoding="utf-8")
    if needed := _neighbours(file, source):
        raise CaHpcError(
            f"the trainer {name} needs {', '.join(needed)} beside {file.name}, and a model takes "
            "along one file only",
            hint="put what it needs into its own file, and train with that",
        )
    if "def get_trainer_class" in source:
        return source
    return f"{source.rstrip()}\n\n\ndef get_trainer_class():\n    return {name}\n"
