"""From records of timed trainings to figures and tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """The measured iterations of a training, in seconds of the machine's monotonic clock.

    ``before``: when the iteration before the first of them ended; ``steps``: when each began (with
    its batch at hand) and ended. Memory in MiB, None on the CPU.
    """

    before: float
    steps: tuple[tuple[float, float], ...]
    allocated_mib: int | None
    reserved_mib: int | None

    @classmethod
    def parse(cls, written: Mapping[str, Any], *, measured: int) -> Record:
        """From what ``TimedTrainer`` wrote: its last ``measured`` iterations."""
        *_, (_, before) = written["steps"][:-measured]
        return cls(
            before=before,
            steps=tuple((began, ended) for began, ended in written["steps"][-measured:]),
            allocated_mib=written["gpu_allocated_mib"],
            reserved_mib=written["gpu_reserved_mib"],
        )

    @property
    def end(self) -> float:
        return self.steps[-1][1]

    @property
    def seconds_per_iteration(self) -> float:
        return (self.end - self.before) / len(self.steps)

    @property
    def waiting(self) -> float:
        """The share of the time in which no step ran: mostly waiting for the next batch."""
        stepping = sum(ended - began for began, ended in self.steps)
        return 1 - stepping / (self.end - self.before)


def together(records: Sequence[Record], *, at_least: int = 5) -> float:
    """Iterations per second of all trainings, while all of them were in their measured part.

    Raises ValueError where they ran side by side for fewer than ``at_least`` iterations of any.
    """
    begin, end = max(one.before for one in records), min(one.end for one in records)
    counts = [sum(begin < ended <= end for _, ended in one.steps) for one in records]
    if min(counts) < at_least:
        raise ValueError(f"side by side for {counts} iterations only, at least {at_least} wanted")
    return sum(counts) / (end - begin)


@dataclass(frozen=True, slots=True)
class ArmRow:
    """An arm of a whole run. ``seconds``: per iteration, with the compilation of the network."""

    arm: str
    patch: tuple[int, ...]
    batch: int
    seconds: float
    allocated_mib: int | None
    reserved_mib: int | None
    estimate_gib: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.arm,
            " x ".join(map(str, self.patch)),
            str(self.batch),
            f"{self.seconds:.2f} s",
            _mib(self.allocated_mib),
            _mib(self.reserved_mib),
            f"{self.estimate_gib:.1f} GB",
        )


@dataclass(frozen=True, slots=True)
class StockRow:
    """One training of ours and one of stock nnU-Net, one after the other."""

    cpus: int
    workers: int
    ours: Record
    stock: Record

    @property
    def ratio(self) -> float:
        return self.ours.seconds_per_iteration / self.stock.seconds_per_iteration

    @property
    def memory_ratio(self) -> float | None:
        ours, stock = self.ours.allocated_mib, self.stock.allocated_mib
        return None if ours is None or stock is None else ours / stock

    def cells(self) -> tuple[str, ...]:
        both = (self.ours, self.stock)
        return (
            str(self.cpus),
            str(self.workers),
            *(f"{one.seconds_per_iteration:.3f} s" for one in both),
            f"{self.ratio:.2f}",
            ", ".join(f"{one.waiting:.0%}" for one in both),
            *(f"{_mib(one.allocated_mib)} ({_mib(one.reserved_mib)})" for one in both),
            "-" if self.memory_ratio is None else f"{self.memory_ratio:.2f}",
        )


@dataclass(frozen=True, slots=True)
class PackRow:
    """The same CPUs and the same GPU for one fold, and for several at once. Rates: iterations/s."""

    cpus: int
    folds: int
    one: float
    all: float
    reserved_mib: tuple[int | None, ...]

    def cells(self) -> tuple[str, ...]:
        return (
            str(self.cpus),
            str(self.folds),
            f"{self.one:.2f}",
            f"{self.all:.2f}",
            f"{self.all / self.one:.2f}",
            " + ".join(map(_mib, self.reserved_mib)),
        )


@dataclass(slots=True)
class Report:
    """Filled by the tests as they go."""

    machine: Mapping[str, str]
    arms: list[ArmRow] = field(default_factory=list)
    beside_stock: list[StockRow] = field(default_factory=list)
    packed: list[PackRow] = field(default_factory=list)

    def markdown(self) -> str:
        """For docs/gpu.md."""
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        return (
            "\n\n".join(
                (
                    machine,
                    _table(
                        "arm | patch | batch | per iteration, compiling included "
                        "| allocated MiB | reserved MiB | nnU-Net's estimate",
                        self.arms,
                    ),
                    _table(
                        "CPUs | loader processes | ours, per iteration | stock nnU-Net | ratio "
                        "| waiting: ours, stock | MiB allocated (reserved): ours | stock | ratio",
                        self.beside_stock,
                    ),
                    _table(
                        "CPUs | folds at once | iterations/s, one fold | all folds | ratio "
                        "| MiB reserved",
                        self.packed,
                    ),
                )
            )
            + "\n"
        )


def _table(head: str, rows: Iterable[ArmRow | StockRow | PackRow]) -> str:
    names = head.split(" | ")
    lines = [names, ["---"] * len(names), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mib(number: int | None) -> str:
    return "-" if number is None else str(number)
