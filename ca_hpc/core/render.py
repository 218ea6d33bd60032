"""The dry run's text: every sbatch parameter and every command. Pure and stable to the byte."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from ca_hpc.core.model import Command, Stage, Task, Workflow
from ca_hpc.core.units import format_duration, format_size

Script = Callable[[Stage], str]
Started = Callable[[Task, Stage, int], Command]


def render(workflow: Workflow, *, script: Script | None, started: Started) -> str:
    """Text for people. ``script``: a stage's sbatch script, None for the local executor."""
    return "\n".join(_lines(workflow, script, started)) + "\n"


def _lines(workflow: Workflow, script: Script | None, started: Started) -> Iterator[str]:
    runtime = workflow.runtime
    yield f"run folder  {workflow.run_folder}"
    yield f"executor    {workflow.executor}"
    image = runtime.image
    yield f"runtime     {runtime.kind}" + (f" {image.path} sha256:{image.sha256}" if image else "")
    for mount in workflow.mounts:
        yield f"mount       {mount.path} ({'read and write' if mount.writable else 'read only'})"
    for stage in workflow.stages:
        resources = stage.resources
        yield ""
        gpus = f", {_count(resources.gpus, 'GPU')}" if resources.gpus else ""
        after = f", {stage.condition}:{stage.after}" if stage.after else ""
        yield (
            f"== {stage.name}: {_count(len(stage.tasks), 'task')} in "
            f"{_count(len(stage.elements), 'element')}, each {_count(resources.cpus, 'CPU')}, "
            f"{format_size(resources.memory_mib)}{gpus}, {format_duration(resources.time_s)}{after}"
        )
        if script is not None:
            yield from (f"   {line}".rstrip() for line in script(stage).splitlines())
        for element in stage.elements:
            for task in element.tasks:
                command = started(task, stage, element.slots)
                yield f"-- {element.id} {task.id}"
                for key, value in sorted(command.environment.items()):
                    yield f"   {key}={shlex.quote(value)}"
                yield f"   {shlex.join(command.argv)}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)
