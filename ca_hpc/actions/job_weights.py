"""The weights that a job names, found in the image, in the store or as a file, and verified."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from ca_hpc import configs
from ca_hpc.errors import CaHpcError
from ca_hpc.images.record import ImageInfo
from ca_hpc.store.digests import cached_sha256
from ca_hpc.weights import describe, places
from ca_hpc.weights import manifest as manifests
from ca_hpc.weights.check import check_profile
from ca_hpc.weights.manifest import SHORTEST, Manifest, Source
from ca_hpc.weights.names import IN_IMAGE, PROFILES, is_digest, is_file_name
from ca_hpc.weights.store import WeightStore


@dataclass(frozen=True, slots=True)
class JobWeights:
    """The weights of a job: where tasks find their tensors, and what is known about them.

    ``mounted``: the file is outside the image and must be bound into it.
    """

    path: str
    manifest: Manifest
    mounted: bool


def find(
    wanted: str,
    *,
    store: WeightStore,
    image: ImageInfo | None,
    unseen: bool,
    cache: Path,
    base: Path,
    users_store: Path,
) -> JobWeights | None:
    """The weights that a job names: in the image, in the store, or a file. Raises CaHpcError.

    ``unseen``: the image is not here yet, and what is found nowhere else may be in it: None.
    ``users_store``: where ``weights add`` puts them without ``--store``, for the hint.
    """
    if is_file_name(wanted):
        return _plain_file(Path(wanted), cache=cache)
    name = configs.model(wanted, relative_to=base).name if wanted.endswith(PROFILES) else wanted
    carried = image.weights if image is not None else ()
    if wanted == IN_IMAGE and not unseen:
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
        if wanted == IN_IMAGE or known.goes_by(name):
            return JobWeights(file.path, known, mounted=False)
    entry = store.find(name)
    if entry is not None:
        store.verify(entry, cache=cache / "digests.json")
        return JobWeights(str(entry.file), entry.manifest, mounted=True)
    if unseen:
        return None
    option = "" if store.root == users_store else f" --store {shlex.quote(str(store.root))}"
    where = f"{'the image or ' if carried else ''}{store.folder}"
    raise not_there(wanted, where=where, base=base, option=option)


def not_there(wanted: str, *, where: str, base: Path, option: str = "") -> CaHpcError:
    digits = wanted.removeprefix("sha256:")
    if digits != wanted and len(digits) < SHORTEST:
        return CaHpcError(f"{wanted}: too short", hint=f"give {SHORTEST} digits or more")
    return CaHpcError(
        f"no weights {wanted} in {where}",
        hint=f"ca-hpc weights add {addable(wanted, base=base)}{option} (what there is: "
        f"ca-hpc weights list{option}), or name the file: in the job, or with rerun --weights",
    )


def addable(wanted: str, *, base: Path) -> str:
    """What to give to ``weights add``. Raises SpecError for a name that no profile has."""
    if is_digest(wanted):
        return "FILE"
    model = configs.model(wanted, relative_to=base)
    return wanted if model.release.url else f"FILE --profile {wanted}"


def _plain_file(path: Path, *, cache: Path) -> JobWeights:
    kind = "a folder" if path.is_dir() else None
    if path.is_file() and places.is_archive(path):
        kind = "an archive"
    if kind is not None:
        raise CaHpcError(
            f"weights {path} are {kind}, a job needs one checkpoint",
            hint=f"ca-hpc weights add {shlex.quote(str(path))}, which ends with what to write here",
        )
    if not path.is_file():
        raise CaHpcError(
            f"weights {path} do not exist",
            hint="give a checkpoint file (…/fold_0/checkpoint_final.pth), a profile's name, or "
            "weights: image",
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


def profiles_that_fit(manifest: Manifest) -> tuple[str, ...]:
    """The shipped profiles whose network has these tensors."""
    fitting = []
    for name in configs.models():
        model = configs.model(name, relative_to=Path())
        if model.network is not None:
            with contextlib.suppress(CaHpcError):
                check_profile(manifest, model)
                fitting.append(name)
    return tuple(fitting)
