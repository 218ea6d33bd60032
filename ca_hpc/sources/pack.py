"""Cases of a pack: all that is known of them comes along, where their files came from too.

Whoever made the pack may have written anything. ``store/pack.py`` looks at names of files, here is
what a job must be able to rely on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ca_hpc.core.data_spec import SEEN, TAKEN, PackSource
from ca_hpc.core.record import Case, Cases, Origin
from ca_hpc.core.regions import outer_first
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store.pack import Pack

_MOST_TOLD: Final = 300  # characters
_DATASET: Final = re.compile(r"Dataset[0-9]{3}_[A-Za-z0-9_-]{1,64}")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# nnU-Net's own data sets have "whole tumor"; a folder none has
_LABEL: Final = re.compile(r"[^./\\\s]([^/\\]{0,62}[^/\\\s])?")


def packed_cases(source: PackSource) -> Cases:
    """The cases, whose files are members of the archive that they name.

    Only the manifest is read: each file's digest is compared when the file is. Raises CaHpcError,
    and DigestMismatch where the pack is not the one that ``source`` means.
    """
    pack = Pack.open(Path(source.path).absolute())
    if source.sha256 not in (None, pack.sha256):
        raise DigestMismatch(
            f"{pack.path} is sha256:{pack.sha256} (of its manifest), the job says "
            f"sha256:{source.sha256}",
            hint="copy the pack that is meant; or take this one, with its sha256 in the job",
        )
    check_cases(pack.cases)
    return replace(
        pack.cases,
        cases=tuple(replace(case, archive=str(pack.path)) for case in pack.cases.cases),
        origins=tuple(_origins(pack)),
    )


def check_cases(cases: Cases) -> None:
    """That they can be packed, and used where they are unpacked. Raises CaHpcError."""
    if problem := next(case_problems(cases), None):
        told = problem if len(problem) <= _MOST_TOLD else f"{problem[:_MOST_TOLD]}…"
        raise CaHpcError(
            f"these cases make no pack that can be used: {told}",
            hint="correct the data where the pack is made, and pack them: ca-hpc data pack",
        )


def case_problems(cases: Cases) -> Iterator[str]:
    """What no job could rely on: in a pack of somebody else's, and in an archive."""
    if not _DATASET.fullmatch(cases.dataset):
        yield f"{cases.dataset!r} is no name of a data set of nnU-Net"
    for name in (*cases.labels, *cases.regions):
        if not _LABEL.fullmatch(name) or name == "background":
            yield f"{name!r} is no name of a label"
    values = sorted(cases.labels.values())
    if not values or values != list(range(1, len(values) + 1)):
        yield f"labels {dict(cases.labels)} are not numbered 1, 2, …"
    yield from _of_regions(cases)
    for name in cases.mask_channels:
        if not _NAME.fullmatch(name):
            yield f"{name!r} is no name of a mask"
    for case in cases.cases:
        yield from (f"case {case.id}: {problem}" for problem in _of_case(case, cases))


def _of_regions(cases: Cases) -> Iterator[str]:
    if not cases.regions:
        return
    if {value for of in cases.regions.values() for value in of} != set(cases.labels.values()):
        yield f"regions {dict(cases.regions)} are not of the values of the labels"
    try:
        ordered = outer_first(cases.regions)
    except ValueError as error:
        yield f"regions: {error}"
    else:
        if list(ordered.items()) != list(cases.regions.items()):
            yield f"regions {dict(cases.regions)} are not in order, outer ones first"


def _of_case(case: Case, cases: Cases) -> Iterator[str]:
    if case.split in set(TAKEN) - set(SEEN):
        yield f"split {case.split} is the name of something else"
    if len(case.masks) != len(cases.mask_channels):
        yield f"{len(case.masks)} masks, and {len(cases.mask_channels)} names of masks"
    count = len(case.images) + len(case.masks)
    if cases.channel_names and count != len(cases.channel_names):
        yield f"{count} channels, and {len(cases.channel_names)} names of channels"
    for label in case.labels:
        if label.label is not None and label.label not in cases.labels:
            yield f"a file of the label {label.label!r}, which there is not"


def _origins(pack: Pack) -> Iterator[Origin]:
    """A line for each source: its own, if it has one, else the pack."""
    own = {origin.source: origin for origin in pack.cases.origins}
    for name in dict.fromkeys(case.source for case in pack.cases.cases):
        origin = own.get(name, Origin(name, str(pack.path)))
        yield replace(origin, sha256=pack.sha256)
