"""What a person wants to know about weights, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ca_hpc.weights.manifest import Manifest, Source
from ca_hpc.weights.names import PROFILES


def summary(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """What a person wants to know about weights, as names and values."""
    network, trained = manifest.network, manifest.trained_on
    rows: list[tuple[str, object]] = [
        ("profile", manifest.profile),
        ("source", _origin(manifest.source)),
        ("source sha256", manifest.source.sha256),
        ("tensors sha256", manifest.sha256 if manifest.added else None),
        ("also from", ", ".join(source.name for source in manifest.also_from) or None),
        ("family", manifest.family),
        ("tensors", f"{len(manifest.tensors)}, {manifest.parameters / 1e6:.1f} M parameters"),
        ("names", f"{manifest.prefix!r} taken off" if manifest.prefix else None),
        ("input channels", manifest.channels),
        ("outputs", manifest.heads),
        ("trainer", manifest.trainer),
        ("epochs", manifest.epochs),
    ]
    if network is None:
        rows.append(("axes", "not known; a job must name a model profile that says them"))
    else:
        strides = network.arch_kwargs["strides"]
        rows += [
            ("network", f"{network.network_class_name.rsplit('.', 1)[-1]}, {len(strides)} stages"),
            ("axes", ", ".join(network.axes)),
            ("patch", ", ".join(f"{a} {getattr(network.patch_size, a)}" for a in network.axes)),
        ]
    if trained.spacing is not None:
        told = ", ".join(f"{a} {getattr(trained.spacing, a):g}" for a in ("RL", "AP", "SI"))
        rows.append(("trained at", f"{told} mm"))
    crop = trained.crop
    rows += [
        ("orientation", trained.orientation or "not known"),
        (
            "crop",
            "not known"
            if crop is None
            else "none, whole images"
            if crop == "none"
            else "to the cord, margin not known"
            if crop == "cord"
            else f"to {crop.to}, margin {crop.margin:g} mm",
        ),
        ("not kept", ", ".join(manifest.left_out) or None),
        *(("doubt", doubt) for doubt in manifest.doubts),
    ]
    return tuple((name, _printable(str(value))) for name, value in rows if value is not None)


def in_a_job(manifest: Manifest, *, given: str, fitting: Sequence[str]) -> tuple[str, ...]:
    """The lines of a job file that name stored weights.

    ``given``: by what they were added; ``fitting``: profiles whose network has these tensors.
    """
    own = given.endswith(PROFILES)
    name = (given if own else manifest.profile) or f"sha256:{manifest.sha256}"
    lines = [f"weights: {name}" + "  # its path from the folder of the job" * own]
    if manifest.network is None:
        told = (
            f"{fitting[0]}  # fits; is it that?" if fitting else "mine.yaml  # a profile of yours"
        )
        lines.append(f"model: {told}")
    return tuple(lines)


def _printable(text: str) -> str:
    """Names come out of foreign archives, and a terminal obeys what it is sent."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _origin(source: Source) -> str:
    member = f", {source.member}" if source.member else ""
    return f"{source.url or source.name}{member}"
