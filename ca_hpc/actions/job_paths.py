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
    return replace(
        spec,
        data=tuple(_source(source, at) for source in spec.data),
        splits=_split(spec.splits, at),
        weights=absolute_weights(spec.weights, here if weights_given else base),
        image=absolute_image(spec.image, here if image_given else base),
        output=None if spec.output is None else at(spec.output),
        trainers=None if spec.trainers is None else at(spec.trainers),
    )


def absolute_image(wanted: str | None, folder: Path) -> str | None:
    """A file's path, which counts from ``folder``, becomes absolute; other images stay as they are
    named. Raises SpecError."""
    if wanted is None:
        return None
    reference = parse(wanted)
    return _from(folder)(wanted) if isinstance(reference, InFile) else str(reference)


def absolute_weights(wanted: str | None, folder: Path) -> str | None:
    """The same of weights."""
    return wanted if wanted is None or not is_file_name(wanted) else _from(folder)(wanted)


def _from(folder: Path) -> At:
    def at(path: str) -> str:
        # expanduser of os.path: a ~ of nobody stays, and is then reported as a missing file
        return os.path.normpath(folder / os.path.expanduser(path))  # noqa: PTH111

    return at


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
