"""All cases of a job, and everything that is wrong with their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ca_hpc.core.data_spec import GitSource, PackSource
from ca_hpc.core.record import Cases
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.sources import faults
from ca_hpc.sources.agreement import agree
from ca_hpc.sources.files import missing_files
from ca_hpc.sources.git import Checkout
from ca_hpc.sources.part import Part, of_folder, of_git, of_pack
from ca_hpc.sources.people import same_names
from ca_hpc.sources.split_lists import with_lists

__all__ = ["missing_files", "scan"]

MOST_TOLD: Final = 20
MOST_LABELS: Final = 255  # a byte a voxel
_NONE: Final[Mapping[str, Checkout]] = MappingProxyType({})


def scan(spec: JobSpec, *, checkouts: Mapping[str, Checkout] = _NONE) -> Cases:
    """All cases of all sources, in a stable order. Raises CaHpcError that lists every problem.

    ``checkouts``: the work trees of git sources, by the source's name. Files that git-annex has
    yet to fetch are no problem there; ``missing_files`` tells them afterwards.
    """
    parts = [*_parts(spec, checkouts)]
    agreed = agree(spec, [part.terms for part in parts])
    found = [case for part in parts for case in part.cases]
    listed = with_lists(spec, found)
    masks, of_masks = _masks(parts)
    problems = [
        *(problem for part in parts for problem in part.problems),
        *agreed.problems,
        *of_masks,
        *_too_many(agreed.labels),
        *faults.doubles(found),
        *faults.same_sources({part.terms.key: part.cases for part in parts}),
        *listed.problems,
    ]
    if problems:
        raise _refusal([*map(_on_a_line, dict.fromkeys(problems))])
    remarks = [
        *(remark for part in parts for remark in part.remarks),
        *agreed.remarks,
        *listed.remarks,
        *same_names(listed.cases),
    ]
    return Cases(
        f"Dataset501_{spec.name.replace('-', '_')}",
        labels=agreed.labels,
        cases=listed.cases,
        channel_names=agreed.channels,
        mask_channels=masks,
        regions=agreed.regions,
        origins=tuple(origin for part in parts for origin in part.origins),
        remarks=tuple(map(_on_a_line, dict.fromkeys(remarks))),
    )


def _parts(spec: JobSpec, checkouts: Mapping[str, Checkout]) -> Iterator[Part]:
    for position, source in enumerate(spec.data):
        key = f"data[{position}]"
        if isinstance(source, PackSource):
            yield of_pack(spec, source, key=key)
            continue
        name = source.name or f"s{position + 1}"
        if isinstance(source, GitSource):
            yield of_git(spec, source, checkouts.get(name), key=key, name=name)
        else:
            yield of_folder(spec, source, Path(source.path), key=key, name=name)


def _masks(parts: Sequence[Part]) -> tuple[tuple[str, ...], list[str]]:
    """The names of mask channels, which all parts must have in one order."""
    used = [part for part in parts if part.cases]
    if not used:
        return (), []
    first, *others = used
    return first.masks, [
        f"{part.terms.key}: mask channels {', '.join(part.masks) or 'none'} differ from "
        f"{', '.join(first.masks) or 'none'} before it"
        for part in others
        if part.masks != first.masks
    ]


def _too_many(labels: Mapping[str, int]) -> Iterator[str]:
    if max(labels.values(), default=0) > MOST_LABELS:
        yield f"labels: {len(labels)} of them; label maps are written with {MOST_LABELS} at most"


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
