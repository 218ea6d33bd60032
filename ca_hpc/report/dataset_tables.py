"""The tables of a data set, from the rows of ``cases.tsv``. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median

from ca_hpc.core.data_spec import SEEN
from ca_hpc.core.record import Cases
from ca_hpc.report.case_rows import FOLDS, CaseRow
from ca_hpc.report.dataset import (
    CasePicture,
    CountRow,
    DatasetContent,
    FoldRow,
    FoldTable,
    GridRow,
    LabelRow,
    PathologyRow,
    SkippedRow,
)
from ca_hpc.report.tables import grouped, with_totals

Fold = Mapping[str, Sequence[str]]  # "train" and "val": case ids


def dataset_content(
    rows: Sequence[CaseRow],
    cases: Cases,
    *,
    folds: Sequence[Fold],
    pictures: tuple[CasePicture, ...] = (),
) -> DatasetContent:
    """What is to be said of a run's data. ``folds``: nnU-Net's, () while they are not known."""
    used = [row for row in rows if not row.skipped]
    by_source = dict(sorted(grouped(used, lambda row: row.source).items()))
    splits = split_names(used)
    return DatasetContent(
        splits=splits,
        counts=tuple(_counts(used, splits=splits)),
        grids=tuple(_grids(used)),
        labels=tuple(_labels(by_source, targets=tuple(cases.targets))),
        pathologies=tuple(_pathologies(used)),
        folds=tuple(_fold_tables(used, folds)),
        skipped=tuple(
            SkippedRow(row.case, row.source, row.owner[1], row.problem)
            for row in rows
            if row.skipped
        ),
        origins=cases.origins,
        remarks=cases.remarks,
        spacings={
            source: tuple(row.spacing_mm for row in ours if row.spacing_mm is not None)
            for source, ours in by_source.items()
        },
        volumes={
            label: {source: _volumes(ours, label) for source, ours in by_source.items()}
            for label in cases.targets
        },
        pictures=pictures,
    )


def split_names(rows: Iterable[CaseRow]) -> tuple[str, ...]:
    """The splits that ``rows`` are in: folds, train, val, then test sets by name."""
    first = (FOLDS, *SEEN)
    found = {row.split for row in rows}
    return (*(name for name in first if name in found), *sorted(found.difference(first)))


def _counts(rows: Sequence[CaseRow], *, splits: tuple[str, ...]) -> Iterator[CountRow]:
    """Per source and contrast, with totals where they say more, and that of everything."""
    pairs = sorted({(row.source, row.contrast) for row in rows})
    places = with_totals(pairs)
    for source, contrast in (*places, *([(None, None)] if len(pairs) > 1 else [])):
        ours = [
            row for row in rows if source in (None, row.source) and contrast in (None, row.contrast)
        ]
        by_split = Counter(row.split for row in ours)
        yield CountRow(
            source=source,
            contrast=contrast,
            images=len(ours),
            people=_people(ours),
            by_split=tuple(by_split[name] for name in splits),
        )


def _grids(rows: Sequence[CaseRow]) -> Iterator[GridRow]:
    groups = grouped(rows, lambda row: (row.source, row.contrast))
    for (source, contrast), ours in sorted(groups.items()):
        yield GridRow(
            source=source,
            contrast=contrast,
            orientations=tuple(
                Counter(row.orientation for row in ours if row.orientation).most_common()
            ),
            spacing_mm=_ranges(row.spacing_mm for row in ours),
            shape=_ranges(row.shape for row in ours),
        )


def _ranges(
    found: Iterable[tuple[float, float, float] | None],
) -> tuple[tuple[float, float], ...]:
    """Least and most along each axis; () if nothing is known."""
    axes = zip(*(numbers for numbers in found if numbers is not None), strict=True)
    return tuple((min(axis), max(axis)) for axis in axes)


def _labels(
    by_source: Mapping[str, Sequence[CaseRow]], *, targets: tuple[str, ...]
) -> Iterator[LabelRow]:
    for label in targets:
        for source, rows in by_source.items():
            volumes = _volumes(rows, label)
            known = [row for row in rows if label in row.voxels]
            yield LabelRow(
                label=label,
                source=source,
                images=len(known),
                empty=sum(row.voxels[label] == 0 for row in known),
                cut=sum(row.lost.get(label, 0) > 0 for row in known),
                volume_mm3=(min(volumes), median(volumes), max(volumes)) if volumes else None,
            )


def _volumes(rows: Iterable[CaseRow], label: str) -> tuple[float, ...]:
    """Of ``label``, mm3, where it is not empty."""
    return tuple(volume for row in rows if (volume := row.volume_mm3.get(label, 0.0)) > 0)


def _pathologies(rows: Sequence[CaseRow]) -> Iterator[PathologyRow]:
    """Of the sources that know any."""
    sources = {row.source for row in rows if row.pathology}
    known = (row for row in rows if row.source in sources)
    groups = grouped(known, lambda row: (row.source, row.pathology or ""))
    for (source, pathology), ours in sorted(groups.items()):
        yield PathologyRow(source, pathology or None, images=len(ours), people=_people(ours))


def _fold_tables(rows: Sequence[CaseRow], folds: Sequence[Fold]) -> Iterator[FoldTable]:
    """By source and by contrast, where there are several folds and several of these."""
    if len(folds) < 2:
        return
    by_id = {row.case: row for row in rows}
    divided = [by_id[case] for fold in folds for case in fold["val"] if case in by_id]
    kinds: tuple[tuple[str, Callable[[CaseRow], str]], ...] = (
        ("source", lambda row: row.source),
        ("contrast", lambda row: row.contrast),
    )
    shown = [(kind, key, sorted({key(row) for row in divided})) for kind, key in kinds]
    several = [entry for entry in shown if len(entry[2]) > 1]
    for kind, key, groups in several or shown[:1]:
        yield FoldTable(
            kind=kind,
            groups=tuple(groups),
            rows=tuple(
                _fold_row(number, fold, by_id, key=key, groups=groups)
                for number, fold in enumerate(folds)
            ),
        )


def _fold_row(
    number: int,
    fold: Fold,
    by_id: Mapping[str, CaseRow],
    *,
    key: Callable[[CaseRow], str],
    groups: Sequence[str],
) -> FoldRow:
    train, val = ([by_id[case] for case in fold[part] if case in by_id] for part in SEEN)
    counted = Counter(key(row) for row in val)
    return FoldRow(
        fold=number,
        train=(len(train), _people(train)),
        val=(len(val), _people(val)),
        by_group=tuple(counted[group] for group in groups),
    )


def _people(rows: Iterable[CaseRow]) -> int:
    return len({row.owner for row in rows})
