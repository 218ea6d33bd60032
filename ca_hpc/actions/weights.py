"""Weights of a user: added to a store, looked at, verified, given to an image to carry."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ca_hpc import configs
from ca_hpc.actions.job_weights import addable, not_there
from ca_hpc.core.profile import Model
from ca_hpc.errors import CaHpcError, DigestMismatch, SpecError
from ca_hpc.images.building.build import Cargo
from ca_hpc.store.digests import sha256_file
from ca_hpc.weights import describe, places
from ca_hpc.weights import manifest as manifests
from ca_hpc.weights.check import check_profile
from ca_hpc.weights.manifest import Manifest, Source
from ca_hpc.weights.names import PROFILES, is_file_name
from ca_hpc.weights.store import Entry, WeightStore

WHAT_TO_GIVE: Final = (
    "give a checkpoint (checkpoint_final.pth), a release's zip or folder, a URL, or a profile: "
    "ca-hpc weights list"
)


@dataclass(frozen=True, slots=True)
class Addition:
    """What to add: a profile's name, a URL, an archive, a folder or a checkpoint."""

    what: str
    profile: str | None = None
    fold: str | None = None
    checkpoint: Literal["final", "best"] | None = None
    trust: bool = False
    replace: bool = False


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
    model = _profile(addition, here=here)
    url = _address(addition, model, here=here)
    with tempfile.TemporaryDirectory(prefix="ca-hpc-weights-") as work:
        if url is not None:
            from ca_hpc.transfers.fetch import fetch, shown

            say(f"fetching {shown(url)}")
            given = fetch(
                url,
                store.folder_for("downloads"),
                progress=progress,
                expected_sha256=model.release.sha256 if model else None,
                waiting=lambda: say("another process fetches it: waiting"),
            )
        else:
            given = _path(addition.what, here=here)
        found, source = _read(given, addition, work=Path(work), say=say)
        if url is not None:
            source = dataclasses.replace(source, url=shown(url))
        _as_released(model, source)
        manifest = describe.manifest_of(found, sha256=source.sha256, source=source, model=model)
        if model is not None:
            check_profile(manifest, model)
        entry = store.add(
            found.checkpoint.tensors,
            dataclasses.replace(manifest, added=now),
            replace=addition.replace,
            waiting=lambda: say("another process adds weights: waiting"),
        )
    if url is not None:
        given.unlink(missing_ok=True)  # its tensors are stored
    return entry


def _is_profile(what: str, *, here: Path) -> bool:
    """Whether ``what`` is the name or file of a profile, whose release is meant."""
    if what.endswith(PROFILES):
        return True
    return not is_file_name(what) and not _is_address(what) and not _path(what, here=here).exists()


def _is_address(what: str) -> bool:
    return "://" in what


def _path(what: str, *, here: Path) -> Path:
    # expanduser of os.path: a ~ of nobody stays, and is then reported as a missing file
    return here / os.path.expanduser(what)  # noqa: PTH111


def _profile(addition: Addition, *, here: Path) -> Model | None:
    named = _is_profile(addition.what, here=here)
    profile = addition.profile or (addition.what if named else None)
    try:
        return None if profile is None else configs.model(profile, relative_to=here)
    except SpecError as error:
        if profile == addition.what and not profile.endswith(PROFILES):
            error.message = f"there is no file or folder {profile} here, and {error.message}"
            error.hint = WHAT_TO_GIVE
        raise


def _address(addition: Addition, model: Model | None, *, here: Path) -> str | None:
    """Where to fetch from; None: it is here."""
    if not _is_profile(addition.what, here=here):
        return addition.what if _is_address(addition.what) else None
    assert model is not None
    if model.release.url is not None:
        return model.release.url
    told = f" ({model.description})" if model.description else ""
    page = f" from {model.release.page}" if model.release.page else ""
    raise CaHpcError(
        f"the address of {addition.what}{told} is not known",
        hint=f"download it{page}, then: ca-hpc weights add FILE --profile {addition.what}",
    )


def _read(
    given: Path, addition: Addition, *, work: Path, say: Callable[[str], None]
) -> tuple[describe.Found, Source]:
    if not given.exists():
        raise CaHpcError(
            f"weights {given} do not exist",
            hint=WHAT_TO_GIVE,
        )
    if given.is_file() and not places.is_archive(given):
        if addition.fold or addition.checkpoint:
            raise CaHpcError(
                f"{given} is one checkpoint: --fold and --checkpoint choose in a folder or archive",
                hint="leave them out, or give the folder of the model",
            )
        source = Source(name=given.name, sha256=sha256_file(given))
        return describe.read(given, trust=addition.trust), source
    place = places.find_checkpoint(given, fold=addition.fold, which=addition.checkpoint)
    file = places.extract(place, work)
    member = place.member or str(file.relative_to(given))
    if place.others:
        count = len(place.others) + 1
        say(f"taking {member}, one of {count} checkpoints (--fold, --checkpoint take another)")
    try:
        found = describe.read(
            file,
            trust=addition.trust,
            plans=place.plans,
            dataset_json=place.dataset_json,
            configuration=place.configuration,
        )
    except CaHpcError as error:
        # what was taken out of a zip lies in a folder that is gone when this is read
        error.message = error.message.replace(str(file), f"{given}, {member}")
        raise
    whole = given if given.is_file() else file
    return found, Source(name=given.name, sha256=sha256_file(whole), member=member)


def _as_released(model: Model | None, source: Source) -> None:
    wanted = model.release.sha256 if model else None
    if model is not None and wanted is not None and source.sha256 != wanted:
        raise DigestMismatch(
            f"{source.name} is sha256:{source.sha256}, profile {model.name} says sha256:{wanted}",
            hint="the file is damaged or another release: fetch it again, or name another profile",
        )


def inspect(addition: Addition, *, store: WeightStore, here: Path) -> Manifest:
    """What kept weights or a file are. Raises CaHpcError."""
    given = _path(addition.what, here=here)
    if not given.exists():
        if (entry := store.find(addition.what)) is not None:
            return entry.manifest
        raise CaHpcError(
            f"{addition.what} is neither a file nor among the weights in {store.folder}",
            hint="what there is: ca-hpc weights list",
        )
    with tempfile.TemporaryDirectory(prefix="ca-hpc-weights-") as work:
        found, source = _read(given, addition, work=Path(work), say=lambda text: None)
        return describe.manifest_of(found, sha256=source.sha256, source=source, model=None)


def verify(what: str | None, *, store: WeightStore) -> Iterator[Manifest]:
    """Verify kept weights, one after the other.

    Raises CaHpcError where there are none of that name, and, after the last, DigestMismatch for all
    that are damaged.
    """
    entries = list(store.entries())
    if what is not None:
        entry = store.find(what)
        if entry is None:
            raise CaHpcError(
                f"no weights {what} in {store.folder}", hint="what there is: ca-hpc weights list"
            )
        entries = [entry]
    damaged = []
    for entry in entries:
        try:
            store.verify(entry, cache=None)
        except DigestMismatch as error:
            damaged.append(error)
        else:
            yield entry.manifest
    if damaged:
        raise DigestMismatch("\n".join(e.message for e in damaged), hint=damaged[0].hint)


def kept(store: WeightStore) -> list[dict[str, str | None]]:
    """What is in the store, oldest first."""
    return [
        {
            "name": known.profile,
            "sha256": known.sha256,
            "from": known.source.name,
            "added": known.added,
        }
        for known in (entry.manifest for entry in store.entries())
    ]


def not_kept(store: WeightStore) -> dict[str, str]:
    """The published models that are not in the store, and the command that adds each."""
    here = {entry.manifest.profile for entry in store.entries()}
    published = {name: configs.model(name, relative_to=Path()).release for name in configs.models()}
    return {
        name: f"ca-hpc weights add {addable(name, base=Path())}"
        for name, release in published.items()
        if name not in here and (release.url or release.page)
    }


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
            raise not_there(name, where=str(store.folder), base=here)
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
        # the same image, whenever the weights came into the store
        manifest=manifests.dump(dataclasses.replace(entry.manifest, added=None)),
    )
