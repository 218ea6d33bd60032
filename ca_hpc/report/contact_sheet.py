"""A few images with their labels, so that a wrong label is seen before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ca_hpc.core.record import Cases
from ca_hpc.report.case_rows import CaseRow
from ca_hpc.report.dataset import CasePicture
from ca_hpc.report.raw_files import raw_pair
from ca_hpc.report.tables import grouped
from ca_hpc.store.run_folder import RunFolder

MOST: Final = 16
HEIGHT_INCHES: Final = 2.4


def representatives(
    rows: Sequence[CaseRow], *, targets: Sequence[str], most: int = MOST
) -> tuple[tuple[str, CaseRow], ...]:
    """For each source, contrast and target the image of median volume, and the target ("": none).

    The last target, a lesion in the cord, is easily missed and comes first. A case stands for
    one target. Where pictures are too many, every source has its first before any has its second.
    """
    by_source = grouped([row for row in rows if not row.skipped], lambda row: row.source)
    chosen: list[tuple[int, str, str, CaseRow]] = []
    for source, ours in sorted(by_source.items()):
        contrasts = sorted(grouped(ours, lambda row: row.contrast).items())
        found: dict[str, tuple[str, CaseRow]] = {}
        for target in reversed(targets):
            for _, group in contrasts:
                shown, row = _median(group, targets=(target, *reversed(targets)))
                found.setdefault(row.case, (shown, row))
        chosen += [(turn, source, *pair) for turn, pair in enumerate(found.values())]
    kept = sorted(chosen, key=lambda entry: entry[:2])[:most]
    in_order = sorted(kept, key=lambda entry: (entry[1], entry[3].contrast, entry[0]))
    return tuple((target, row) for *_, target, row in in_order)


def _median(rows: Sequence[CaseRow], *, targets: Sequence[str]) -> tuple[str, CaseRow]:
    """Of the rows that have the first target, or else the next that any has."""
    for target in targets:
        if having := [row for row in rows if row.volume_mm3.get(target, 0.0) > 0]:
            having.sort(key=lambda row: (row.volume_mm3[target], row.case))
            return target, having[len(having) // 2]
    return "", rows[len(rows) // 2]


def contact_sheet(
    run: RunFolder, rows: Sequence[CaseRow], *, cases: Cases
) -> Iterator[CasePicture]:
    """The pictures of the representatives whose files are there."""
    import nibabel as nib

    from ca_hpc.report.overlay import overlay_png

    targets = cases.targets
    for target, row in representatives(rows, targets=tuple(targets)):
        pair = raw_pair(run, dataset=cases.dataset, case=row.case, split=row.split)
        if all(file.is_file() for file in pair):
            image, label = map(nib.load, pair)
            focus = target or None
            png = overlay_png(image, label, targets=targets, focus=focus, height=HEIGHT_INCHES)
            yield CasePicture(row.case, row.source, row.contrast, target, png)
