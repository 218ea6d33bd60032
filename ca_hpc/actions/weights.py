"""Weights of a user: added to a store, and found again for a job."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc import configs
from ca_hpc.core.profile import Model
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store.digests import cached_sha256, sha256_file
from ca_hpc.store.image_build import Cargo
from ca_hpc.store.images import ImageInfo
from ca_hpc.weights import describe, places
from ca_hpc.weights import manifest as manifests
from ca_hpc.weights.manifest import Manifest, Source
from ca_hpc.weights.store import SHORTEST, Entry, WeightStore

IN_IMAGE: Final = "image"  # weights: image
ENDINGS: Final = (".pth", ".pt", ".ckpt", ".safetensors")


@dataclass(frozen=True, slots=True)
class JobWeights:
    """The weights of a job: where tasks find their tensors, and what is known about them.

    ``mounted``: the file is outside the image and must be bound into it.
    """

    path: str
    manifest: Manifest
    mounted: bool


@dataclass(frozen=True, slots=True)
class Addition:
    """What to add: a profile's name, a URL, an archive, a folder or a checkpoint."""

    what: str
    profile: str | None = None
    fold: str | None = None
    checkpoint: str | None = None  # final or best
    trust: bool = False
    replace: bool = False


def is_file_name(weights: str) -> bool:
    """Whether a job's ``weights`` are a path, rather than a profile's name or a sha256."""
    return "/" in weights or weights.endswith(ENDINGS)


def add(
    addition: Addition,
    *,
    store: WeightStore,
    here: Path,
    now: str | None,
    say: Callable[[str], None],
    progress: Callable[[int, int | None], None],
) -> Entry:
    """Fetch, read, check and store weights. Raises CaHpcError, and then stores nothing."""
    what, profile = addition.what, addition.profile
    named = not is_file_name(what) and "://" not in what and not (here / what).exists()
    if named and profile is None:
        profile = what
    model = None if profile is None else configs.model(profile, relative_to=here)
    with tempfile.TemporaryDirectory(prefix="ca-hpc-weights-") as work:
        url = (model.release.url if model else None) if named else what if "://" in what else None
        if named and url is None:
            page = f": {model.release.page}" if model and model.release.page else ""
            raise CaHpcError(
                f"profile {profile} has no address to fetch from",
                hint=f"download the file{page}, then: ca-hpc weights add FILE --profile {profile}",
            )
        if url is not None:
            from ca_hpc.weights.fetch import fetch, shown

            say(f"fetching {shown(url)}")
            given = fetch(url, store.root / "downloads", progress=progress)
        else:
            given = here / Path(what).expanduser()
        found, source = _read(given, addition, work=Path(work))
        if url is not None:
            source = dataclasses.replace(source, url=shown(url))
        _as_released(model, source)
        manifest = describe.manifest_of(found, sha256=source.sha256, source=source, model=model)
        if model is not None and model.network is not None:
            from ca_hpc.weights.check import check_fit

            check_fit(manifest, model.network, name=model.name)
        entry = store.add(
            found.checkpoint.tensors,
            dataclasses.replace(manifest, added=now),
            replace=addition.replace,
            waiting=lambda: say("another process adds weights: waiting"),
        )
    if url is not None:
        given.unlink(missing_ok=True)  # its tensors are stored
    return entry


def _read(given: Path, addition: Addition, *, work: Path) -> tuple[describe.Found, Source]:
    if not given.exists():
        raise CaHpcError(
            f"weights {given} do not exist",
            hint="give a checkpoint (checkpoint_final.pth), a release's zip or folder, a URL, or a "
            "profile's name: ca-hpc weights list",
        )
    if given.is_file() and not places.is_archive(given):
        source = Source(name=given.name, sha256=sha256_file(given))
        return describe.read(given, trust=addition.trust), source
    which = addition.checkpoint
    place = places.find_checkpoint(given, fold=addition.fold, which=which)  # type: ignore[arg-type]
    file = places.extract(place, work)
    whole = given if given.is_file() else file
    return (
        describe.read(
            file,
            trust=addition.trust,
            plans=place.plans,
            dataset_json=place.dataset_json,
            configuration=place.configuration,
        ),
        Source(name=given.name, sha256=sha256_file(whole), member=place.member),
    )


def _as_released(model: Model | None, source: Source) -> None:
    wanted = model.release.sha256 if model else None
    if model is not None and wanted is not None and source.sha256 != wanted:
        raise DigestMismatch(
            f"{source.name} is sha256:{source.sha256}, profile {model.name} says sha256:{wanted}",
            hint="the file is damaged or another release: fetch it again, or name another profile",
        )


def find(
    wanted: str, *, store: WeightStore, image: ImageInfo | None, cache: Path, base: Path
) -> JobWeights:
    """The weights that a job names: in the image, in the store, or a file. Raises CaHpcError."""
    if is_file_name(wanted):
        return _plain_file(Path(wanted), cache=cache)
    carried = image.weights if image is not None else ()
    if wanted == IN_IMAGE:
        if not carried:
            raise CaHpcError(
                "weights: image, but the image carries none",
                hint="build one that does: ca-hpc image build --weights NAME-OR-FILE",
            )
        if len(carried) > 1:
            raise CaHpcError(
                f"weights: image, which carries {', '.join(c.name for c in carried)}",
                hint="name one by its profile or sha256",
            )
    for file in carried:
        known = manifests.load(file.manifest, place=f"{file.path} in the image")
        if wanted == IN_IMAGE or _names(wanted, known):
            return JobWeights(file.path, known, mounted=False)
    entry = store.find(wanted)
    if entry is not None:
        store.verify(entry, cache=cache / "digests.json")
        return JobWeights(str(entry.file), entry.manifest, mounted=True)
    raise CaHpcError(
        f"no weights {wanted} in {'the image or ' if carried else ''}{store.folder}",
        hint=f"ca-hpc weights add {_addable(wanted, base=base)} (there are: ca-hpc weights list)",
    )


def _names(wanted: str, manifest: Manifest) -> bool:
    digits = wanted.removeprefix("sha256:").lower()
    shas = (manifest.sha256, manifest.source.sha256)
    return wanted == manifest.profile or (
        len(digits) >= SHORTEST and any(sha.startswith(digits) for sha in shas)
    )


def _addable(wanted: str, *, base: Path) -> str:
    """What to give to ``weights add``; for a name that is nothing at all, say so."""
    if re.fullmatch(r"sha256:[0-9a-fA-F]*", wanted):
        return "FILE"
    model = configs.model(wanted, relative_to=base)  # raises for a name that no profile has
    return wanted if model.release.url else f"FILE --profile {wanted}"


def _plain_file(path: Path, *, cache: Path) -> JobWeights:
    if not path.is_file():
        raise CaHpcError(
            f"weights {path} do not exist",
            hint="give a checkpoint file (…/fold_0/checkpoint_final.pth), a profile's name, or "
            "weights: image",
        )
    if places.is_archive(path):
        raise CaHpcError(
            f"weights {path} are an archive",
            hint=f"ca-hpc weights add {path.name}, then name them by profile or sha256",
        )
    try:
        sha256 = cached_sha256(path, cache=cache / "digests.json")
    except OSError as error:
        raise CaHpcError(
            f"weights {path} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    found = describe.read(path)
    source = Source(name=path.name, sha256=sha256)
    manifest = describe.manifest_of(found, sha256=sha256, source=source, model=None)
    return JobWeights(str(path), manifest, mounted=True)


def inspect(addition: Addition, *, store: WeightStore, here: Path) -> Manifest:
    """What kept weights or a file are. Raises CaHpcError."""
    what = addition.what
    if not (here / what).exists() and (entry := store.find(what)) is not None:
        return entry.manifest
    with tempfile.TemporaryDirectory(prefix="ca-hpc-weights-") as work:
        found, source = _read(here / Path(what).expanduser(), addition, work=Path(work))
        return describe.manifest_of(found, sha256=source.sha256, source=source, model=None)


def verify(what: str | None, *, store: WeightStore) -> Iterator[Manifest]:
    """Verify kept weights, one after the other. Raises DigestMismatch, CaHpcError."""
    entries = list(store.entries())
    if what is not None:
        entry = store.find(what)
        if entry is None:
            raise CaHpcError(f"no weights {what} in {store.folder}", hint="ca-hpc weights list")
        entries = [entry]
    for entry in entries:
        store.verify(entry, cache=None)
        yield entry.manifest


def listed(store: WeightStore) -> list[dict[str, str]]:
    """A row for each that is kept, and for each shipped profile that is not."""
    rows = [
        {
            "name": entry.manifest.profile or "",
            "sha256": entry.manifest.sha256,
            "from": entry.manifest.source.name,
            "added": entry.manifest.added or "",
        }
        for entry in store.entries()
    ]
    kept = {row["name"] for row in rows}
    for name in configs.models():
        model = configs.model(name, relative_to=Path())
        if name not in kept and (model.release.url or model.release.page):
            rows.append(
                {
                    "name": name,
                    "sha256": "",
                    "from": f"not here yet: ca-hpc weights add {_addable(name, base=Path())}",
                    "added": "",
                }
            )
    return rows


def summary(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """What a person wants to know about weights, as names and values."""
    network, trained = manifest.network, manifest.trained_on
    rows: list[tuple[str, object]] = [
        ("profile", manifest.profile),
        ("source", _origin(manifest.source)),
        ("source sha256", manifest.source.sha256),
        ("tensors sha256", manifest.sha256),
        ("family", manifest.family),
        ("tensors", f"{len(manifest.tensors)}, {manifest.parameters / 1e6:.1f} M parameters"),
        ("input channels", manifest.channels),
        ("outputs", manifest.heads),
        ("trainer", manifest.trainer),
        ("epochs", manifest.epochs),
    ]
    if network is None:
        rows.append(("axes", "not known: a job must name the model profile"))
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
    rows.append(("trained on", trained.orientation or "images of an orientation that is not known"))
    crop = trained.crop
    if crop is not None:
        rows.append(("crop", "whole images" if crop == "none" else f"around the {crop.to}"))
    if manifest.left_out:
        rows.append(("left out", ", ".join(manifest.left_out)))
    return tuple((name, str(value)) for name, value in rows if value is not None)


def _origin(source: Source) -> str:
    member = f", {source.member}" if source.member else ""
    return f"{source.url or source.name}{member}"


def cargo(
    names: Sequence[str], *, store: WeightStore, keep: WeightStore, here: Path
) -> tuple[Cargo, ...]:
    """Weights for an image to carry: profiles, sha256 (of ``store``) or files. Raises CaHpcError.

    A file is read and checked first and ``keep`` takes its tensors: an image always carries them in
    the store's own form.
    """
    entries: dict[str, Entry] = {}
    for name in names:
        entry = _file_entry(name, keep=keep, here=here) if is_file_name(name) else store.find(name)
        if entry is None:
            raise CaHpcError(
                f"no weights {name} in {store.folder}",
                hint=f"ca-hpc weights add {_addable(name, base=here)}",
            )
        entries[entry.manifest.sha256] = entry
    return tuple(_cargo(entry) for entry in entries.values())


def _file_entry(name: str, *, keep: WeightStore, here: Path) -> Entry:
    return add(
        Addition(name),
        store=keep,
        here=here,
        now=None,
        say=lambda text: None,
        progress=lambda done, total: None,
    )


def _cargo(entry: Entry) -> Cargo:
    stem = entry.manifest.profile or Path(entry.manifest.source.name).stem
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in stem)
    return Cargo(
        name=f"{name}-{entry.manifest.sha256[:12]}",
        file=entry.file,
        sha256=entry.manifest.sha256,
        manifest=manifests.dump(entry.manifest),
    )
