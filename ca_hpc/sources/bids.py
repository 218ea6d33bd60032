"""BIDS folders and git checkouts of them: images, and labels in a derivatives folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ca_hpc.core.data_spec import BidsSource, GitSource, PersonByColumn
from ca_hpc.core.record import LabelFile
from ca_hpc.core.spec import JobSpec
from ca_hpc.sources.documents import Table, Unreadable, read_table
from ca_hpc.sources.found import Found, Listing
from ca_hpc.sources.names import IMAGE_ENDINGS, entities, is_image, rivals, stem

Bids = BidsSource | GitSource
TABLE = "participants.tsv"


def list_bids(source: Bids, spec: JobSpec, *, here: Path, key: str) -> Listing:
    """Images ``sub-*/[ses-*/]DATATYPE/*.nii.gz`` below ``images``, labels in the same place below
    ``labels``, named by the image's stem and a suffix.
    """
    remarks: list[str] = []
    suffixes = label_suffixes(source, spec)
    problems = [f"{key}.{said}" for said in _unsaid(suffixes, spec)]
    table = _participants(here / TABLE, problems if _needs_table(source) else remarks)
    rows = _by_subject(table) if table else {}
    if table and len(rows) < len(table.rows) and _needs_table(source):
        problems.append(f"{here / TABLE}: a participant_id is missing or given twice")
    there = Folders(problems)
    masks = {name: stem(suffix) for name, suffix in spec.mask_channels.items()}
    return Listing(
        found=tuple(
            _found(source, relative, suffixes, masks=masks, rows=rows, here=here, there=there)
            for relative in sorted(_images(here / source.images, there))
        ),
        empty=f"no images found: {here / source.images} holds no sub-*/**/*.nii.gz",
        table=TABLE,
        columns=table.columns if table else None,
        problems=tuple(problems),
        remarks=tuple(remarks),
    )


def _found(
    source: Bids,
    relative: Path,
    suffixes: Mapping[str | None, str],
    *,
    masks: Mapping[str, str],
    rows: Mapping[str, Mapping[str, str]],
    here: Path,
    there: Folders,
) -> Found:
    """The image at ``relative`` with what there is of its labels and masks."""
    image = here / source.images / relative
    start, in_name = stem(image.name), entities(image.name)
    in_folders = {k: v for part in relative.parts[:-1] for k, v in entities(part).items()}
    told = {**in_folders, **in_name}
    subject = f"sub-{told['sub']}"
    row = rows.get(subject, {})
    beside = here / source.labels / relative.parent / start  # what their names begin with
    of_labels = {label: there.images(beside, suffix) for label, suffix in suffixes.items()}
    of_masks = {mask: there.images(beside, suffix) for mask, suffix in masks.items()}
    files = [*of_labels.items(), *of_masks.items()]
    return Found(
        stem=start if "ses" in in_name else _with_session(start, told.get("ses")),
        folder=here,
        images=(image,),
        labels=tuple(LabelFile(paths[0], label) for label, paths in of_labels.items() if paths),
        masks=tuple(paths[0] for paths in of_masks.values() if paths),
        subject=subject,
        session=told.get("ses"),
        contrast=_contrast(start, source.contrasts),
        pathology=_value(row.get(source.pathology)),
        row=row,
        lacking=tuple(name or "label" for name, paths in files if not paths),
        problems=(
            *(
                f"{image}: its folder says {key}-{in_folders[key]}, its name {key}-{told[key]}"
                for key in ("sub", "ses")
                if key in in_folders and in_folders[key] != told[key]
            ),
            *(problem for _, paths in files for problem in rivals(paths)),
        ),
    )


def _with_session(stem: str, session: str | None) -> str:
    """Told apart from the other sessions' image of this name."""
    subject, _, rest = stem.partition("_")
    return "_".join(filter(None, (subject, f"ses-{session}", rest))) if session else stem


def no_labels(source: Bids, spec: JobSpec, image: Found) -> str:
    """What was looked for as the label of ``image``, and what lies there instead."""
    here = image.folder
    wanted = " or ".join(source.contrasts) or "any contrast"
    label = next(iter(_images(here / source.labels, Folders([]))), None)
    there = f"a file there is {label.name}" if label else "that folder has no labels"
    ends = " and ".join(
        f"{stem(image.images[0].name)}{suffix}.nii.gz"
        for suffix in label_suffixes(source, spec).values()
    )
    return (
        f"no labels found for images of {wanted} in {here / source.labels}: for "
        f"{image.images[0].name} one would be {ends}; {there}"
    )


def label_suffixes(source: Bids, spec: JobSpec) -> Mapping[str | None, str]:
    """What label files end in, by label; by None, of a map of all of them. Not yet checked."""
    match source.label_suffix:
        case str() as suffix:
            return {None: stem(suffix)}
        case None:
            rules = spec.label_rules.items()
            return {name: stem(rule.suffix) for name, rule in rules if rule.suffix}
        case suffixes:
            return {name: stem(suffix) for name, suffix in suffixes.items()}


def _unsaid(suffixes: Mapping[str | None, str], spec: JobSpec) -> Iterator[str]:
    missing = [name for name in spec.labels if name not in suffixes]
    if None in suffixes or not missing:
        return
    yield (
        f"label_suffix: say what the files of {' and '.join(missing)} end in: one suffix for a "
        f"map of all labels, one for each label here, or labels.{missing[0]}.suffix"
    )


class Folders:
    """The names in folders, each folder read once. What cannot be read becomes a problem."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems
        self._names: dict[Path, frozenset[str]] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """Everything in ``folder``; nothing, where there is no such folder."""
        if folder not in self._names:
            self._names[folder] = frozenset(entry.name for entry in self.entries(folder))
        return self._names[folder]

    def images(self, start: Path, suffix: str) -> list[str]:
        """Paths of images that are called ``start`` and ``suffix``: one, where all is well."""
        names = (f"{start.name}{suffix}{ending}" for ending in IMAGE_ENDINGS)
        return [str(start.parent / n) for n in names if n in self.names(start.parent)]

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """The same, with what the file system says of each."""
        try:
            with os.scandir(folder) as found:
                return list(found)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._problems.append(f"{folder} cannot be read: {error.strerror}")
            return []


def _images(top: Path, there: Folders) -> Iterator[Path]:
    """Relative to ``top``. No deeper than BIDS goes, so that a loop of links has an end."""
    for subject in _folders(there.entries(top)):
        if not subject.startswith("sub-"):
            continue
        for second in _folders(there.entries(top / subject)):
            below = there.entries(top / subject / second)
            yield from (Path(subject, second, e.name) for e in below if is_image(e.name))
            for third in _folders(below) if second.startswith("ses-") else ():
                deepest = there.entries(top / subject / second / third)
                yield from (
                    Path(subject, second, third, e.name) for e in deepest if is_image(e.name)
                )


def _folders(found: Iterable[os.DirEntry[str]]) -> Iterator[str]:
    for entry in found:
        try:
            if entry.is_dir():
                yield entry.name
        except OSError:  # a link to itself
            continue


def _participants(path: Path, told: list[str]) -> Table | None:
    if not os.path.lexists(path):
        return None
    try:
        return read_table(path)
    except Unreadable as error:
        told.append(str(error))
        return None


def _by_subject(table: Table) -> Mapping[str, Mapping[str, str]]:
    """Rows by subject, which BIDS wants with ``sub-``, and not every table has."""
    return {
        f"sub-{row.get('participant_id', '').removeprefix('sub-')}": row
        for row in table.rows.values()
    }


def _needs_table(source: Bids) -> bool:
    own = source.pathology != "pathology"
    return bool(source.where) or own or isinstance(source.person, PersonByColumn)


def _contrast(stem: str, contrasts: tuple[str, ...]) -> str:
    """The longest of the contrasts that the stem ends in, else its BIDS suffix."""
    ends = [contrast for contrast in contrasts if stem.endswith(f"_{contrast}")]
    return max(ends, key=len, default=stem.rsplit("_", 1)[-1])


def _value(cell: str | None) -> str | None:
    return None if cell in (None, "", "n/a") else cell  # BIDS writes n/a for what is not known
