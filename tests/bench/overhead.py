"""Five trivial tasks, from submission to the last result, beside the same array by hand.

Twice: a bare sbatch array of the same five commands, and submitit's ``map_array`` of them, which is
what somebody would write who wants Python results.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

from ca_hpc import __version__
from ca_hpc.actions import stages
from ca_hpc.actions.job_data import silent
from ca_hpc.core.model import Element, Resources, Runtime, Stage, Task, Workflow
from ca_hpc.core.record import Pins
from ca_hpc.executors.placing import PATIENCE_S
from ca_hpc.store.run_folder import RunFolder
from tests.bench.pairs import compare

TASKS = 5
TRIVIAL = "platform"  # a module of the standard library that prints a line and ends
OPTIONS: dict[str, str | int | bool] = {
    "mem": "100M",
    "cpus-per-task": 1,
    "time": "00:05:00",
    "partition": "long",
}
PAIRS = 11


def measure(folder: Path) -> None:
    numbers = itertools.count()

    def ours() -> None:
        run = _run_folder(folder / f"ours-{next(numbers)}")
        stages.submit_stages(run, say=silent, patience_s=PATIENCE_S, sleep=time.sleep)
        _wait(lambda: sum(run.result(task.id) is not None for task in run.workflow.tasks))

    def by_hand() -> None:
        here = folder / f"hand-{next(numbers)}"
        here.mkdir()
        script = here / "job.sh"
        lines = [f"#SBATCH --{key}={value}" for key, value in OPTIONS.items()]
        script.write_text(
            "\n".join(
                ["#!/bin/bash", *lines, f"#SBATCH --output={here}/%a.log",
                 f"{sys.executable} -I -m {TRIVIAL} && touch {here}/$SLURM_ARRAY_TASK_ID.done", ""]
            )
        )  # fmt: skip
        argv = ("sbatch", f"--array=0-{TASKS - 1}", str(script))
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
        _wait(lambda: len(list(here.glob("*.done"))))

    def by_submitit() -> None:
        from submitit.helpers import CommandFunction
        from submitit.slurm.slurm import SlurmExecutor

        here = folder / f"submitit-{next(numbers)}"
        executor = SlurmExecutor(folder=here)
        executor.update_parameters(additional_parameters=OPTIONS, wckey=None)
        trivial = CommandFunction([sys.executable, "-I", "-m", TRIVIAL], verbose=False)
        executor.map_array(lambda _: trivial(), range(TASKS))
        _wait(lambda: len(list(here.glob("*_result.pkl"))))

    compare("five tasks", ours, by_hand, pairs=PAIRS, what="bare sbatch array")
    compare("five tasks", ours, by_submitit, pairs=PAIRS, what="submitit by hand")


def _run_folder(path: Path) -> RunFolder:
    """A run of one stage without an image."""
    path.mkdir()
    run = RunFolder(path)
    tasks = tuple(Task(f"trivial{i}", TRIVIAL) for i in range(TASKS))
    stage = Stage(
        name="trivial",
        elements=tuple(Element(f"trivial.{i}", (task,)) for i, task in enumerate(tasks)),
        resources=Resources(time_s=300, cpus=1, memory_mib=100),
        sbatch=OPTIONS,
        at_once=TASKS,
    )
    runtime = Runtime("none", python=sys.executable)
    run.write("pins.json", Pins(__version__, token="bench", created="", weights=None))
    run.write(
        "workflow.json",
        Workflow(
            run_folder=str(path), executor="slurm", node_python=sys.executable, node_local=None,
            setup=(), runtime=runtime, mounts=(), threads=1, stages=(stage,),
        ),
    )  # fmt: skip
    return run


def _wait(count: object, *, seconds: float = 60) -> None:
    assert callable(count)
    end = time.monotonic() + seconds
    while count() < TASKS:
        assert time.monotonic() < end, "the tasks did not end"
        time.sleep(0.01)
