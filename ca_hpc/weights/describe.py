"""From a file of weights to its tensors and manifest, on a host without torch."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from ca_hpc.core import door
from ca_hpc.core.profile import ORIENTATION, Axis, Model, Network, TrainedOn
from ca_hpc.errors import CaHpcError
from ca_hpc.weights.architecture import HEAD
from ca_hpc.weights.checkpoint import Checkpoint, check_finite, read_checkpoint
from ca_hpc.weights.manifest import Manifest, Source, TensorEntry
from ca_hpc.weights.tensors import distinct
from ca_hpc.weights.topology import Topology, canonical_name, tensor_shapes, topology_of

T = TypeVar("T")

AXIS_OF: Final[Mapping[str, Axis]] = {
    "R": "RL", "L": "RL", "A": "AP", "P": "AP", "S": "SI", "I": "SI"
}  # fmt: skip
REORIENTING: Final = "NibabelIOWithReorient"  # the one reader of nnU-Net that does: to this order


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint, and the nnU-Net files that lay beside it."""

    file: Path
    checkpoint: Checkpoint
    topology: Topology
    plans: Mapping[str, Any]
    configuration: object
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
        plans=_mapping(own.get("plans") or plans),
        configuration=own.get("configuration") or configuration or "3d_fullres",
        dataset_json=_mapping(own.get("dataset_json") or dataset_json),
    )


def manifest_of(found: Found, *, sha256: str, source: Source, model: Model | None) -> Manifest:
    """The manifest. What ``model`` says counts, what the checkpoint says fills its gaps."""
    content = found.checkpoint.content
    trained_on = _trained_on(found, model)
    network = _own_network(found, trained_on)
    doubt = None
    if model is not None and model.network is not None:
        doubt = disagreement(model, network)
        network = model.network
        if doubt is not None:  # its spacing is by its axes
            trained_on = dataclasses.replace(trained_on, spacing=model.trained_on.spacing)
    epochs = content.get("current_epoch", content.get("epoch"))
    trainer = content.get("trainer_name")
    return Manifest(
        sha256=sha256,
        source=source,
        family=found.checkpoint.family,
        channels=found.topology.channels,
        heads=found.topology.heads,
        tensors=_entries(found.checkpoint),
        network=network,
        trained_on=trained_on,
        labels=_labels(found),
        profile=model.name if model else None,
        trainer=trainer if isinstance(trainer, str) else None,
        epochs=epochs if type(epochs) is int else None,
        prefix=found.checkpoint.prefix,
        left_out=found.checkpoint.left_out,
        doubts=() if doubt is None else (doubt,),
    )


def disagreement(model: Model, own: Network | None) -> str | None:
    """A sentence where profile and checkpoint name other axes: kernels of 3x3x3 tell nothing."""
    if model.network is None or own is None or own.axes == model.network.axes:
        return None
    return (
        f"axes: profile {model.name} says {', '.join(model.network.axes)}, and counts; the "
        f"checkpoint's own plans say {', '.join(own.axes)}. Is it the right profile?"
    )


def _labels(found: Found) -> Mapping[str, int] | None:
    labels = dict(_mapping(found.dataset_json.get("labels")))
    labels.pop("background", None)
    plain = all(isinstance(k, str) and type(v) is int for k, v in labels.items())
    return labels if labels and plain else None  # regions are lists of values


def _entries(checkpoint: Checkpoint) -> dict[str, TensorEntry]:
    stored = {tensor: name for name, tensor in distinct(checkpoint.tensors).items()}
    return {
        name: TensorEntry(
            tensor.dtype, tensor.shape, None if stored[tensor] == name else stored[tensor]
        )
        for name, tensor in checkpoint.tensors.items()
    }


def _configuration(found: Found) -> Mapping[str, Any]:
    """The configuration's keys, those that it inherits included (nnU-Net 2, plans_handler.py)."""
    configurations = dict(_mapping(found.plans.get("configurations")))
    out: dict[str, Any] = {}
    name = found.configuration
    while isinstance(name, str) and name in configurations:
        out = {**_mapping(configurations.pop(name)), **out}
        name = out.pop("inherits_from", None)
    return out


def _axes(found: Found, trained_on: TrainedOn) -> tuple[Axis, ...]:
    """The anatomical axis of each of the network's; none where the plans do not say.

    Of data sets that do not say their orientation, ours is a guess.

    All of nnU-Net's readers give arrays whose axes are those of the image in reverse.
    """
    reoriented = found.plans.get("image_reader_writer") == REORIENTING
    orientation = ORIENTATION if reoriented else trained_on.orientation or ORIENTATION
    in_array = [AXIS_OF[letter] for letter in reversed(orientation)]
    order = found.plans.get("transpose_forward")
    if not isinstance(order, list | tuple) or sorted(map(str, order)) != ["0", "1", "2"]:
        return ()
    return tuple(in_array[int(i)] for i in order)


def _by_axis(axes: tuple[Axis, ...], values: object) -> dict[str, object]:
    """``values`` (a list in the order of ``axes``) by axis; empty where they do not match."""
    fits = isinstance(values, list | tuple) and len(values) == len(axes)
    return dict(zip(axes, values, strict=True)) if fits else {}  # type: ignore[call-overload]


def _own_network(found: Found, trained_on: TrainedOn) -> Network | None:
    """What the plans say of the network, or None where they do not say on which axes it lies."""
    own, axes = _configuration(found), _axes(found, trained_on)
    architecture = _architecture(found, own)
    return _checked(
        Network,
        {
            "axes": axes,
            "patch_size": _by_axis(axes, own.get("patch_size")),
            "batch_size": own.get("batch_size"),
            "arch_kwargs": architecture["arch_kwargs"],
            "network_class_name": architecture["network_class_name"],
            "requires_import": architecture["_kw_requires_import"],
        },
    )


def _architecture(found: Found, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plans' where the tensors agree with it; else what the tensors' shapes say.

    Plans before nnU-Net 2.4 have none, and plans may be edited without anything coming of it.
    """
    topology, told = found.topology, _mapping(own.get("architecture"))
    try:
        shapes = tensor_shapes(
            told["arch_kwargs"],
            network_class_name=told["network_class_name"],
            channels=topology.channels,
            heads=topology.heads or 1,
        )
        agreed = shapes is not None and _without_aliases(shapes) == _without_aliases(
            {name: tensor.shape for name, tensor in found.checkpoint.tensors.items()}
        )
    except (CaHpcError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        agreed = False  # keys are missing, or contradict each other
    if agreed and "_kw_requires_import" in told:
        return told
    return {
        "network_class_name": topology.network_class_name,
        "arch_kwargs": topology.arch_kwargs,
        "_kw_requires_import": topology.requires_import,
    }


def _without_aliases(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Each tensor under one of its names: files may leave the others out, and the head."""
    return {canonical_name(name): shapes[name] for name in shapes if HEAD not in name}


def _trained_on(found: Found, model: Model | None) -> TrainedOn:
    crop = found.dataset_json.get("crop")
    if isinstance(crop, Mapping):
        margin = crop.get("margin_mm")
        crop = {"to": crop.get("to"), "margin": f"{margin}mm"}
    said = {
        "orientation": found.dataset_json.get("image_orientation"),
        "crop": crop,
        "channels": found.topology.channels,
    }
    # one by one: an unknown word for one of them does not make the others unknown
    seen = _all_known(_checked(TrainedOn, {key: value}) for key, value in said.items())
    if model is not None:
        seen = known_of_both(model.trained_on, seen)
    spacing = _by_axis(_axes(found, seen), _configuration(found).get("spacing"))
    return known_of_both(seen, _checked(TrainedOn, {"spacing": spacing}) or TrainedOn())


def _all_known(parts: Iterable[TrainedOn | None]) -> TrainedOn:
    return functools.reduce(known_of_both, (part for part in parts if part), TrainedOn())


def _checked(kind: type[T], said: Mapping[str, object]) -> T | None:
    """``said`` in a file of others, held to the rules for what users write; None: it breaks them.

    A manifest that breaks them could not be read back.
    """
    try:
        return door.load(kind, json.dumps(said))
    except (TypeError, ValueError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def known_of_both(first: TrainedOn, second: TrainedOn) -> TrainedOn:
    """What ``first`` says, its gaps filled by ``second``."""
    said = {
        f.name: value
        for f in dataclasses.fields(TrainedOn)
        if (value := getattr(first, f.name)) is not None
    }
    return dataclasses.replace(second, **said)
