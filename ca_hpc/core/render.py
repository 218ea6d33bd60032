"""The dry run's text: every sbatch parameter and every command. Pure and stable to the byte."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping

from ca_hpc.core.model import Command, Stage, Task, Workflow
from ca_hpc.core.units import format_duration, format_size

Script = Callable[[Stage], str]
Started = Callable[[Task, Stage, int], Command]


def render(
    workflow: Workflow, *, sliced: Mapping[str, int], script: Script | None, started: Started
) -> str:
    """Text for people. ``script``: a stage's sbatch script, None for the local executor.

    ``sliced``: the seconds that a task may take in all, of the stages whose jobs are shorter.
    """
    lines = (*_head(workflow, sliced), *_stages(workflow, sliced, script=script, started=started))
    return "\n".join(lines) + "\n"


def _head(workflow: Workflow, sliced: Mapping[str, int]) -> Iterator[str]:
    runtime = workflow.runtime
    yield f"run folder  {workflow.run_folder}"
    yield f"executor    {workflow.executor}"
    image = runtime.image
    yield f"runtime     {runtime.kind}" + (f" {image.path} sha256:{image.sha256}" if image else "")
    for mount in workflow.mounts:
        yield f"mount       {mount.path} ({'read and write' if mount.writable else 'read only'})"
    if workflow.executor == "slurm":
        yield f"continuation  {workflow.continuation}"
    for stage in workflow.stages:
        if stage.name in sliced:
            yield f"slices      {stage.name}: {_in_jobs(stage, sliced)}"
    if workflow.max_gpu_hours is not None:
        yield f"ceiling     {workflow.max_gpu_hours:g} GPU hours"
    if workflow.node_local is not None:
        yield f"staging     {workflow.staging} ({workflow.node_local})"


def _stages(
    workflow: Workflow, sliced: Mapping[str, int], *, script: Script | None, started: Started
) -> Iterator[str]:
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
        if stage.links > 1:
            yield from _chains(stage, sliced)
        if script is not None:
            yield from (f"   {line}".rstrip() for line in script(stage).splitlines())
        for element in stage.elements:
            for task in element.tasks:
                command = started(task, stage, element.slots)
                yield f"-- {element.id} {task.id}"
                for key, value in sorted(command.environment.items()):
                    yield f"   {key}={shlex.quote(value)}"
                yield f"   {shlex.join(command.argv)}"


def _chains(stage: Stage, sliced: Mapping[str, int]) -> Iterator[str]:
    """How many jobs there are where each element is an array of links."""
    elements = len(stage.elements)
    spare = stage.links - _jobs(stage, sliced)
    yield (
        f"   {'each element is ' if elements > 1 else ''}one array of {stage.links} jobs, one at a "
        f"time: {_in_jobs(stage, sliced)}, and {spare} to spare"
        + (f"; {elements * stage.links} jobs" if elements > 1 else "")
    )
    if elements > 1:
        yield f"   the first of {elements} arrays, which differ in the submission's number only:"


def _in_jobs(stage: Stage, sliced: Mapping[str, int]) -> str:
    each = format_duration(stage.resources.time_s)
    if stage.name not in sliced:
        return f"{each} in 1 job"
    return f"{format_duration(sliced[stage.name])} in {_jobs(stage, sliced)} slices of {each}"


def _jobs(stage: Stage, sliced: Mapping[str, int]) -> int:
    """Jobs that a task needs, if nothing interrupts them."""
    return math.ceil(sliced.get(stage.name, 1) / stage.resources.time_s)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)
