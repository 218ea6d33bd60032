"""What a run of the tiers came to: counts, the table, and whether it is a failure. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

Result = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Counts:
    """Numbers of tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass(frozen=True)
class Outcome:
    """What one step came to; ``why`` says why it was skipped or failed, ``counts`` its tests."""

    tier: str
    step: str
    result: Result
    why: str = ""
    counts: Counts | None = None
    seconds: float = 0.0


def counts_in(junit: str) -> Counts:
    """Totals of a JUnit report; an error in set-up or teardown counts as a failure."""
    total = Counts()
    for suite in ElementTree.fromstring(junit).iter("testsuite"):
        tests, failures, errors, skipped = (
            int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")
        )
        # a test that passed and then failed in teardown is counted twice by pytest
        failed = failures + errors
        total += Counts(max(0, tests - failed - skipped), failed, skipped)
    return total


def total(outcomes: Iterable[Outcome]) -> Counts:
    return sum((each.counts for each in outcomes if each.counts), Counts())


def table(outcomes: Sequence[Outcome]) -> str:
    """One line per step, in columns."""
    head = ("tier", "step", "result", "passed", "failed", "skipped", "seconds", "")
    rows = [head, *(_row(each) for each in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    counts = outcome.counts
    numbers = (counts.passed, counts.failed, counts.skipped) if counts else ("", "", "")
    seconds = f"{outcome.seconds:.1f}"
    return (outcome.tier, outcome.step, outcome.result, *map(str, numbers), seconds, outcome.why)


def complaints(outcomes: Iterable[Outcome], *, require_all: bool) -> list[str]:
    """Why the run as a whole is a failure; none if it is not."""
    found = []
    for each in outcomes:
        if each.result == "failed":
            found.append(f"{each.tier}, {each.step}: failed, {each.why}")
        if require_all and each.result == "skipped":
            found.append(f"{each.tier}, {each.step}: skipped, {each.why}")
        if require_all and each.counts and each.counts.skipped:
            found.append(f"{each.tier}, {each.step}: {each.counts.skipped} tests skipped")
    return found
