"""The key ``retry:`` of the job spec: what is done again by itself, by class of failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, Strict

from ca_hpc.core.fields import STRICT, Count, CountOrZero, Duration, Size, consistent
from ca_hpc.core.rules import DEFAULTS, Failure, Rule

# the classes that may be tried again, and of the others why not
Retried = Literal[
    "preempted", "time", "node", "gpu", "host-memory", "crash", "unknown", "no-progress",
    "gpu-memory", "disk", "access", "image", "code",
]  # fmt: skip
FINAL: Final[Mapping[str, str]] = {
    Failure.INPUT.value: "the same input gives the same error",
    Failure.CHANGED.value: "the record would not be true",
    Failure.DEPENDENCY.value: "it waits for a stage that did not succeed",
    Failure.CANCELLED.value: "somebody wanted it to end",
    Failure.BUDGET.value: "max_gpu_hours says how much the run may use",
}
GROWING: Final = (Failure.HOST_MEMORY.value, Failure.UNKNOWN.value)


@dataclass(frozen=True, slots=True)
class Change:
    """What a job wants otherwise than ``DEFAULTS`` for one class. None: as there."""

    tries: CountOrZero | None = None
    wait: Duration | None = None
    elsewhere: Count | None = None
    more_memory: Annotated[float, Strict(), Field(gt=1, le=10)] | None = None
    most_memory: Size | None = None
    __pydantic_config__ = STRICT


def _retried(name: object) -> object:
    if isinstance(name, str) and name in FINAL:
        raise ValueError(f"is never tried again by itself: {FINAL[name]}")
    return name


def _by_class(changes: object) -> object:
    if not isinstance(changes, Mapping):
        raise ValueError("should name classes of failure, like {crash: 2, node: 10}")
    return changes


def _of_memory(changes: Mapping[str, int | Change]) -> Iterator[tuple[tuple[str, ...], str]]:
    """More memory where the want of it is not the cause."""
    for name, change in changes.items():
        for key in ("more_memory", "most_memory"):
            if name not in GROWING and getattr(change, key, None) is not None:
                yield (name, key), f"is for {' and '.join(GROWING)}, not for {name}"


#: ``retry: {node: 3, host-memory: {tries: 4, more_memory: 2, most_memory: 64GB}}``; a number: tries
Retry: TypeAlias = Annotated[
    Mapping[Annotated[Retried, BeforeValidator(_retried)], CountOrZero | Change],
    BeforeValidator(_by_class),
    consistent(_of_memory),
]


def merged(changes: Mapping[Retried, int | Change]) -> dict[Failure, Rule]:
    """``DEFAULTS`` with a job's changes."""
    asked: Mapping[Any, int | Change] = changes
    return {failure: _changed(rule, asked.get(failure.value)) for failure, rule in DEFAULTS.items()}


def _changed(rule: Rule, change: int | Change | None) -> Rule:
    asked = Change(tries=change) if isinstance(change, int) else change or Change()
    values: dict[str, Any] = {
        "tries": asked.tries,
        "wait_s": asked.wait,
        "elsewhere": asked.elsewhere,
        "more_memory": asked.more_memory,
        "most_memory_mib": asked.most_memory,
    }
    return replace(rule, **{name: value for name, value in values.items() if value is not None})
