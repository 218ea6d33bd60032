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
    rows: Sequence[CaseRow], *, target: str, most: int = MOST
) -> tuple[CaseRow, ...]:
    """One case for each source and contrast: that of the median volume of ``target``.

    Where these are too many, every source has its first contrast before any has its second.
    """
    used = [row for row in rows if not row.skipped]
    groups = sorted(grouped(used, lambda row: (row.source, row.contrast)).items())
    turns: dict[str, int] = {}
    chosen = []
    for (source, contrast), ours in groups:
        turn = turns[source] = turns.get(source, -1) + 1
        by_volume = sorted(ours, key=lambda row: (row.volume_mm3.get(target, 0.0), row.case))
        chosen.append((turn, source, contrast, by_volume[len(ours) // 2]))
    kept = sorted(chosen, key=lambda entry: entry[:3])[:most]
    return tuple(row for *_, row in sorted(kept, key=lambda entry: entry[1:3]))


def contact_sheet(
    run: RunFolder, rows: Sequence[CaseRow], *, cases: Cases
) -> Iterator[CasePicture]:
    """The pictures of the representatives whose files are there.

    The last target, a lesion in the cord, is the one that is easily missed.
    """
    import nibabel as nib

    from ca_hpc.report.overlay import overlay_png

    first, *_, last = (*cases.targets, *cases.targets)
    for row in representatives(rows, target=first):
        pair = raw_pair(run, dataset=cases.dataset, case=row.case, split=row.split)
        if all(file.is_file() for file in pair):
            image, label = map(nib.load, pair)
            png = overlay_png(image, label, targets=cases.targets, focus=last, height=HEIGHT_INCHES)
            yield CasePicture(row.case, row.source, row.contrast, png)
