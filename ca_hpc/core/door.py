"""The door: YAML or JSON text becomes a checked dataclass, or one error with every problem."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from ca_hpc.core.profile import Cluster, Model
from ca_hpc.core.spec import JobSpec, StageRequest
from ca_hpc.core.yaml_door import Document, Path, Problem, read_yaml
from ca_hpc.errors import SpecError

T = TypeVar("T")
MOST_TOLD: Final = 400  # characters of one problem

_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


def read(kind: type[T], text: str, *, file: str) -> T:
    """Check ``text`` (YAML) against ``kind``. Raises SpecError that lists all problems at once."""
    value, document = parse(kind, text, file=file)
    refuse(document.problems, file=file, kind=kind)
    assert value is not None
    return value


def parse(kind: type[T], text: str, *, file: str) -> tuple[T | None, Document]:
    """Like ``read``, but the problems of the text and of the values come back in the document."""
    document = read_yaml(text)
    if document.value is None and document.problems:
        return None, document
    try:
        return _adapter(kind).validate_python(document.value), document
    except ValidationError as error:
        details = _likeliest(document.value, error.errors(include_url=False))
        found = [_problem(kind, document, detail) for detail in details]
        # a list whose items are wrong is reported once, and so is a scalar that must be quoted:
        # where quotes would not mend it, by what it should be
        inner = {p.path[:n] for p in found for n in range(len(p.path))}
        numbers = {p.path for p, d in zip(found, details, strict=True) if d["type"] in _NUMBERS}
        beyond = {p.path for p in found} - inner - numbers
        of_text = [p for p in document.problems if p.path not in beyond]
        known = {p.path for p in of_text} | inner
        fresh = _united(p for p in found if p.path not in known)
        return None, dataclasses.replace(document, problems=(*of_text, *fresh))


def refuse(problems: Iterable[Problem], *, file: str, kind: type = JobSpec) -> None:
    """Raise SpecError for the problems, in the order of the file, each once. None: return.

    ``kind``: what the file holds.
    """
    ordered = sorted(set(problems), key=lambda p: (p.place.line, p.place.column, p.text))
    if ordered:
        count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
        raise SpecError(
            f"{count} in {file}\n"
            + "\n".join(f"{file}:{p.place}: {_on_a_line(p.text)}" for p in ordered),
            hint="correct the file, then: " + _THEN.get(kind, _THEN[JobSpec]).format(file),
        )


def _on_a_line(text: str) -> str:
    """A message that quotes a value shall not fill the screen with it."""
    return text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}…"


def load(kind: type[T], text: str) -> T:
    """Read back what ``dump`` wrote."""
    value: T = _adapter(kind).validate_json(text)
    return value


def dump(value: object) -> str:
    """JSON of a record or spec, stable to the byte: two spaces, keys in the order of the class."""
    return _adapter(type(value)).dump_json(value, indent=2).decode() + "\n"


def _likeliest(value: Any, details: Sequence[Any]) -> list[Any]:
    """Of what the classes of a union say about the keys of one value, what those say that fit best.

    pydantic puts a class's name into the location; a name that is no key of the value.
    """
    by_class: dict[tuple[Any, ...], dict[Any, list[Any]]] = {}
    for detail in details:
        for end, part in enumerate(detail["loc"][:-1]):
            here = _at(value, detail["loc"][:end])
            if isinstance(here, dict) and isinstance(part, str) and part not in here:
                by_class.setdefault(detail["loc"][:end], {}).setdefault(part, []).append(detail)
    unlikely: list[Any] = []
    for classes in by_class.values():
        fewest = min(map(_strangeness, classes.values()))
        unlikely += [d for found in classes.values() if _strangeness(found) > fewest for d in found]
    return [detail for detail in details if not any(detail is other for other in unlikely)]


def _strangeness(details: Sequence[Any]) -> tuple[int, int]:
    """How little a value looks like a class: keys that it does not know, then all its errors."""
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    return sum(detail["type"] in unknown for detail in details), len(details)


def _at(value: Any, loc: Sequence[Any]) -> Any:
    """What stands at a location of pydantic's; parts that are no keys count for nothing."""
    for part in loc:
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]
    return value


def _united(problems: Iterable[Problem]) -> Iterator[Problem]:
    """What the members of a union say about the same value, as one problem."""
    by_path: dict[Path, list[Problem]] = {}
    for problem in problems:
        by_path.setdefault(problem.path, []).append(problem)
    for path, found in by_path.items():
        said = dict.fromkeys(problem.text for problem in found)
        # a key that one class knows a neighbour of is not told as unknown to the others too
        near = [text for text in said if "; known here: " not in text] or list(said)
        texts = sorted(near, key=lambda text: "; did you mean " in text)  # a question comes last
        start = f"{_dotted(path)}: "
        first, *others = texts
        rest = "".join(f", or {text.removeprefix(start)}" for text in others)
        yield dataclasses.replace(found[0], text=first + rest)


def _problem(kind: type, document: Document, detail: Any) -> Problem:
    missing = detail["type"] in ("missing", "missing_argument")
    path, owner = _path_and_owner(kind, document.value, detail["loc"], missing=missing)
    place = document.place(path)
    match detail["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            if told := _belongs(str(path[-1]), owner):
                return Problem(place, told, path)
            known = _keys(owner) if owner else []
            ask = _did_you_mean(path[-1], known) or f"; known here: {', '.join(known)}"
            return Problem(place, f"unknown key {_dotted(path)}{ask}", path)
        case "missing" | "missing_argument":
            return Problem(document.place(path[:-1]), f"{_dotted(path)} is missing", path)
        case "union_tag_not_found":
            return Problem(
                place,
                f"{_dotted(path)}: type is missing (bids, git, nnunet, msd, pairs or pack)",
                path,
            )
        case "union_tag_invalid":
            wanted = detail["ctx"]["expected_tags"]
            place = document.place((*path, "type"))
            return Problem(place, f"{_dotted(path)}: type must be one of {wanted}", path)
    example = _EXAMPLES.get(detail.get("ctx", {}).get("class_name"))
    if detail["type"] == "dataclass_type" and example:
        return Problem(place, f"{_dotted(path)}: should be like {example}", path)
    text = _WORDS.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
    text = text.replace("Input should", "should")
    if detail["type"] == "literal_error":
        known = re.findall(r"'([^']+)'", detail["ctx"]["expected"])
        ask = _did_you_mean(detail["input"], known)
        if detail["loc"][-1] == "[key]":  # pydantic's name for a key that is wrong itself
            told = f"unknown key {_dotted(path)}{ask or ';'} known here: {', '.join(known)}"
            return Problem(place, told, path)
        text += ask
    return Problem(place, f"{_dotted(path)}: {text}", path)


# pydantic's words where they are Python's rather than the file's
_WORDS: Final = {
    "dataclass_type": "should be keys with values",
    "dict_type": "should be keys with values",
    "tuple_type": "should be a list",
    "string_pattern_mismatch": "should be hexadecimal digits, 40 of a commit or 64 of a sha256",
    "string_type": "should be text",
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "too_short": "needs at least one",
}


# of keys whose form is not guessed
_EXAMPLES: Final = {
    "PatchSize": "{RL: 64, AP: 192, SI: 320}",
    "ByAxis": "{RL: 1, AP: 1, SI: 1}",
    "Crop": "{to: cord, margin: 30mm}",
    "Change": "{tries: 3, wait: 10min}",
}


_NUMBERS: Final = ("int_type", "float_type")  # of which YAML readers disagree how they are written
# what checks a file that has been corrected
_THEN: Final[Mapping[type, str]] = {
    JobSpec: "ca-hpc validate {}",
    Cluster: "ca-hpc validate job.yaml --cluster {}",
    Model: "ca-hpc validate job.yaml",
}
# where a key belongs that stands at the top of the wrong file
_ELSEWHERE: Final[Mapping[type, Mapping[type, str]]] = {
    JobSpec: {
        StageRequest: "{0} belongs to a stage: resources: {{train: {{{0}: …}}}}",
        Cluster: "{0} belongs in the cluster profile (docs/clusters.md)",
    },
    Cluster: {JobSpec: "{0} belongs in the job (docs/finetune.md)"},
}


def _keys(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _belongs(key: str, owner: type | None) -> str | None:
    homes = _ELSEWHERE.get(owner, {}) if owner else {}
    return next((told.format(key) for kind, told in homes.items() if key in _keys(kind)), None)


def _did_you_mean(given: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(given), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _path_and_owner(
    kind: Any, value: Any, loc: tuple[str | int, ...], *, missing: bool
) -> tuple[Path, Any]:
    """Split pydantic's location into the path in the file and the dataclass that owns its end.

    Locations also hold union tags and type names, which are no keys of the file: a part that is not
    in the value is left out, unless it is the key that is ``missing``.
    """
    path: list[str | int] = []
    for i, part in enumerate(loc):
        here = functools.reduce(_step, path, value)
        exists = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if exists or (missing and i == len(loc) - 1):
            path.append(part)
    return tuple(path), _owner(kind, value, tuple(path), meant=loc)


def _step(value: Any, part: str | int) -> Any:
    return value[part]


def _owner(kind: Any, value: Any, path: Path, *, meant: Sequence[str | int]) -> Any:
    """The dataclass whose fields stand at the last part of ``path``; None if it is none.

    ``meant``: pydantic's location, which names a union's class.
    """
    for part in path[:-1]:
        value = value[part]
        candidates = _members(kind)
        field_kinds = [
            typing.get_type_hints(k, include_extras=True).get(str(part))
            for k in candidates
            if dataclasses.is_dataclass(k)
        ]
        kind = next((k for k in field_kinds if k is not None), None) or _item(candidates)
        if kind is None:
            return None
    owners = [k for k in _members(kind) if dataclasses.is_dataclass(k)]
    tag = value.get("type") if isinstance(value, dict) else None
    tagged = [k for k in owners if tag is not None and _tag(k) == tag]
    named = [k for k in owners if getattr(k, "__name__", "") in meant]
    return next(iter(tagged or named or owners), None)


def _tag(kind: Any) -> str | None:
    hint = typing.get_type_hints(kind).get("type")
    return typing.get_args(hint)[0] if hint is not None else None


def _members(kind: Any) -> list[Any]:
    """The types in a union, through Annotated."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _members(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return [m for k in typing.get_args(kind) for m in _members(k)]
    return [kind]


def _item(kinds: list[Any]) -> Any:
    """The type of the items of the first container among ``kinds``."""
    for kind in kinds:
        arguments = typing.get_args(kind)
        if arguments and typing.get_origin(kind) in (tuple, list):
            return arguments[0]
        if len(arguments) == 2:
            return arguments[1]
    return None


def _dotted(path: Path) -> str:
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out or "the file"
