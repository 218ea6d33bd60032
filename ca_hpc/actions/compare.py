"""Compare: metrics of runs and archives side by side, and what is the same and what drifted."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ca_hpc.actions.original import place_facts, settings_facts
from ca_hpc.core import door
from ca_hpc.core.codec import decode
from ca_hpc.core.drift import data_fact, division_facts, drift, facts
from ca_hpc.core.profile import Cluster
from ca_hpc.core.record import Cases
from ca_hpc.core.run_record import Row, RunRecord
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.report.model import CaseScore
from ca_hpc.report.run_record import compose
from ca_hpc.report.scores import read_scores, scores_of
from ca_hpc.report.side_by_side import Metric, side_by_side
from ca_hpc.store import archive as archives
from ca_hpc.store.archive import Archive
from ca_hpc.store.given import SPLITS, TEST_SETS, division_of
from ca_hpc.store.recorded_cases import recorded_cases, text_of
from ca_hpc.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Compared:
    """``runs``: what was given, in order; the first is what others are compared with.

    ``identical``: of each arm's folds that all runs have, whether their trained weights are the
    same, bit for bit. ``drift``: by run, what is recorded otherwise. ``within``: whether all
    metrics are within the tolerance.
    """

    runs: tuple[str, ...]
    rows: tuple[Metric, ...]
    identical: Mapping[str, bool]
    drift: Mapping[str, tuple[Row, ...]]
    tolerance: float
    within: bool


@dataclass(frozen=True, slots=True)
class _Told:
    """What one of them tells about itself."""

    facts: Mapping[str, str]
    scores: Sequence[CaseScore]
    weights: Mapping[str, str]


def compare(places: Sequence[Path], *, tolerance: float = 0.0) -> Compared:
    """Compare run folders and archives. Raises CaHpcError where there is nothing to compare.

    ``tolerance``: how far the mean of a metric may be from the first run's.
    """
    if len(places) < 2:
        raise CaHpcError("one run alone compares to nothing", hint="ca-hpc compare RUN RUN …")
    told = [_told(place) for place in places]
    rows = side_by_side([each.scores for each in told])
    for place, each in zip(places, told, strict=True):
        if not each.scores:
            raise CaHpcError(
                f"{place} has no scores to compare",
                hint=f"ca-hpc status {place}: did it end?"
                if place.is_dir()
                else "it was archived before its run had ended: archive that again",
            )
    first, *others = told
    shared = [fold for fold in first.weights if all(fold in each.weights for each in others)]
    return Compared(
        runs=tuple(map(str, places)),
        rows=rows,
        identical={fold: len({each.weights[fold] for each in told}) == 1 for fold in shared},
        drift={
            str(place): drift(first.facts, each.facts)
            for place, each in zip(places[1:], others, strict=True)
        },
        tolerance=tolerance,
        within=all(row.within(tolerance) for row in rows),
    )


def _told(place: Path) -> _Told:
    if place.is_file():
        return _of_archive(Archive.open(place))
    run = RunFolder.open(place)
    record = compose(run)
    known = {**settings_facts(run.spec), **place_facts(run.cluster, run.path)}
    with contextlib.suppress(OSError):  # it has no data set yet
        cases = recorded_cases(run)
        known |= data_fact(cases)
        if run.file(SPLITS).is_file():
            splits, tests = (text_of(run, run.file(name)) for name in (SPLITS, TEST_SETS))
            known |= division_facts(cases, division_of(splits, tests, place=run.path))
    return _Told({**facts(record), **known}, read_scores(run.path), _weights(record))


def _of_archive(archive: Archive) -> _Told:
    try:
        record = decode(RunRecord, archive.text(archives.RECORD))
        spec = door.load(JobSpec, archive.text(archives.SPEC))
        cluster = door.load(Cluster, archive.text(archives.CLUSTER))
        cases = decode(Cases, archive.text(archives.CASES))
        scored = archives.SCORES in archive.files
        scores = scores_of(archive.text(archives.SCORES)) if scored else ()
    except ValueError as error:
        reason, *_ = str(error).split("\n")  # pydantic tells every key on a line of its own
        raise CaHpcError(
            f"{archive.path} cannot be read: {reason}", hint=archives.KIND.again
        ) from error
    splits, tests = (archive.text(f"{archives.GIVEN}/{name}") for name in (SPLITS, TEST_SETS))
    division = division_of(splits, tests, place=archive.path)
    known = {
        **settings_facts(spec),
        **place_facts(cluster, archive.path),
        **data_fact(cases),
        **division_facts(cases, division),
    }
    return _Told({**facts(record), **known}, scores, _weights(record))


def _weights(record: RunRecord) -> dict[str, str]:
    """By arm and fold, where they are known."""
    return {
        f"{name} fold {number}": fold.weights_sha256
        for name, arm in record.arms.items()
        for number, fold in arm.folds.items()
        if fold.weights_sha256
    }
