"""Whether a task is tried again, when, where and with how much memory. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ca_hpc.core.rules import Failure, Rule
from ca_hpc.core.units import format_size

F = Failure

MOST_WAIT_S: Final = 3600
MOST_EXCLUDED: Final = 10
MOST_GROWTH: Final = 4  # of the memory, where the rule names no most


@dataclass(frozen=True, slots=True)
class Past:
    """An attempt that did not complete.

    ``progress``: what is done and saved, such as (epoch, iteration, cases validated); compared
    with that of the task's other attempts, higher is further; None: nothing, or not known.
    ``memory_mib``: of its job; None: what the stage asks for.
    """

    failure: Failure
    node: str | None = None
    memory_mib: int | None = None
    progress: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. ``failure``: the class that stands if it is not tried again.

    ``memory_mib``: of the next job; None: what the stage asks for. ``exclude``: nodes to leave out.
    ``why``: a sentence for the user, either way.
    """

    again: bool
    failure: Failure
    why: str
    memory_mib: int | None = None
    exclude: tuple[str, ...] = ()
    wait_s: int = 0


def decide(
    history: Sequence[Past],
    rules: Mapping[Failure, Rule],
    *,
    memory_mib: int,
    most_memory_mib: int | None = None,
    nodes: int | None = None,
    gpu_hours_left: float | None = None,
) -> Decision:
    """What follows the last of a task's attempts (at least one, oldest first).

    ``memory_mib``: what the stage asks for. ``most_memory_mib``: what the site's nodes have.
    ``nodes``: how many the site has, at most half of which are left out; None: not known.
    ``gpu_hours_left`` of the run's budget; None: it has none.

    Failures are counted since the last attempt that got further than those before it: what
    advances may be interrupted for ever.
    """
    last = history[-1]
    rule = rules[last.failure]
    name = last.failure.value
    idle = _idle(history)
    used = sum(past.failure is last.failure for past in history[-(idle + 1) :])
    given = last.memory_mib or memory_mib
    memory = _more(given, rule, asked=memory_mib, most_mib=most_memory_mib)

    if not rule.tries:
        return Decision(False, last.failure, f"{name} is not tried again by itself")
    if used > rule.tries:
        return Decision(False, last.failure, f"{name}: tried again {_times(rule.tries)}, in vain")
    if idle >= rules[F.NO_PROGRESS].tries:
        what = ", ".join(dict.fromkeys(past.failure.value for past in history[-idle:]))
        why = f"{_times(idle)} in a row ({what}) it ended no further than before"
        return Decision(False, F.NO_PROGRESS, why)
    if rule.more_memory and memory == given and idle:
        why = f"{name} with {format_size(given)}, the most it may have"
        return Decision(False, last.failure, why)
    if gpu_hours_left is not None and gpu_hours_left <= 0:
        return Decision(False, F.BUDGET, "the run has used up its max_gpu_hours")

    exclude = _excluded(history, rules, nodes=nodes)
    said = [f"{name}: again, {used} of {_times(rule.tries)} without progress"]
    said += [f"with {format_size(memory)} instead of {format_size(given)}"] * (memory > given)
    said += [f"not on {', '.join(exclude)}"] * bool(exclude)
    return Decision(
        True,
        last.failure,
        ", ".join(said),
        memory_mib=memory if memory != memory_mib else None,
        exclude=exclude,
        wait_s=_wait(rule, used=used),
    )


def _idle(history: Sequence[Past]) -> int:
    """How many of the last attempts in a row got no further than one before them."""
    furthest: tuple[int, ...] | None = None
    idle = 0
    for past in history:
        advanced = past.progress is not None and (furthest is None or past.progress > furthest)
        furthest = past.progress if advanced else furthest
        idle = 0 if advanced else idle + 1
    return idle


def _more(given: int, rule: Rule, *, asked: int, most_mib: int | None) -> int:
    """The memory of the next job, MiB; never less than the last one had."""
    if rule.more_memory is None:
        return given
    most = rule.most_memory_mib or MOST_GROWTH * asked
    most = most if most_mib is None else min(most, most_mib)
    return max(given, min(math.ceil(given * rule.more_memory), most))


def _excluded(
    history: Sequence[Past], rules: Mapping[Failure, Rule], *, nodes: int | None
) -> tuple[str, ...]:
    """Nodes on which a class has failed as often as its rule takes; the newest, if too many."""
    failed = Counter((past.node, past.failure) for past in history)
    newest_first = dict.fromkeys(past.node for past in reversed(history) if past.node)
    found = [
        node
        for node in newest_first
        if any(
            rule.elsewhere is not None and failed[node, failure] >= rule.elsewhere
            for failure, rule in rules.items()
        )
    ]
    # a job that may run nowhere would wait for ever
    most = MOST_EXCLUDED if nodes is None else min(MOST_EXCLUDED, nodes // 2)
    return tuple(reversed(found[:most]))


def _wait(rule: Rule, *, used: int) -> int:
    doubled: int = rule.wait_s * 2 ** min(used - 1, 12)
    return min(doubled, max(rule.wait_s, MOST_WAIT_S))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
