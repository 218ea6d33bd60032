"""Small files that others wrote: tables, YAML, JSON. What is wrong with one is told by its line."""

from __future__ import annotations

import csv
import io
import json
import stat
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

MOST_BYTES: Final = 64 << 20  # beyond, it is no list of images
MOST_YAML_BYTES: Final = 4 << 20  # of which PyYAML reads about 1 MB a second


class Unreadable(ValueError):
    """A file cannot be read as what it should be. The text names file, line and reason."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by their line in the file, cells by their column; an empty cell is ``""``."""

    columns: tuple[str, ...]
    rows: Mapping[int, Mapping[str, str]]


def read_table(path: Path) -> Table:
    """A table with a header: ``.csv`` with commas, else tabs. Raises Unreadable."""
    text = read_text(path, kind="a table")
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=_delimiter(path, text.partition("\n")[0]),
        strict=True,  # else a quote that is never closed swallows the rows after it
    )
    try:
        columns = tuple(cell.strip() for cell in next(reader, []))
        if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
            raise Unreadable(f"{path}:1: two columns are named {twice[0]}")
        rows: dict[int, Mapping[str, str]] = {}
        for cells in ([cell.strip() for cell in row] for row in reader):
            if any(cells[len(columns) :]):
                raise Unreadable(
                    f"{path}:{reader.line_num}: {len(cells)} cells under {len(columns)} columns"
                )
            if any(cells):
                # a short row ends in empty cells
                padded = (*cells, *[""] * (len(columns) - len(cells)))
                rows[reader.line_num] = dict(zip(columns, padded, strict=False))
    except csv.Error as error:
        raise Unreadable(f"{path}:{reader.line_num}: cannot be read as a table: {error}") from error
    return Table(columns, rows)


def _delimiter(path: Path, header: str) -> str:
    """What the ending promises; where the header has none of it, what spreadsheets write."""
    first = "," if path.suffix == ".csv" else "\t"
    return next((one for one in (first, ";", "\t", ",") if one in header), first)


class _Texts(yaml.BaseLoader):
    """Every scalar is the text that stands there (subject 01 is no number), every key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep=deep)


def read_yaml_texts(path: Path) -> Any:
    """A YAML document of lists, mappings and text; what is empty is ``""``. Raises Unreadable."""
    text = read_text(path, kind="YAML", most=MOST_YAML_BYTES)
    try:
        return yaml.load(text, Loader=_Texts)  # text only, whatever its tags say
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1"
        raise Unreadable(f"{path}:{place}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise Unreadable(f"{path}: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise Unreadable(f"{path}: too deeply nested") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises Unreadable."""
    try:
        return json.loads(read_text(path, kind="JSON"), object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise Unreadable(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise Unreadable(f"{path}: too deeply nested") from error
    except Unreadable:
        raise
    except ValueError as error:  # a key twice, a number of thousands of digits
        raise Unreadable(f"{path}: {str(error).splitlines()[0]}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice")
    return dict(pairs)


def read_text(path: Path, *, kind: str, most: int = MOST_BYTES) -> str:
    """The text of a regular file. ``kind``: what it should be, for the error. Raises Unreadable."""
    start = f"{path} cannot be read as {kind}:"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "no file"
            raise Unreadable(f"{start} it is {what}")
        if found.st_size > most:
            raise Unreadable(f"{start} it is larger than {most >> 20} MB")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Unreadable(f"{start} {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Unreadable(f"{start} it is no UTF-8 text") from error
