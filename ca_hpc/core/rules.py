"""Classes of failure, and what follows each of them unless the job says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Failure(str, Enum):
    """Classes of failure, as ``status`` shows them and the spec's ``retry:`` names them."""

    PREEMPTED = "preempted"  # stopped from outside, to go on later
    TIME = "time"
    NODE = "node"  # lost, or its file systems
    GPU = "gpu"  # of the device or its driver, not of its memory
    HOST_MEMORY = "host-memory"
    CRASH = "crash"  # ended without an exception: a segmentation fault, os._exit
    UNKNOWN = "unknown"
    NO_PROGRESS = "no-progress"
    GPU_MEMORY = "gpu-memory"
    DISK = "disk"  # full, or the quota, or shared memory
    ACCESS = "access"  # read-only, no permission, a file, folder or mount that is missing
    IMAGE = "image"
    CODE = "code"  # an exception
    INPUT = "input"  # what the user gave does not fit
    CHANGED = "changed"  # a file is not the one that was recorded
    DEPENDENCY = "dependency"
    CANCELLED = "cancelled"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows a failure of one class.

    ``tries``: how often it is done again in a row without progress; of ``no-progress``: after how
    many attempts in a row without progress, of whatever class, it ends. ``wait_s``: before the
    first time, doubled for each further one. ``elsewhere``: a node is left out after so many such
    failures there. ``more_memory``: the factor by which the next attempt gets more of it, up to
    ``most_memory_mib`` (None: four times what the stage asks for).
    """

    tries: int = 0
    wait_s: int = 0
    elsewhere: int | None = None
    more_memory: float | None = None
    most_memory_mib: int | None = None


F = Failure

# Interruptions are the cluster's way, and each goes on where the last one stopped. What a further
# attempt cannot mend is left to the user.
DEFAULTS: Final[Mapping[Failure, Rule]] = {
    F.PREEMPTED: Rule(tries=1000),
    F.TIME: Rule(tries=1000),
    F.NODE: Rule(tries=5, wait_s=60, elsewhere=2),
    F.GPU: Rule(tries=3, elsewhere=1),
    F.HOST_MEMORY: Rule(tries=3, more_memory=1.5),
    F.CRASH: Rule(tries=2, wait_s=60, elsewhere=2),
    F.UNKNOWN: Rule(tries=2, wait_s=60, elsewhere=2),
    F.NO_PROGRESS: Rule(tries=5),
    F.GPU_MEMORY: Rule(),
    F.DISK: Rule(),
    F.ACCESS: Rule(),
    F.IMAGE: Rule(),
    F.CODE: Rule(),
    F.INPUT: Rule(),
    F.CHANGED: Rule(),
    F.DEPENDENCY: Rule(),
    F.CANCELLED: Rule(),
    F.BUDGET: Rule(),
}
