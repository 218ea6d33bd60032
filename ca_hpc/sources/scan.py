"""All cases of a job: each source listed, filtered and given its names, persons and roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
from ca_hpc.sources.agreement import NOT_NORMALISED, Terms, agree
from ca_hpc.sources.bids import list_bids
from ca_hpc.sources.files import missing_files
from ca_hpc.sources.filters import take
from ca_hpc.sources.found import Found, Listing
from ca_hpc.sources.msd import list_msd
from ca_hpc.sources.names import case_id
from ca_hpc.sources.nnunet import list_nnunet
from ca_hpc.sources.pairs import list_pairs
from ca_hpc.sources.people import nobody, person_of, same_names
from ca_hpc.sources.split_lists import Assigned, assign

if TYPE_CHECKING:
    from ca_hpc.sources.git import Checkout

__all__ = ["missing_files", "scan"]

MOST_TOLD: Final = 20

SCANNERS: Final[Mapping[type, Callable[..., Listing]]] = {
    BidsSource: list_bids,
    GitSource: list_bids,
    NnunetSource: list_nnunet,
    MsdSource: list_msd,
    PairsSource: list_pairs,
}
_NONE: "Final[Mapping[str, Checkout]]" = {}


@dataclass(frozen=True, slots=True)
class _Part:
    """What one source adds to the cases."""

    terms: Terms
    cases: tuple[Case, ...] = ()
    origins: tuple[Origin, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def scan(spec: JobSpec, *, checkouts: Mapping[str, Checkout] = _NONE) -> Cases:
    """All cases of all sources, in a stable order. Raises CaHpcError that lists every problem.

    ``checkouts``: the work trees of git sources, by the source's name. Files that git-annex has
    yet to fetch are no problem there; ``missing_files`` tells them afterwards.
    """
    parts = [
        _packed(source, key=f"data[{position}]")
        if isinstance(source, PackSource)
        else _part(
            spec,
            source,
            key=f"data[{position}]",
            name=source.name or f"s{position + 1}",
            checkouts=checkouts,
        )
        for position, source in enumerate(spec.data)
    ]
    agreed = agree(spec, [part.terms for part in parts])
    found = [case for part in parts for case in part.cases]
    assigned = _with_lists(spec, found)
    problems = [
        *(problem for part in parts for problem in part.problems),
        *agreed.problems,
        *faults.doubles(found),
        *faults.same_sources({part.terms.key: part.cases for part in parts}),
        *assigned.problems,
    ]
    if problems:
        raise _refusal([*map(_on_a_line, dict.fromkeys(problems))])
    remarks = [
        *(remark for part in parts for remark in part.remarks),
        *assigned.remarks,
        *same_names(assigned.cases),
    ]
    return Cases(
        f"Dataset501_{spec.name.replace('-', '_')}",
        labels=agreed.labels,
        cases=assigned.cases,
        channel_names=agreed.channels,
        regions=agreed.regions,
        origins=tuple(origin for part in parts for origin in part.origins),
        remarks=tuple(map(_on_a_line, dict.fromkeys(remarks))),
    )


def _packed(source: PackSource, *, key: str) -> _Part:
    from ca_hpc.sources.pack import packed_cases

    try:
        cases = packed_cases(source)
    except DigestMismatch:  # has an exit code of its own
        raise
    except CaHpcError as error:
        return _unusable(key, error.message)
    return _Part(
        Terms(key, cases.labels, cases.regions, cases.channel_names),
        cases.cases,
        cases.origins,
        remarks=cases.remarks,
    )


def _part(
    spec: JobSpec, source: Scanned, *, key: str, name: str, checkouts: Mapping[str, Checkout]
) -> _Part:
    origins: tuple[Origin, ...] = ()
    remarks: list[str] = []
    if isinstance(source, GitSource):
        if name not in checkouts:
            return _unusable(key, f"{source.url} is not fetched")
        here = checkouts[name].folder
        origins = (checkouts[name].origin,)
        remarks += checkouts[name].remarks
    else:
        here = Path(source.path)
    try:
        if not here.exists():
            return _unusable(key, f"{here} does not exist")
        listing = SCANNERS[type(source)](source, spec, here=here, key=key)
    except OSError as error:  # a folder that may not be read, a name that is too long
        return _unusable(key, f"{error.filename or here}: {error.strerror}")
    taken = take(listing, source, key=key, name=name)
    whole = [found for found in taken.found if not found.lacking]
    problems = [*listing.problems, *taken.problems, *faults.uneven(whole, listing.channels)]
    if not whole and not problems:
        why = faults.nothing(source, spec, listing, taken.found, name=name)
        problems.append(f"{key}: {why}")
    cases = []
    for found in whole:
        wrong = [*faults.of_image(found, fetched_later=isinstance(source, GitSource))]
        person = person_of(found, source.person)
        if person is None:
            wrong.append(nobody(found, source.person))
        elif not wrong:
            cases.append(_case(found, source, name=name, person=person, spec=spec))
        problems += wrong
    if _resplit(spec, source) and any(found.split for found in whole):
        remarks.append(f"{name}: what it says of its split gives way to what the job says")
    return _Part(
        Terms(key, listing.labels, listing.regions, _channels(spec, whole, listing)),
        tuple(cases),
        origins,
        tuple(problems),
        (*remarks, *listing.remarks, *taken.remarks, *faults.partial(taken.found, name=name)),
    )


def _unusable(key: str, why: str) -> _Part:
    return _Part(Terms(key, {}, {}, ()), problems=(f"{key}: {why}",))


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
        split=source.test_set or (None if _resplit(spec, source) else found.split),
    )


def _channels(spec: JobSpec, found: Sequence[Found], listing: Listing) -> tuple[str, ...]:
    own = listing.channels or ("MRI",) * (len(found[0].images) if found else 0)
    return (*own, *[NOT_NORMALISED] * len(spec.mask_channels)) if own else ()


def _resplit(spec: JobSpec, source: Scanned) -> bool:
    """Whether the job says anew what a source says of its own split. K folds do not."""
    split = source.split or spec.splits
    return isinstance(split, Shares | SplitFile) and source.test_set is None


def _with_lists(spec: JobSpec, cases: Sequence[Case]) -> Assigned:
    """The cases with what lists say of them: their source's own, else the job's."""
    own = {
        source.name or f"s{position + 1}": (source.split, f"data[{position}].split")
        for position, source in enumerate(spec.data)
        if not isinstance(source, PackSource) and source.split is not None
    }
    by_file: dict[tuple[str, str] | None, list[Case]] = {}
    for case in cases:
        split, key = own.get(case.source, (spec.splits, "splits"))
        listed = (split.file, key) if isinstance(split, SplitFile) and not case.split else None
        by_file.setdefault(listed, []).append(case)
    done = [
        Assigned(tuple(of)) if given is None else assign(of, Path(given[0]), key=given[1])
        for given, of in by_file.items()
    ]
    place = {case.id: i for i, case in enumerate(cases)}
    return Assigned(
        tuple(sorted((case for part in done for case in part.cases), key=lambda c: place[c.id])),
        tuple(problem for part in done for problem in part.problems),
        tuple(remark for part in done for remark in part.remarks),
    )


def _refusal(problems: Sequence[str]) -> CaHpcError:
    more = len(problems) - MOST_TOLD
    return CaHpcError(
        "\n".join(
            [
                f"{len(problems)} problem{'s' * (len(problems) > 1)} with the data",
                *problems[:MOST_TOLD],
                *([f"… and {more} more"] if more > 0 else []),
            ]
        ),
        hint="correct the paths and suffixes under `data:`, or the files",
    )


def _on_a_line(text: str) -> str:
    """Names of files may hold newlines, and bytes that are no text."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
