"""Which lines of a log show why something ended, and in whose code. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MOST_LINES: Final = 5
MOST_CHARACTERS: Final = 300  # of a line, and of a foreign message

# Of a traceback, and without the comma of Python's faulthandler
_FRAME: Final = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+),? in (?P<name>\S+)')
# Python's own code and installed packages; ours are installed too, in an image
_LIBRARY: Final = re.compile(
    r"^<|/lib/python[\d.]+/(?!(?:site|dist)-packages/)|/(?:site|dist)-packages/(?!ca_hpc/)"
)
_TRAINER: Final = re.compile(r".*/trainers/(?P<name>.+\.py)$")
_TIMESTAMP: Final = re.compile(r"^\s*\d{4}-\d\d-\d\d[T ][\d:.,+Z]*")
_TRACEBACK: Final = "Traceback (most recent call last):"
_FATAL: Final = "Fatal Python error: "
_ABORTED: Final = _FATAL + "Aborted"
_CURRENT: Final = "Current thread "


def showing(lines: Sequence[str], message: str) -> tuple[str, ...]:
    """Where the log says ``message``, with the place in the code where it was raised."""
    number = _where(lines, message)
    return () if number is None else around(lines, number)


def around(lines: Sequence[str], number: int) -> tuple[str, ...]:
    """A line; before it the innermost frame and its code, if it ends a traceback."""
    before = lines[max(0, number - MOST_LINES + 1) : number]
    frames = [i for i, line in enumerate(before) if _FRAME.match(line)]
    code = [line for line in before[frames[-1] :] if line.strip(" ~^")] if frames else []
    return cut([*code, lines[number]])


def end(lines: Sequence[str]) -> tuple[str, ...]:
    """What Python said as it crashed, or else the last lines that have words."""
    return _crash(lines) or cut([line for line in lines if _has_words(line)][-3:])


def place(lines: Sequence[str], message: str) -> str | None:
    """``file.py, line 3, in function`` where ``message`` was raised."""
    shown = showing(lines, message)
    found = _FRAME.match(shown[0]) if shown else None
    return None if found is None else "{file}, line {line}, in {name}".format(**found.groupdict())


def trainer_that_raised(lines: Sequence[str], message: str) -> str | None:
    """``mine.py``, if code of the run's ``trainers`` raised ``message`` or called what did.

    Not if it was called, in its turn, by such code of ours: ours is then to blame.
    """
    number = _where(lines, message)
    if number is None:
        return None
    begin = max((i for i in range(number) if lines[i].startswith(_TRACEBACK)), default=number)
    return _trainer(lines[begin:number][::-1])


def trainer_that_crashed(lines: Sequence[str]) -> str | None:
    """``mine.py``, if code of the run's ``trainers`` was running when Python crashed."""
    return _trainer(_frames_of_crash(lines))


def cut(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line[:MOST_CHARACTERS] for line in lines[-MOST_LINES:])


def first(message: str) -> str:
    """The first line with something in it."""
    return next((line for line in message.splitlines() if line.strip()), "")[:MOST_CHARACTERS]


def _where(lines: Sequence[str], message: str) -> int | None:
    said = first(message)
    numbers = (i for i in range(len(lines) - 1, -1, -1) if said and said in lines[i])
    return next(numbers, None)


def _has_words(line: str) -> bool:
    return any(character.isalpha() for character in _TIMESTAMP.sub("", line))


def _crash(lines: Sequence[str]) -> tuple[str, ...]:
    """The report of Python's faulthandler in short: the error, and the innermost own frame.

    Before an abort the C library or C++ has said why.
    """
    number = _fatal(lines)
    if number is None:
        return ()
    before = lines[max(0, number - 2) : number] if lines[number].startswith(_ABORTED) else ()
    own = _own(_frames_of_crash(lines))
    return cut([*filter(_has_words, before), lines[number], *([] if own is None else [own])])


def _fatal(lines: Sequence[str]) -> int | None:
    return max((i for i, line in enumerate(lines) if line.startswith(_FATAL)), default=None)


def _frames_of_crash(lines: Sequence[str]) -> Sequence[str]:
    """Of the thread that crashed, innermost first; faulthandler may list others before it."""
    number = _fatal(lines)
    report = () if number is None else lines[number:]
    begin = next((i for i, line in enumerate(report) if line.startswith(_CURRENT)), len(report))
    thread = report[begin + 1 :]
    past = next((i for i, line in enumerate(thread) if not _FRAME.match(line)), len(thread))
    return thread[:past]


def _own(frames: Sequence[str]) -> str | None:
    """The first line that is a frame outside of libraries."""
    found = ((line, _FRAME.match(line)) for line in frames)
    return next((line for line, f in found if f and not _LIBRARY.search(f["file"])), None)


def _trainer(frames: Sequence[str]) -> str | None:
    own = _own(frames)
    frame = None if own is None else _FRAME.match(own)
    found = None if frame is None else _TRAINER.match(frame["file"])
    return None if found is None else found["name"]
