"""The workflow: a spec expanded into stages, elements and tasks, ready to run anywhere.

Words: a **stage** is one submission; an **element** is one array element, that is one
allocation, with one task or several in **slots**; a **task** is the unit of work; an **attempt**
is one execution of a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from ca_hpc.core.rules import DEFAULTS, Failure, Rule

# What a step exits with to be queued again: none of the shell's, Python's or Apptainer's codes.
INTERRUPTED_STATUS: Final = 85
# Tasks of these stages go on where an earlier job of theirs stopped, as often as need be.
SLICED: Final = frozenset({"train", "predict"})
# Seconds before the time limit at which SLURM signals the worker at the latest (it looks every
# 30 s, so up to 60 s earlier). A training stops by itself in time, by what its iterations and
# checkpoints take; this is for a task that does not.
SIGNAL_LEAD_S: Final = 120


class TaskState(str, Enum):
    """SLURM's own words. UNKNOWN: nobody could be asked; it never means failed."""

    WAITING = "WAITING"  # not submitted yet, or behind another stage of the local executor
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start: never a shell line."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file that a task may see, at the same path inside the image as outside."""

    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Pin:
    """A file that must not change: where it is and the sha256 that it must have."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a task's command is wrapped."""

    kind: Literal["apptainer", "none"]
    python: str  # of the tasks: inside the image, or on the node
    image: Pin | None = None
    executable: str = "apptainer"
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """One command of this package: ``python -m module arguments``."""

    id: str
    module: str
    arguments: tuple[str, ...] = ()


def training_id(arm: str, fold: int) -> str:
    """The id of the task that trains one fold of one arm."""
    return f"train-{arm}-fold{fold}"


def prediction_id(arm: str) -> str:
    """The id of the task that predicts the test sets with all folds of one arm."""
    return f"predict-{arm}"


@dataclass(frozen=True, slots=True)
class Element:
    """One allocation. Tasks run in ``slots`` at the same time, in order when there is one slot."""

    id: str
    tasks: tuple[Task, ...]
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Resources:
    """What one element gets. ``gpus`` are shared out over the slots in turn."""

    time_s: int
    cpus: int
    memory_mib: int
    gpus: int = 0
    device: Literal["cuda", "cpu"] = "cpu"
    whole_node: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One submission. ``after``: the stage before, and whether it must have succeeded."""

    name: str
    elements: tuple[Element, ...]
    resources: Resources
    sbatch: Mapping[str, str | int | bool]  # every parameter but job name and dependency
    at_once: int
    links: int = 1  # of the chain that each element gets, where a site continues by arrays
    after: str | None = None
    condition: Literal["afterok", "afterany"] = "afterok"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, in the order of the elements."""
        return tuple(task for element in self.elements for task in element.tasks)


Continuation = Literal["requeue", "array", "resubmit"]


@dataclass(frozen=True, slots=True)
class Workflow:
    """Everything that a node needs to know, but for the clock.

    ``continuation``: how a task that was interrupted goes on. ``staging``: whether nodes copy what
    trainings read to their own disks. ``retry``: what happens after a failure, by its class.
    ``max_gpu_hours``: the ceiling of all trainings and predictions of the run together.
    """

    run_folder: str
    executor: Literal["slurm", "local"]
    node_python: str  # runs the worker
    node_local: str | None
    setup: tuple[str, ...]
    runtime: Runtime
    mounts: tuple[Mount, ...]
    threads: int | None
    stages: tuple[Stage, ...]
    continuation: Continuation = "requeue"
    staging: Literal["auto", "never"] = "auto"
    retry: Mapping[Failure, Rule] = field(default_factory=lambda: dict(DEFAULTS))
    max_gpu_hours: float | None = None
    node_memory_mib: int | None = None  # of the site's nodes, if its profile tells
    environment: tuple[str, ...] = ()  # variables of the submitting shell that jobs get

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks of all stages."""
        return tuple(task for stage in self.stages for task in stage.tasks)

    def stage_of(self, element_id: str) -> tuple[Stage, Element]:
        """The stage and the element with this id. Raises KeyError."""
        for stage in self.stages:
            for element in stage.elements:
                if element.id == element_id:
                    return stage, element
        raise KeyError(element_id)

    def element_of(self, task_id: str) -> str:
        """The id of the element with this task. Raises KeyError."""
        for stage in self.stages:
            for element in stage.elements:
                if any(task.id == task_id for task in element.tasks):
                    return element.id
        raise KeyError(task_id)
