"""YAML in: plain values plus the place of each of them, without YAML 1.1's surprises.

PyYAML reads ``24:00:00`` as 86400, ``no`` as False and ``2025-01-01`` as a date. Here a plain
scalar is null, true/false, a decimal number or text (YAML 1.2's core schema), and one that a
YAML 1.1 reader would take for something else is refused: it must be quoted to mean one thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]
MOST_NODES = 100_000


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    place: Place
    text: str
    path: Path = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML document: its value, where each key and item stands, what is wrong with its text."""

    value: Any
    places: Mapping[Path, Place]
    problems: tuple[Problem, ...]

    def place(self, path: Path) -> Place:
        """Where ``path`` stands, or the nearest thing around it that exists."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))


_CORE = (
    (re.compile(r"^(?:|~|null|Null|NULL)$"), lambda text: None),
    (re.compile(r"^(?:true|True|TRUE)$"), lambda text: True),
    (re.compile(r"^(?:false|False|FALSE)$"), lambda text: False),
    (re.compile(r"^[-+]?(?:0|[1-9]\d{0,17})$"), int),  # longer: of no use here, and int() may raise
    (re.compile(r"^[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?$"), float),
)
_YAML11 = yaml.SafeLoader("")
_TAG_WORDS = {
    "int": "a number",
    "bool": "true or false",
    "timestamp": "a date",
    "float": "a number",
}
_INSTEAD = {
    "bool": "true or false, or ",
    "int": "it in decimal digits, or ",
    "float": "it in digits, or ",
}


def _resolve(text: str) -> Any:
    for pattern, convert in _CORE:
        if pattern.match(text):
            return convert(text)
    return text


def _implied_tag(node: yaml.Node) -> str:
    """The tag that a YAML 1.1 reader gives the node when none is written."""
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    tag: str = _YAML11.resolve(type(node), node.value, (plain, not plain))  # type: ignore[no-untyped-call]
    return tag


def _ambiguity(node: yaml.ScalarNode, *, ours: Any) -> str | None:
    """What is wrong with a plain scalar that a YAML 1.1 reader would take for something else."""
    text, word = node.value, _implied_tag(node).rsplit(":", 1)[-1]
    octal = word == "int" and text.lstrip("+-")[:1] == "0" and len(text) > 1
    if word not in _TAG_WORDS or not (isinstance(ours, str) or octal):
        return None
    instead = "" if ":" in text else _INSTEAD.get(word, "")
    return (
        f'{text} without quotes is {_TAG_WORDS[word]} to some YAML readers; write {instead}"{text}"'
    )


def read_yaml(text: str) -> Document:
    """Parse one YAML document. Problems of the text are collected, never raised."""
    places: dict[Path, Place] = {}
    problems: list[Problem] = []

    def at(node: yaml.Node) -> Place:
        return Place(node.start_mark.line + 1, node.start_mark.column + 1)

    def scalar(node: yaml.ScalarNode, path: Path) -> Any:
        if node.style is not None:
            return node.value
        ours = _resolve(node.value)
        if (ambiguity := _ambiguity(node, ours=ours)) is not None:
            problems.append(Problem(at(node), ambiguity, path))
            return node.value
        return ours

    def build(node: yaml.Node, path: Path, open_nodes: frozenset[int]) -> Any:
        places.setdefault(path, at(node))
        if len(places) > MOST_NODES:  # aliases of aliases grow without end
            raise yaml.MarkedYAMLError(problem="too large for a spec", problem_mark=node.start_mark)
        if id(node) in open_nodes:
            problems.append(Problem(at(node), "an alias that contains itself", path))
            return None
        inside = open_nodes | {id(node)}
        if node.tag != _implied_tag(node):
            problems.append(Problem(at(node), f"tag {node.tag} is not known here", path))
        match node:
            case yaml.ScalarNode():
                return scalar(node, path)
            case yaml.SequenceNode():
                return [build(n, (*path, i), inside) for i, n in enumerate(node.value)]
            case yaml.MappingNode():
                out: dict[str, Any] = {}
                for key_node, value_node in node.value:
                    key = scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
                    if isinstance(key, int | float) and not isinstance(key, bool):
                        key = key_node.value
                    if not isinstance(key, str):
                        problems.append(Problem(at(key_node), "a key must be text"))
                        continue
                    if key in out:
                        problems.append(Problem(at(key_node), f"{key} is given twice"))
                    places[(*path, key)] = at(key_node)
                    out[key] = build(value_node, (*path, key), inside)
                return out
        raise AssertionError(node)

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = None if root is None else build(root, (), frozenset())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        return Document(None, {}, (Problem(place, error.problem or str(error)),))
    except yaml.YAMLError as error:
        return Document(None, {}, (Problem(Place(1, 1), str(error).splitlines()[0]),))
    except RecursionError:
        return Document(None, {}, (Problem(Place(1, 1), "too deeply nested for a spec"),))
    return Document(value, places, tuple(problems))
