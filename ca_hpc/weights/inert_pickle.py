"""What a pickle describes, worked out without unpickling it.

``pickletools.genops`` only splits a pickle into opcodes. Those that genuine torch files have (the
list is that of torch/_weights_only_unpickler.py, and protocol 4's) are carried out here on plain
values. A name in the file means what the caller's ``lookup`` says it means; nothing is imported.
The remaining opcodes (EXT, INST, OBJ, PERSID, ...) do not exist here.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, Protocol, runtime_checkable

# What evaluating a damaged or malicious pickle can raise.
MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Opaque:
    """In the place of something unknown: only its name. What is made from it is the same."""

    name: str


@runtime_checkable
class Completed(Protocol):
    """A value that its pickle makes first and fills afterwards."""

    def complete(self, state: Any) -> None: ...


def evaluate(
    program: bytes, *, lookup: Callable[[str], Any], persistent: Callable[[Any], Any]
) -> Any:
    """The value that the pickle ``program`` describes.

    ``lookup("module.name")`` gives what stands for a global (a function of it is called with
    arguments from the file), ``persistent(id)`` what stands for an object outside of the pickle.
    Raises what they raise, and one of ``MALFORMED``.
    """
    machine = _Machine(lookup=lookup, persistent=persistent)
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name == "STOP":
            return machine.stack.pop()
        if opcode.name not in _CARRIED_OUT:
            raise ValueError(f"the opcode {opcode.name} has no place in weights")
        _CARRIED_OUT[opcode.name](machine, argument)
    raise ValueError("it has no end")


class _Machine:
    def __init__(self, *, lookup: Callable[[str], Any], persistent: Callable[[Any], Any]) -> None:
        self.lookup = lookup
        self.persistent = persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def last(self, count: int) -> list[Any]:
        items = [self.stack.pop() for _ in range(count)]
        return items[::-1]

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def look_up(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name is not text")
        # Python 2's name, which protocol 2 still writes
        module = "builtins" if module == "__builtin__" else module
        self.push(self.lookup(f"{module}.{name}"))

    def call(self, _: Any) -> None:
        function, arguments = self.last(2)
        parts = (function, *arguments)
        unknown = next((part for part in parts if isinstance(part, Opaque)), None)
        self.push(function(*arguments) if unknown is None else unknown)

    def complete(self, _: Any) -> None:
        """BUILD. torch hangs ``_metadata`` on the OrderedDict of a state dict: not needed."""
        value, state = self.last(2)
        if isinstance(value, Completed):
            value.complete(state)
        elif not isinstance(value, dict | Opaque):
            raise TypeError(f"a {type(value).__name__} cannot be altered")
        self.push(value)

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise TypeError(f"a {type(target).__name__} takes no items")

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(mapping(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(target, Opaque):
            raise TypeError(f"a {type(target).__name__} takes no keys")


def mapping(pairs: Any = ()) -> dict[Any, Any]:
    """A dict. Keys are text and numbers: hashing nested tuples can take for ever."""
    made = {}
    for key, value in pairs:
        if not isinstance(key, str | int | float | NoneType | Opaque):
            raise TypeError(f"a {type(key).__name__} is a key")
        made[key] = value
    return made


_VALUES: Final = [
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
]

_CARRIED_OUT: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    **dict.fromkeys(_VALUES, _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push([]),  # plain values have no sets
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "MARK": _Machine.mark,
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda machine, names: machine.look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.look_up(*machine.last(2)),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(*machine.last(1))),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.complete,
}
