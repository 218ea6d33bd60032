"""Files that list subjects or images: SCT's ``qc_fail.yml``, text, tables, JSON.

``exclude.yml`` (spine-generic) and ``qc_fail.yml`` (SCT's QC report) are lists, or lists by topic;
entries are subjects or file names, with the reason as a comment of YAML or after a colon.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ca_hpc.sources.documents import Unreadable, read_json, read_table, read_text, read_yaml_texts

_IMAGE_COLUMNS: Final = ("image", "file", "filename")
_SUBJECT_COLUMNS: Final = ("participant_id", "subject")
_SESSION_COLUMNS: Final = ("session_id", "session")


def entries(path: Path) -> tuple[str, ...]:
    """The entries of a list, each once. Raises Unreadable."""
    return tuple(dict.fromkeys(entry for entry in READERS[path.suffix.lower()](path) if entry))


def of_document(path: Path, value: Any) -> Iterator[str]:
    """The entries in a list, in a mapping from entries to comments, and in both by topic."""
    match value:
        case list():
            for item in value:
                yield from _of_item(path, item)
        case dict():
            by_topic = any(isinstance(under, list) for under in value.values())
            for key, under in value.items():
                match under:
                    case list():
                        yield from of_document(path, under)
                    case dict():
                        yield from map(str, under)
                    case "" | None if by_topic:  # a topic with nothing in it
                        continue
                    case _:
                        yield str(key)  # the rest is why
        case "" | None:
            return
        case _:
            raise Unreadable(f"{path}: should be a list of subjects or images")


def _of_item(path: Path, item: Any) -> Iterator[str]:
    match item:
        case dict() if len(item) == 1:  # and why
            yield from map(str, item)
        case str() | int() | float() if not isinstance(item, bool):
            yield str(item).strip()
        case None:
            return
        case _:
            raise Unreadable(f"{path}: {reprlib.repr(item)} is no subject and no image")


def _text(path: Path) -> Iterator[str]:
    for line in read_text(path, kind="a list").splitlines():
        yield line.partition("#")[0].strip()


def _table(path: Path) -> Iterator[str]:
    table = read_table(path)
    image = _first(_IMAGE_COLUMNS, table.columns)
    subject = _first(_SUBJECT_COLUMNS, table.columns)
    session = _first(_SESSION_COLUMNS, table.columns)
    if image is None and subject is None:
        raise Unreadable(
            f"{path}: no column image or participant_id; columns: {', '.join(table.columns)}"
        )
    for row in table.rows.values():
        if image and row[image]:
            yield row[image]
        elif subject:
            of_session = row[session] if session else ""
            yield row[subject] + (f"_ses-{of_session.removeprefix('ses-')}" if of_session else "")


def _first(wanted: tuple[str, ...], columns: tuple[str, ...]) -> str | None:
    return next((name for name in wanted if name in columns), None)


READERS: Final[Mapping[str, Callable[[Path], Iterator[str]]]] = {
    ".yml": lambda path: of_document(path, read_yaml_texts(path)),
    ".yaml": lambda path: of_document(path, read_yaml_texts(path)),
    ".json": lambda path: of_document(path, read_json(path)),
    ".txt": _text,
    ".csv": _table,
    ".tsv": _table,
}
