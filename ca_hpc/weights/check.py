"""Do weights fit a network and a task? Pure; asked at submission and once more by the node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ca_hpc.core.profile import Network
from ca_hpc.core.spec import FinetuneSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.weights.manifest import Manifest
from ca_hpc.weights.topology import tensor_shapes

HEAD = ".seg_layers."  # made anew for the labels at hand, as in nnU-Net's load_pretrained_weights
MANY_EPOCHS = 1000


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
    found = manifest.shapes
    wanted = [key for key in expected if HEAD not in key]
    differing = [key for key in wanted if found.get(key) != expected[key]]
    if not differing:
        return
    first = differing[0]
    raise CaHpcError(
        f"weights {manifest.source.name} do not fit the network of {name}: {len(differing)} of "
        f"{len(wanted)} tensors differ, first {first}: {_told(found.get(first))} in the file, "
        f"{_told(expected[first])} in the network{_stages(found, expected)}",
        hint="leave `model` out, to take the network from the weights, or name the right profile"
        if manifest.network is not None
        else "name the profile that these weights belong to, or write one of your own",
    )


def check_task(manifest: Manifest, spec: FinetuneSpec, *, channels: int) -> None:
    """Input channels, and for arms that keep the head its outputs. Raises CaHpcError."""
    own = manifest.channels
    if channels < own:
        raise CaHpcError(
            f"the weights have {own} input channels, the images {channels}",
            hint="give each case all channels, in the order of the pretraining",
        )
    if channels > own and spec.stem == "exact":
        raise CaHpcError(
            f"the images have {channels} channels, the weights {own} (first layer)",
            hint="stem: repeat starts every channel from the weights' own, scaled; or give "
            f"{own} channel{'s' * (own > 1)}",
        )
    heads = len(spec.labels) + 1
    for arm, setting in spec.arms.items():
        if setting.head == "pretrained" and setting.weights != "random" and manifest.heads != heads:
            raise CaHpcError(
                f"arms.{arm} keeps the weights' head, which has {manifest.heads or 0} outputs; "
                f"{len(spec.labels)} labels and the background need {heads}",
                hint="head: new, or the labels of the pretraining",
            )


def warnings(
    spec: FinetuneSpec, manifest: Manifest | None, network: Network | None
) -> Iterator[str]:
    """What is allowed and yet seldom meant, one sentence each, with the way out."""
    yield from _about_epochs(spec)
    if manifest is None or network is None or not spec.pretrained:
        return
    trained = manifest.trained_on
    if trained.orientation not in (None, "RPI"):
        yield (
            f"the weights were trained on images in {trained.orientation}, and here every image is "
            "brought to RPI: their left and right, front and back or top and bottom differ"
        )
    if trained.crop == "none" and spec.crop != "none":
        yield (
            "crop: the images are cut to the cord, the weights were trained on whole ones "
            "(crop: none)"
        )
    if trained.crop not in (None, "none") and spec.crop == "none":
        yield (
            "crop: the weights were trained on images cut to the cord, these are whole "
            "(crop: {to: cord, margin: 30mm})"
        )
    if trained.spacing is not None:
        told = " x ".join(f"{getattr(trained.spacing, a):g}" for a in ("RL", "AP", "SI"))
        if spec.plans.spacing == "dataset" or (
            spec.plans.spacing is None and spec.plans.axes == "recipe"
        ):
            yield (
                f"plans.spacing: the weights were trained at {told} mm (RL x AP x SI), the planner "
                "will choose by the data (spacing: model)"
            )
        elif spec.plans.spacing not in (None, "model", trained.spacing):
            yield f"plans.spacing: the weights were trained at {told} mm (RL x AP x SI)"
    if spec.plans.axes == "recipe":
        yield (
            "plans.axes: recipe leaves the axes to the planner; the weights were trained on "
            f"{', '.join(network.axes)}, which no stock plan has (axes: anatomical)"
        )


def _about_epochs(spec: FinetuneSpec) -> Iterator[str]:
    for name, arm in spec.arms.items():
        epochs = spec.training.epochs if arm.epochs is None else arm.epochs
        if arm.weights == "pretrained" and epochs >= MANY_EPOCHS:
            yield (
                f"arms.{name}: {epochs} epochs. The weights have seen many spinal cords already: "
                "the transfer-learning guide asks for fewer than 1000"
            )


def _told(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(shape)


def _stages(found: Mapping[str, object], expected: Mapping[str, object]) -> str:
    """Whether all that differs is one of the two being deeper."""
    extra = sorted(set(found) - set(expected))
    return f"; {extra[0]} is in the file only" if extra else ""
