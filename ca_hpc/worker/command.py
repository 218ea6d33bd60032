"""The command that runs a task, as it is started on the node. Pure: the dry run prints it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ca_hpc.core.environment import task_environment
from ca_hpc.core.model import Command, Mount, Runtime, Stage, Task, Workflow
from ca_hpc.runtimes import wrap


@dataclass(frozen=True, slots=True)
class Place:
    """Where and until when an attempt runs. Paths as the node sees them.

    ``ends_at_s``: unix seconds at which its job ends. ``preprocessed`` and ``image``: copies on the
    node's own disk, if there are any.
    """

    attempt: str
    work_folder: str
    slots: int
    visible_gpus: str | None
    environment: Mapping[str, str] = field(default_factory=dict)
    ends_at_s: int | None = None
    preprocessed: str | None = None
    runtime: Runtime | None = None


def started_command(task: Task, stage: Stage, workflow: Workflow, place: Place) -> Command:
    """The task's module with the arguments that only the node knows, wrapped for the runtime."""
    cpus = max(1, stage.resources.cpus // place.slots)
    threads = workflow.threads or cpus
    gpu = stage.resources.gpus > 0 and stage.resources.device == "cuda"
    runtime = place.runtime or workflow.runtime
    # faulthandler: a crash leaves a stack in the log
    argv = [runtime.python, "-I", "-u", "-X", "faulthandler", "-m", task.module, *task.arguments]
    argv += ["--attempt", place.attempt, "--cpus", str(cpus), "--threads", str(threads)]
    argv += ["--device", "cuda" if gpu else "cpu"]
    mounts = workflow.mounts
    if place.ends_at_s is not None:
        argv += ["--ends-at", str(place.ends_at_s)]
    if place.preprocessed is not None:
        argv += ["--preprocessed", place.preprocessed]
        mounts = (*mounts, Mount(place.preprocessed))
    inner = Command(
        tuple(argv),
        task_environment(
            threads=threads,
            cpus=cpus,
            work_folder=_inside(place.work_folder, runtime),
            visible_gpus=place.visible_gpus,
        ),
    )
    return wrap(
        inner,
        runtime,
        mounts=mounts,
        work_folder=place.work_folder,
        gpu=gpu,
        host_environment=place.environment,
        node_python=workflow.node_python,
    )


def _inside(work_folder: str, runtime: Runtime) -> str:
    """Where the task sees its work folder: an image has it at /tmp (``--workdir``)."""
    return "/tmp" if runtime.kind == "apptainer" else work_folder
