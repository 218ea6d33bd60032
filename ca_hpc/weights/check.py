"""Do weights fit a network and a task? Pure; asked at submission and once more by the node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ca_hpc.core.data_spec import Crop
from ca_hpc.core.profile import ORIENTATION, Axis, Model, Network
from ca_hpc.core.spec import ByAxis, JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.weights.architecture import HEAD, Shape
from ca_hpc.weights.manifest import Manifest
from ca_hpc.weights.topology import canonical_name, tensor_shapes

MANY_EPOCHS: Final = 1000
UNNAMED: Final = "pretrained"  # the model of weights that belong to no profile
# nnU-Net's planner takes the axis of the largest spacing first and leaves the others as they are
PLANNED_AXES: Final[tuple[tuple[Axis, Axis, Axis], ...]] = (
    ("SI", "AP", "RL"),
    ("AP", "SI", "RL"),
    ("RL", "SI", "AP"),
)


def check_profile(manifest: Manifest, model: Model) -> None:
    """Whether weights can bear the name of ``model``. Raises CaHpcError."""
    channels = model.trained_on.channels
    if channels not in (None, manifest.channels):
        raise CaHpcError(
            f"weights {manifest.source.name} have {_count(manifest.channels, 'input channel')}, "
            f"profile {model.name} says {channels}",
            hint=_ANOTHER,
        )
    if model.network is None and manifest.network is None:
        raise CaHpcError(
            f"profile {model.name} leaves its network to the release's own plans, and "
            f"{manifest.source.name} has none: it is another release",
            hint=_ANOTHER,
        )
    if model.network is not None:
        try:
            check_fit(manifest, model.network, name=model.name)
        except CaHpcError as error:
            error.hint = _ANOTHER
            raise


def check_fit(manifest: Manifest, network: Network, *, name: str) -> None:
    """Every tensor's shape against the network that ``network``'s topology gives.

    Raises CaHpcError with the first that differs. A network class that is not known here is checked
    at the end of preprocess, on the network itself.
    """
    expected = tensor_shapes(
        network.arch_kwargs,
        network_class_name=network.network_class_name,
        channels=manifest.channels,
        heads=manifest.heads or 1,
    )
    if expected is None:
        return
    found, wanted = _body(manifest.shapes), _body(expected)
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    extra = [key for key in found if key not in wanted]
    if not differing and not extra:
        return
    told = [
        f"{len(differing)} of {_count(len(wanted), 'tensor')} differ{'s' * (len(differing) == 1)}, "
        f"first {key}: {_told(found.get(key))} in the file, {_told(wanted[key])} in the network"
        for key in differing[:1]
    ]
    told += [f"{key} is in the file only" for key in extra[:1]]
    raise CaHpcError(
        f"weights {manifest.source.name} do not fit the network of {name}: {'; '.join(told)}",
        hint="leave `model` out, to take the network from the weights, or name the right profile"
        if manifest.network is not None
        else "name the profile that these weights belong to, or write one of your own",
    )


def check_task(
    manifest: Manifest, spec: JobSpec, *, channels: int, targets: Sequence[str], regions: bool
) -> None:
    """Input channels, and for arms that keep the head its outputs. Raises CaHpcError.

    ``targets``: labels or regions of the data, without background; a raw nnU-Net data set brings
    its own.
    """
    own = manifest.channels
    if channels < own:
        raise CaHpcError(
            f"the weights have {_count(own, 'input channel')}, the images {channels}",
            hint="give each case all channels, in the order of the pretraining",
        )
    if channels > own and spec.stem == "exact":
        raise CaHpcError(
            f"the images have {_count(channels, 'channel')}, the weights {own} (first layer)",
            hint="stem: repeat, so that every channel starts from the weights' own, scaled; or "
            f"give {_count(own, 'channel')}",
        )
    # nnU-Net: a label each and the background compete; regions are outputs of their own
    heads = len(targets) + (not regions)
    need = (
        f"{_count(len(targets), 'region')} need {heads}"
        if regions
        else f"{_count(len(targets), 'label')} and the background need {heads}"
    )
    for arm, setting in spec.arms.items():
        if setting.head == "new" or setting.weights == "random":
            continue
        if manifest.heads != heads:
            raise CaHpcError(
                f"arms.{arm} keeps the weights' head, which has {manifest.heads or 'no'} "
                f"output{'s' * (manifest.heads != 1)}; {need}",
                hint="head: new, or the labels of the pretraining",
            )
        if regions and manifest.labels is not None:
            raise CaHpcError(
                f"arms.{arm} keeps the head of weights for {_numbered(manifest.labels)}; the data "
                f"have regions ({', '.join(targets)})",
                hint="head: new",
            )


def about_head(spec: JobSpec, manifest: Manifest, *, labels: Mapping[str, int]) -> Iterator[str]:
    """A sentence if a kept head was trained for labels of other names or values."""
    kept = [n for n, a in spec.arms.items() if a.head == "pretrained" and a.weights != "random"]
    if kept and manifest.labels is not None and dict(manifest.labels) != dict(labels):
        yield (
            f"arms.{kept[0]} keeps the head of weights for {_numbered(manifest.labels)}; the data "
            f"have {_numbered(labels)}"
        )


def warnings(spec: JobSpec, model: Model | None, *, labels: Sequence[str]) -> Iterator[str]:
    """What is allowed and yet seldom meant, one sentence each, with the way out.

    ``model``: what profile and weights together say; ``labels``: of the data.
    """
    yield from _about_epochs(spec)
    others = [name for name in labels if spec.crop != "none" and name != spec.crop.to]
    if spec.crop != "none" and others:
        yield (
            f"crop: labels are cut around {spec.crop.to}; {' and '.join(others)} may lose parts "
            "(label_voxels_lost in cases.tsv)"
        )
    if model is None or model.network is None or not spec.pretrained:
        return
    trained = model.trained_on
    if trained.orientation is None and model.name == UNNAMED:
        yield (
            "the weights do not say in which orientation their images were: their axes "
            f"({', '.join(model.network.axes)}) hold for {ORIENTATION}"
        )
    # the order of its letters does not matter: the network's axes are known
    if trained.orientation is not None and set(trained.orientation) != set(ORIENTATION):
        yield (
            f"the weights were trained on images in {trained.orientation}, and here every image is "
            f"brought to {ORIENTATION}: {_mirrored(trained.orientation)} the other way round "
            "(of little weight where they were trained with mirroring, nnU-Net's default)"
        )
    if trained.crop == "none" and spec.crop != "none":
        yield (
            f"crop: the images are cut to {spec.crop.to}, the weights were trained on whole ones; "
            "`crop: none` leaves them whole"
        )
    if trained.crop not in (None, "none") and spec.crop == "none":
        crop = trained.crop if isinstance(trained.crop, Crop) else Crop()
        yield (
            f"crop: the weights were trained on images cut to {crop.to}, these are whole; "
            f"`crop: {{to: {crop.to}, margin: {crop.margin:g}mm}}` cuts them"
        )
    yield from _about_spacing(spec, trained.spacing)
    if spec.plans.axes == "recipe":
        axes = model.network.axes
        yield (
            "plans.axes: recipe leaves the axes to the planner; the weights were trained on "
            f"{', '.join(axes)}"
            + ("" if axes in PLANNED_AXES else ", which no planner chooses")
            + "; `axes: anatomical` keeps them"
        )


def _about_spacing(spec: JobSpec, trained: ByAxis | None) -> Iterator[str]:
    wanted = spec.plans.spacing
    if trained is None or wanted in ("model", trained):
        return
    told = " x ".join(f"{getattr(trained, axis):g}" for axis in ("RL", "AP", "SI"))
    start = f"plans.spacing: the weights were trained at {told} mm (RL x AP x SI), "
    if wanted == "dataset" or (wanted is None and spec.plans.axes == "recipe"):
        yield start + "the planner will choose by the data; `spacing: model` keeps theirs"
    elif wanted is not None:
        yield start + "other than here; `spacing: model` keeps theirs"


def _about_epochs(spec: JobSpec) -> Iterator[str]:
    for name, arm in spec.arms.items():
        epochs = spec.training.epochs if arm.epochs is None else arm.epochs
        if arm.weights == "pretrained" and epochs >= MANY_EPOCHS:
            yield (
                f"arms.{name}: {epochs} epochs; pretrained weights have been trained already, and "
                f"the transfer-learning guide asks for fewer than {MANY_EPOCHS}"
            )


def _body(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """All tensors but the head's, by one of their names: files may leave the others out.

    The head is made anew for the labels at hand, as in nnU-Net's load_pretrained_weights.
    """
    return {canonical_name(name): shapes[name] for name in shapes if not name.startswith(HEAD)}


def _numbered(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())


def _told(shape: Shape | None) -> str:
    return "missing" if shape is None else str(shape)


def _mirrored(orientation: str) -> str:
    pairs = {"L": "left and right are", "A": "front and back are", "S": "top and bottom are"}
    return ", ".join(told for letter, told in pairs.items() if letter in orientation)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


_ANOTHER: Final = (
    "name another profile (--profile), or none: then a job takes the network from the weights, or "
    "names a profile itself"
)
