"""What one source adds to the cases of a job: listed, filtered, each image with its person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.core.data_spec import (
    BidsSource,
    GitSource,
    MsdSource,
    NnunetSource,
    PackSource,
    PairsSource,
    Scanned,
    Shares,
    SplitFile,
)
from ca_hpc.core.record import Case, Cases, Origin
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.sources import faults
from ca_hpc.sources.agreement import NOT_NORMALISED, Terms
from ca_hpc.sources.bids import list_bids
from ca_hpc.sources.filters import take
from ca_hpc.sources.found import Found, Listing
from ca_hpc.sources.git import Checkout
from ca_hpc.sources.msd import list_msd
from ca_hpc.sources.names import case_id
from ca_hpc.sources.nnunet import list_nnunet
from ca_hpc.sources.pack import packed_cases
from ca_hpc.sources.pairs import list_pairs
from ca_hpc.sources.people import nobody, person_of

SCANNERS: Final[Mapping[type, Callable[..., Listing]]] = {
    BidsSource: list_bids,
    GitSource: list_bids,
    NnunetSource: list_nnunet,
    MsdSource: list_msd,
    PairsSource: list_pairs,
}


@dataclass(frozen=True, slots=True)
class Part:
    """Cases of a source, what they must have in common with others, and what is to be said."""

    terms: Terms
    cases: tuple[Case, ...] = ()
    origins: tuple[Origin, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()  # names of mask channels


def of_pack(spec: JobSpec, source: PackSource, *, key: str) -> Part:
    """What a pack holds. ``key``: where the spec names it. Raises DigestMismatch."""
    try:
        cases = packed_cases(source)
    except DigestMismatch:  # has an exit code of its own
        raise
    except CaHpcError as error:
        return _refused(key, f"{key}: {error.message}")
    terms = Terms(key, cases.labels, cases.regions, cases.channel_names)
    wanted = tuple(spec.mask_channels)
    problems: tuple[str, ...] = ()
    if wanted and wanted != cases.mask_channels:
        own = ", ".join(cases.mask_channels) or "none"
        problems = (f"{key} brings mask channels {own}, the job says {', '.join(wanted)}",)
    return Part(
        terms,
        cases.cases,
        cases.origins,
        problems,
        (*cases.remarks, *_settled(source, cases)),
        masks=cases.mask_channels,
    )


def _settled(source: PackSource, cases: Cases) -> Iterator[str]:
    """What a pack has decided already, where it was made."""
    parts = Counter(case.split for case in cases.cases if case.split is not None)
    if parts:
        told = ", ".join(f"{count} in {part}" for part, count in sorted(parts.items()))
        yield (
            f"{Path(source.path).name}: its images bring their part of the split along ({told}); "
            "`splits` counts for the others"
        )


def of_git(
    spec: JobSpec, source: GitSource, checkout: Checkout | None, *, key: str, name: str
) -> Part:
    """What a work tree holds, also where git-annex has yet to fetch it."""
    if checkout is None:
        return _refused(key, f"{key}: {source.url} is not fetched")
    origins, remarks = (checkout.origin,), checkout.remarks
    return of_folder(
        spec, source, checkout.folder, key=key, name=name, origins=origins, remarks=remarks
    )


def of_folder(
    spec: JobSpec,
    source: Scanned,
    here: Path,
    *,
    key: str,
    name: str,
    origins: tuple[Origin, ...] = (),
    remarks: tuple[str, ...] = (),
) -> Part:
    """What a folder, or the file of a list, holds."""
    try:
        if not here.exists():
            return _refused(key, f"{key}: {here} does not exist")
        listing = SCANNERS[type(source)](source, spec, here=here, key=key)
    except OSError as error:  # a folder that may not be read, a name that is too long
        return _refused(key, f"{key}: {error.filename or here}: {error.strerror}")
    taken = take(listing, source, key=key, name=name)
    if taken.problems:  # a filter that cannot be applied shall not seem to choose wrongly
        return _refused(key, *listing.problems, *taken.problems)
    whole = [found for found in taken.found if not found.lacking]
    problems = [*listing.problems, *faults.uneven(whole, listing.channels)]
    if not whole and not problems:
        why = faults.nothing(source, spec, listing, taken.found, name=name, remarks=taken.remarks)
        problems.append(f"{key}: {why}")
    cases = []
    for found in whole:
        wrong = [*faults.of_image(found, fetched_later=isinstance(source, GitSource))]
        person = person_of(found, source)
        if person is None:
            wrong.append(nobody(found, source.person))
        elif not wrong:
            cases.append(_case(found, source, name=name, person=person, spec=spec))
        problems += wrong
    of_folders = isinstance(source, BidsSource | GitSource | NnunetSource)  # lists tell their own
    return Part(
        Terms(
            key,
            listing.labels,
            listing.regions,
            _channels(spec, whole, listing),
            in_maps=listing.labels is not None,
        ),
        tuple(cases),
        origins,
        tuple(problems),
        (
            *remarks,
            *listing.remarks,
            *taken.remarks,
            *faults.partial(taken.found, name=name),
            *(faults.unlabelled(taken.found, name=name) if of_folders else ()),
            *faults.nameless(source, whole, name=name),
            *_split_anew(spec, source, whole, name=name),
        ),
        masks=tuple(spec.mask_channels),
    )


def _refused(key: str, *problems: str) -> Part:
    return Part(Terms(key, {}, {}, ()), problems=problems)


def _case(found: Found, source: Scanned, *, name: str, person: str, spec: JobSpec) -> Case:
    return Case(
        id=case_id(name, found.stem),
        source=name,
        images=tuple(map(str, found.images)),
        labels=found.labels,
        subject=found.subject,
        person=person,
        session=found.session,
        contrast=found.contrast,
        people=source.people or name,
        masks=found.masks,
        pathology=found.pathology,
        split=source.test_set or (None if _splits_anew(spec, source) else found.split),
    )


def _channels(spec: JobSpec, found: Sequence[Found], listing: Listing) -> tuple[str, ...]:
    own = listing.channels or ("MRI",) * (len(found[0].images) if found else 0)
    return (*own, *[NOT_NORMALISED] * len(spec.mask_channels)) if own else ()


def _splits_anew(spec: JobSpec, source: Scanned) -> bool:
    """Whether the job replaces what a source says of its own split. K folds do not."""
    split = source.split or spec.splits
    return isinstance(split, Shares | SplitFile) and source.test_set is None


def _split_anew(
    spec: JobSpec, source: Scanned, found: Sequence[Found], *, name: str
) -> tuple[str, ...]:
    if not _splits_anew(spec, source) or not any(each.split for each in found):
        return ()
    return (f"{name}: what it says of its split gives way to what the job says",)
