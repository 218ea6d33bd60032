"""From a file of weights to its tensors and manifest, on a host without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ca_hpc.core.profile import Model, Network, TrainedOn
from ca_hpc.core.spec import ByAxis, Crop, PatchSize
from ca_hpc.errors import CaHpcError
from ca_hpc.weights.checkpoint import Checkpoint, check_finite, read_checkpoint
from ca_hpc.weights.manifest import Manifest, Source, TensorEntry
from ca_hpc.weights.tensors import distinct
from ca_hpc.weights.topology import Topology, tensor_shapes, topology_of

ARRAY_AXES: Final = ("SI", "AP", "RL")  # of an RPI file in nnU-Net's readers


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint, and the nnU-Net files that lay beside it."""

    file: Path
    checkpoint: Checkpoint
    topology: Topology
    plans: Mapping[str, Any] | None
    configuration: str
    dataset_json: Mapping[str, Any]


def read(
    file: Path,
    *,
    trust: bool = False,
    plans: Mapping[str, Any] | None = None,
    dataset_json: Mapping[str, Any] | None = None,
    configuration: str | None = None,
) -> Found:
    """Read a checkpoint file. ``plans`` and ``dataset_json``: of the files beside it, which its own
    ``init_args`` go before. Raises CaHpcError for what nnU-Net cannot start from."""
    checkpoint = read_checkpoint(file, trust=trust)
    check_finite(checkpoint.tensors, file=file)
    try:
        topology = topology_of({name: t.shape for name, t in checkpoint.tensors.items()})
    except CaHpcError as error:
        error.message = f"{file}: {error.message}"
        raise
    own = checkpoint.content.get("init_args")
    own = own if isinstance(own, dict) else {}
    return Found(
        file=file,
        checkpoint=checkpoint,
        topology=topology,
        plans=own.get("plans") or plans,
        configuration=own.get("configuration") or configuration or "3d_fullres",
        dataset_json=own.get("dataset_json") or dataset_json or {},
    )


def manifest_of(found: Found, *, sha256: str, source: Source, model: Model | None) -> Manifest:
    """The manifest. What ``model`` says counts, what the checkpoint says fills its gaps."""
    content = found.checkpoint.content
    network = model.network if model else None
    epochs = content.get("current_epoch", content.get("epoch"))
    trainer = content.get("trainer_name")
    return Manifest(
        sha256=sha256,
        source=source,
        family=found.checkpoint.family,
        channels=found.topology.channels,
        heads=found.topology.heads,
        tensors=_entries(found.checkpoint),
        network=network or _own_network(found),
        trained_on=_trained_on(found, model),
        profile=model.name if model else None,
        trainer=trainer if isinstance(trainer, str) else None,
        epochs=epochs if isinstance(epochs, int) else None,
        left_out=found.checkpoint.left_out,
    )


def _entries(checkpoint: Checkpoint) -> dict[str, TensorEntry]:
    stored = {tensor: name for name, tensor in distinct(checkpoint.tensors).items()}
    return {
        name: TensorEntry(
            tensor.dtype, tensor.shape, None if stored[tensor] == name else stored[tensor]
        )
        for name, tensor in checkpoint.tensors.items()
    }


def _configuration(found: Found) -> Mapping[str, Any] | None:
    """The configuration's keys, those that it inherits included (nnU-Net 2, plans_handler.py)."""
    configurations = (found.plans or {}).get("configurations")
    out: dict[str, Any] = {}
    name: object = found.configuration
    while isinstance(configurations, Mapping) and isinstance(name, str) and name in configurations:
        out = {**configurations[name], **out}
        configurations = {k: v for k, v in configurations.items() if k != name}
        name = out.pop("inherits_from", None)
    return out or None


def _own_network(found: Found) -> Network | None:
    """What the plans say of the network, or None where they do not say on which axes it lies."""
    own, plans = _configuration(found), found.plans or {}
    try:
        if own is None:
            return None
        axes = tuple(ARRAY_AXES[int(i)] for i in plans["transpose_forward"])
        patch = dict(zip(axes, map(int, own["patch_size"]), strict=True))
        batch = int(own["batch_size"])
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    architecture = _architecture(found, own)
    return Network(
        axes=axes,  # type: ignore[arg-type]
        patch_size=PatchSize(**patch),
        batch_size=batch,
        arch_kwargs=architecture["arch_kwargs"],
        network_class_name=architecture["network_class_name"],
        requires_import=tuple(architecture["_kw_requires_import"]),
    )


def _architecture(found: Found, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plans' where the tensors agree with it; else what the tensors' shapes say.

    Plans before nnU-Net 2.4 have none, and plans may be edited without anything coming of it.
    """
    topology = found.topology
    told = own.get("architecture")
    if isinstance(told, Mapping):
        shapes = tensor_shapes(
            told["arch_kwargs"],
            network_class_name=told["network_class_name"],
            channels=topology.channels,
            heads=topology.heads or 1,
        )
        tensors = found.checkpoint.tensors
        if shapes is not None and shapes == {n: tensors[n].shape for n in shapes if n in tensors}:
            return told
    return {
        "network_class_name": topology.network_class_name,
        "arch_kwargs": topology.arch_kwargs,
        "_kw_requires_import": topology.requires_import,
    }


def _trained_on(found: Found, model: Model | None) -> TrainedOn:
    own, plans = _configuration(found) or {}, found.plans or {}
    axes = [ARRAY_AXES[int(i)] for i in plans.get("transpose_forward", ())]
    spacing = own.get("spacing")
    orientation = found.dataset_json.get("image_orientation")
    crop = found.dataset_json.get("crop")
    seen = TrainedOn(
        orientation=orientation if isinstance(orientation, str) else None,
        spacing=(
            ByAxis(**{axis: float(mm) for axis, mm in zip(axes, spacing, strict=True)})
            if spacing and len(axes) == len(spacing) == 3
            else None
        ),
        crop=(
            Crop(to=crop["to"], margin=float(crop["margin_mm"]))
            if isinstance(crop, Mapping)
            else "none" if crop == "none" else None
        ),
        channels=found.topology.channels,
    )  # fmt: skip
    return seen if model is None else known_of_both(model.trained_on, seen)


def known_of_both(first: TrainedOn, second: TrainedOn) -> TrainedOn:
    """What ``first`` says, its gaps filled by ``second``."""
    said = {
        f.name: value
        for f in dataclasses.fields(TrainedOn)
        if (value := getattr(first, f.name)) is not None
    }
    return dataclasses.replace(second, **said)
