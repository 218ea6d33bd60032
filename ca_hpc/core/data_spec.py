"""The part of a job spec that says what there is to learn from: sources, labels, splits.

Relative paths count from the folder of the job file. ``core/spec.py`` holds the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import Field

from ca_hpc.core.fields import (
    STRICT,
    Commit,
    Count,
    Fraction,
    FractionOrZero,
    Index,
    Length,
    Name,
    Sha256,
    Text,
)

# of nnU-Net: what training sees
SEEN: Final = ("train", "val")
# names that tables and scores have for other things than test sets
TAKEN: Final = (*SEEN, "validation", "folds", "skipped")
TEST: Final = "test"  # the test set of shares and of lists
LISTS: Final = (".yml", ".yaml", ".txt", ".tsv", ".csv", ".json")

EmptyLabel = Literal["allow", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class PersonByPattern:
    """Who a case belongs to: the first group of a regular expression on the subject label."""

    pattern: Text
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class PersonByColumn:
    """Who a case belongs to: a column of the table (``participants.tsv``, the pairs, …)."""

    column: Text
    __pydantic_config__ = STRICT


Person = PersonByPattern | PersonByColumn


@dataclass(frozen=True, slots=True)
class Folds:
    """K folds by person, balanced over sources and contrasts. ``seed`` shuffles the people.

    ``test``: the share of each source's people that is held out as the test set ``test``.
    """

    folds: Annotated[int, Field(strict=True, ge=2)] = 5
    seed: Index = 12345
    test: FractionOrZero = 0.0
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Shares:
    """One division by person: shares of each source's people, 1 in all."""

    train: Fraction
    val: Fraction
    test: FractionOrZero = 0.0
    seed: Index = 12345
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class SplitFile:
    """A published division: a YAML or JSON file with lists ``train``, ``val``, ``test`` of people.

    Entries are subjects (or what ``person`` makes of them). Who is in no list is left out.
    """

    file: Text
    __pydantic_config__ = STRICT


Splits = Folds | Shares | SplitFile


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What every source may say.

    ``people``: sources that name the same one share their people: a label in both is one person.
    ``include`` and ``exclude``: subjects, images, or files that list them (SCT's ``qc_fail.yml``).
    ``where``: columns of the source's table and the values to take. ``split``: of this source
    alone. ``test_set``: all of it is that test set, which training never sees.
    """

    name: Name | None = None
    person: Person | None = None
    people: Name | None = None
    include: tuple[Text, ...] = ()
    exclude: tuple[Text, ...] = ()
    where: Mapping[Text, tuple[Text, ...]] = field(default_factory=dict)
    split: Shares | SplitFile | None = None
    test_set: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _BidsLayout(_Source):
    """Where images and labels are below a BIDS folder.

    ``label_suffix``: of one label map, or by label of a mask each; None: what ``labels`` says.
    ``contrasts``: what file names end in (T2w, acq-ax_T2w). ``pathology``: the column of the
    table that names it.
    """

    label_suffix: Text | Mapping[Name, Text] | None = None
    images: Text = "."
    labels: Text = "derivatives/labels"
    contrasts: tuple[Text, ...] = ()
    sessions: tuple[Text, ...] = ()
    pathology: Text = "pathology"


@dataclass(frozen=True, slots=True, kw_only=True)
class BidsSource(_BidsLayout):
    """A BIDS folder with labels in a derivatives folder."""

    type: Literal["bids"]
    path: Text
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource(_BidsLayout):
    """A BIDS data set in a git repository; of git-annex (DataLad) only the files needed are got.

    ``ref``: a branch, tag or commit. ``commit``: what it must be; a ref that has moved is refused.
    """

    type: Literal["git"]
    url: Text
    ref: Text = "HEAD"
    commit: Commit | None = None
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetSource(_Source):
    """A raw nnU-Net data set (``imagesTr``, ``labelsTr``, ``dataset.json``; ``imagesTs*`` too)."""

    type: Literal["nnunet"]
    path: Text
    contrast: Text = "MRI"
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class MsdSource(_Source):
    """A data list in the style of the Medical Segmentation Decathlon: one JSON file.

    Lists ``train`` (or ``training``), ``validation``, ``test`` of ``{image, label}``; paths count
    from the file. The lists are its split, unless it is given another.
    """

    type: Literal["msd"]
    path: Text
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsSource(_Source):
    """A table (.csv or .tsv): columns image, label, subject and, if wanted, session, contrast, …

    Instead of ``label``: ``label_NAME`` for each label with a file of its own.
    """

    type: Literal["pairs"]
    path: Text
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSource:
    """A tar made by ``ca-hpc data pack``: files, and what was known of them where it was made."""

    type: Literal["pack"]
    path: Text
    sha256: Sha256 | None = None
    __pydantic_config__ = STRICT


Scanned = BidsSource | GitSource | NnunetSource | MsdSource | PairsSource
Source = Annotated[Scanned | PackSource, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class Label:
    """A label: its ``value`` in the label map and, if it has a file of its own, that file's suffix.

    ``from_values``: what counts as this label in its own file; none: every voxel above 0.5.
    """

    value: Count
    suffix: Text | None = None
    from_values: tuple[Count, ...] = ()
    empty: EmptyLabel | None = None  # None: prepare.empty_label
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Crop:
    """Images cut to the bounding box of the label ``to`` and ``margin`` mm on each side of it."""

    to: Name = "cord"
    margin: Length = 30.0
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Prepare:
    """How images become a training set. ``shards``: array elements that share the work.

    ``on_error: skip`` leaves out what cannot be used, and the report names it.
    ``header_tolerance``: how far a label's grid may lie from its image's and still be meant to be
    the same.
    """

    shards: Count = 1
    on_error: Literal["fail", "skip"] = "fail"
    empty_label: EmptyLabel = "allow"
    header_tolerance: Length = 0.01
    __pydantic_config__ = STRICT
