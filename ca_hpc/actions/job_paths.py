"""Paths in a job: those of the file count from its folder, those of the command line from here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ca_hpc.core.data_spec import LISTS, GitSource, PackSource, Source, SplitFile, Splits
from ca_hpc.core.spec import JobSpec
from ca_hpc.images.reference import InFile, parse
from ca_hpc.weights.names import is_file_name

At = Callable[[str], str]
_REMOTE = re.compile(r"^([a-z][a-z0-9+.-]*://|[^/]+:)")  # a scheme, or scp's host:path


def absolute(
    spec: JobSpec, *, base: Path, here: Path, weights_given: bool, image_given: bool
) -> JobSpec:
    """``spec`` with absolute paths. ``base``: the folder of the job's file; ``here``: the current
    one, from which what was ``given`` on the command line counts. Raises SpecError for an image
    that cannot be meant."""
    at = _from(base)
    weights, image = (_from(here if given else base) for given in (weights_given, image_given))
    return replace(
        spec,
        data=tuple(_source(source, at) for source in spec.data),
        splits=_split(spec.splits, at),
        weights=(
            weights(spec.weights)
            if spec.weights is not None and is_file_name(spec.weights)
            else spec.weights
        ),
        image=None if spec.image is None else _image(spec.image, image),
        output=None if spec.output is None else at(spec.output),
        trainers=None if spec.trainers is None else at(spec.trainers),
    )


def _from(folder: Path) -> At:
    def at(path: str) -> str:
        # expanduser of os.path: a ~ of nobody stays, and is then reported as a missing file
        return os.path.normpath(folder / os.path.expanduser(path))  # noqa: PTH111

    return at


def _image(wanted: str, at: At) -> str:
    """A file's path becomes absolute, other images stay as they are named."""
    reference = parse(wanted)
    return at(wanted) if isinstance(reference, InFile) else str(reference)


def _source(source: Source, at: At) -> Source:
    if isinstance(source, PackSource):
        return replace(source, path=at(source.path))
    moved = replace(
        source, include=_listed(source.include, at), exclude=_listed(source.exclude, at)
    )
    if isinstance(moved.split, SplitFile):
        moved = replace(moved, split=SplitFile(at(moved.split.file)))
    if isinstance(moved, GitSource):
        return moved if _REMOTE.match(moved.url) else replace(moved, url=at(moved.url))
    return replace(moved, path=at(moved.path))


def _listed(entries: tuple[str, ...], at: At) -> tuple[str, ...]:
    """Names stay, files that list names become absolute."""
    return tuple(at(entry) if entry.lower().endswith(LISTS) else entry for entry in entries)


def _split(splits: Splits, at: At) -> Splits:
    return SplitFile(at(splits.file)) if isinstance(splits, SplitFile) else splits
