"""A training that is timed, in a process of its own, on a given number of CPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.gpu.figures import Record

REPOSITORY: Final = Path(__file__).parents[2]
TRAINER: Final = "TimedTrainer"
TRAINERS_FOLDER: Final = REPOSITORY / "tests/gpu/timed"
WARM_UP: Final = 3  # torch.compile, cuDNN's choice of algorithms
MOST_S: Final = 600.0
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class TimedTraining:
    """``preprocessed`` is nnU-Net's folder, ``plans`` a name in it, ``folder`` the training's own.

    ``cpus``: its share of them. ``caches``: of torch.compile, shared with other trainings.
    """

    preprocessed: str
    dataset: str
    plans: str
    fold: int
    device: str
    cpus: int
    measured: int
    folder: str
    caches: str

    @property
    def workers(self) -> int:
        """Processes that make batches; as in our train stage on a GPU, and the same for stock."""
        return max(1, self.cpus - 1)

    @property
    def settling(self) -> int:
        return WARM_UP + self.workers

    @property
    def iterations(self) -> int:
        return self.settling + self.measured

    @property
    def record(self) -> Path:
        return Path(self.folder, "record.json")

    def timing(self) -> str:
        """For ``TimedTrainer``.

        While the network compiles, batches pile up: up to three for each of our workers (two in
        its queue, one in its hands), fewer with stock nnU-Net. These are drawn and thrown away
        first, or the figures would be those of the piles and not of the workers.
        """
        return json.dumps(
            {
                "record": str(self.record),
                "iterations": self.iterations,
                "warm_up": WARM_UP,
                "drawn": 3 * self.workers + 4,
            }
        )

    def environment(self) -> Mapping[str, str]:
        return {
            "CA_HPC_TIMED": self.timing(),
            "nnUNet_extTrainer": str(TRAINERS_FOLDER),
            "TORCHINDUCTOR_CACHE_DIR": f"{self.caches}/torchinductor",
            "TRITON_CACHE_DIR": f"{self.caches}/triton",
        }

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Command:
    """``environment``: added to this process's."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def train_at_once(
    trainings: Sequence[TimedTraining], *, by: Callable[[TimedTraining], Command]
) -> list[Record]:
    """Train side by side on as many CPUs as they have together, until the last record is there.

    What would come after it (validation, checkpoints) is not awaited: the processes are killed.
    """
    with ExitStack() as stack:
        stack.enter_context(_on_cpus(sum(training.cpus for training in trainings)))
        children = [stack.enter_context(_started(by(one), one)) for one in trainings]
        end = time.monotonic() + MOST_S
        while not all(training.record.exists() for training in trainings):
            for training, child in zip(trainings, children, strict=True):
                ended = child.poll() is not None and not training.record.exists()
                assert not ended, f"ended without a record:\n{_log(training).read_text()[-3000:]}"
            assert time.monotonic() < end, f"no record after {MOST_S:.0f} s, see {trainings}"
            time.sleep(POLL_S)
    return [
        Record.parse(json.loads(training.record.read_text()), measured=training.measured)
        for training in trainings
    ]


@contextmanager
def _on_cpus(count: int) -> Iterator[None]:
    """Children started here inherit the affinity."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _started(command: Command, training: TimedTraining) -> Iterator[subprocess.Popen[bytes]]:
    Path(training.folder).mkdir(parents=True)
    with _log(training).open("wb") as log:
        child = subprocess.Popen(
            command.argv,
            cwd=REPOSITORY,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its loader processes are killed with it
        )
        try:
            yield child
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _log(training: TimedTraining) -> Path:
    return Path(training.folder, "log.txt")
