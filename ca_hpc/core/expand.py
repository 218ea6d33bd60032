"""Spec + cluster profile -> workflow. Pure: the same input gives the same workflow, to the byte."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from ca_hpc.core.model import (
    SIGNAL_LEAD_S,
    SLICED,
    Element,
    Mount,
    Resources,
    Runtime,
    Stage,
    Task,
    Workflow,
    prediction_id,
    training_id,
)
from ca_hpc.core.profile import Cluster, Gpu
from ca_hpc.core.retry_spec import merged
from ca_hpc.core.spec import STAGES, JobSpec, StageName, StageRequest
from ca_hpc.core.units import format_duration
from ca_hpc.errors import SpecError

# What a stage asks for where neither the spec nor the profile says so.
DEFAULTS: Final[Mapping[StageName, StageRequest]] = {
    "prepare": StageRequest(time=4 * 3600, cpus=4, memory=8 * 1024),
    "preprocess": StageRequest(time=12 * 3600, cpus=8, memory=32 * 1024),
    "train": StageRequest(time=24 * 3600, cpus=8, memory=32 * 1024, gpus=1),
    "predict": StageRequest(time=6 * 3600, cpus=8, memory=32 * 1024, gpus=1),
    "evaluate": StageRequest(time=2 * 3600, cpus=2, memory=8 * 1024),
    "report": StageRequest(time=1 * 3600, cpus=1, memory=4 * 1024),
}
# predict, evaluate and report work with what there is, also when folds are missing
CONDITIONS: Final[Mapping[StageName, Literal["afterok", "afterany"]]] = {
    "prepare": "afterok",
    "preprocess": "afterok",
    "train": "afterok",
    "predict": "afterany",
    "evaluate": "afterany",
    "report": "afterany",
}
# stages whose tasks do not wait for each other; those of the others run in order, in one element
ARRAYS: Final = frozenset({"prepare", "train", "predict"})
FUSED: Final[Mapping[StageName, tuple[StageName, ...]]] = {
    "prepare": ("prepare", "preprocess"),
    "evaluate": ("evaluate", "report"),
}
SIGNAL_LEAD_SHARE: Final = 8  # of the time, where that is less: a short job must get to work
MOST_AT_ONCE: Final = 256
# Links of a chain beyond those that the time asks for: interruptions end a link early.
SPARE_LINKS: Final = 2


def expand(
    spec: JobSpec,
    cluster: Cluster,
    *,
    run_folder: str,
    runtime: Runtime,
    node_python: str,
    mounts: Iterable[Mount],
    test_sets: bool,
) -> Workflow:
    """Stages, elements and tasks of ``spec`` on ``cluster``. Raises SpecError.

    ``test_sets``: whether anything is held out of training, so that there is something to predict.
    """
    names = tuple(name for name in STAGES if name != "predict" or test_sets)
    tasks = {name: _tasks(name, spec, run_folder) for name in names}
    groups = _groups(cluster, names)
    stages = []
    for position, (name, members) in enumerate(groups):
        resources, request = _resources(members, spec, cluster)
        elements: tuple[Element, ...]
        if len(members) == 1 and name in ARRAYS:
            pack = _pack(name, request, resources, cluster)
            elements = _elements(name, tasks[name], pack=pack)
        else:
            elements = (Element(f"{name}.0", tuple(t for m in members for t in tasks[m])),)
        stages.append(
            Stage(
                name=name,
                elements=elements,
                resources=resources,
                sbatch=_sbatch(request, resources, cluster),
                at_once=min(len(elements), request.at_once or MOST_AT_ONCE),
                links=_links(name, request, resources, cluster),
                after=groups[position - 1][0] if position else None,
                condition=CONDITIONS[name],
            )
        )
    _within_job_limit(stages, cluster)
    return Workflow(
        run_folder=run_folder,
        executor=cluster.executor,
        node_python=node_python,
        node_local=cluster.folders.node_local,
        setup=cluster.setup,
        runtime=runtime,
        mounts=tuple(mounts),
        threads=spec.threads,
        stages=tuple(stages),
        continuation=cluster.continuation,
        staging=spec.stage,
        retry=merged(spec.retry),
        max_gpu_hours=spec.max_gpu_hours,
        node_memory_mib=cluster.node.memory,
        environment=cluster.environment,
    )


def task_gpu_memory(spec: JobSpec, cluster: Cluster, workflow: Workflow) -> int | None:
    """MiB of GPU memory for each training; None where the profile does not tell, or without GPU."""
    for stage in workflow.stages:
        if stage.name == "train" and stage.resources.gpus:
            request = _merged("train", spec, cluster)
            found = _gpu("train", request, cluster)
            if found is None or found[1].memory is None:
                return None
            slots = max(element.slots for element in stage.elements)
            return found[1].memory * stage.resources.gpus // max(slots, stage.resources.gpus)
    return None


def sliced(spec: JobSpec, cluster: Cluster, workflow: Workflow) -> Mapping[str, int]:
    """By stage, the seconds that a task may take in all: of those whose jobs are shorter."""
    if cluster.executor == "local":  # nothing ends a process here
        return {}
    asked = {
        stage.name: _merged(name, spec, cluster).time or 0
        for stage in workflow.stages
        for name in STAGES
        if name == stage.name and name in SLICED
    }
    times = {stage.name: stage.resources.time_s for stage in workflow.stages}
    return {name: time for name, time in asked.items() if time > times[name]}


def _groups(
    cluster: Cluster, names: tuple[StageName, ...]
) -> tuple[tuple[StageName, tuple[StageName, ...]], ...]:
    if not cluster.fuse_short_stages:
        return tuple((name, (name,)) for name in names)
    hidden = {m for members in FUSED.values() for m in members[1:]}
    return tuple((n, FUSED.get(n, (n,))) for n in names if n not in hidden)


def _tasks(stage: StageName, spec: JobSpec, run_folder: str) -> tuple[Task, ...]:
    module = f"ca_hpc.steps.{stage}"
    run = ("--run", run_folder)
    match stage:
        case "prepare":
            shards = range(spec.prepare.shards)
            return tuple(
                Task(f"prepare-shard{i}", module, (*run, "--shard", str(i))) for i in shards
            )
        case "preprocess":
            # assemble waits for all shards, and is too short for a place in the queue of its own
            return (Task("assemble", "ca_hpc.steps.assemble", run), Task(stage, module, run))
        case "train":
            # folds outside, arms inside: the arms of one fold end at about the same time
            return tuple(
                Task(training_id(arm, fold), module, (*run, "--arm", arm, "--fold", str(fold)))
                for fold in spec.fold_indices
                for arm in spec.arms
            )
        case "predict":
            return tuple(
                Task(prediction_id(arm), module, (*run, "--arm", arm)) for arm in spec.arms
            )
        case "evaluate" | "report":
            return (Task(stage, module, run),)


def _elements(stage: str, tasks: tuple[Task, ...], *, pack: int) -> tuple[Element, ...]:
    # slots as packed, also in a last element that is not full: every task gets the same CPUs, and
    # so the same threads and rounding
    chunks = [tasks[i : i + pack] for i in range(0, len(tasks), pack)]
    return tuple(
        Element(id=f"{stage}.{i}", tasks=chunk, slots=pack) for i, chunk in enumerate(chunks)
    )


def _merged(stage: StageName, spec: JobSpec, cluster: Cluster) -> StageRequest:
    """Spec over profile over defaults, key by key."""
    layers = (DEFAULTS[stage], cluster.resources.get(stage), spec.resources.get(stage))
    out = StageRequest()
    for layer in layers:
        if layer is None:
            continue
        given = {
            f.name: value
            for f in dataclasses.fields(layer)
            if (value := getattr(layer, f.name)) is not None and f.name != "sbatch"
        }
        out = dataclasses.replace(out, **given, sbatch={**out.sbatch, **layer.sbatch})
    return out


def _asked(stage: StageName, spec: JobSpec, cluster: Cluster, *, key: str) -> int | None:
    """What spec or profile ask for; the defaults of this file not counted."""
    for layer in (spec.resources.get(stage), cluster.resources.get(stage)):
        if layer is not None and getattr(layer, key) is not None:
            return int(getattr(layer, key))
    return None


def _gpu(stage: StageName, request: StageRequest, cluster: Cluster) -> tuple[str, Gpu] | None:
    name = request.gpu or cluster.gpu
    if not request.gpus or name is None:
        return None
    if name not in cluster.gpus:
        known = ", ".join(cluster.gpus) or "none"
        raise SpecError(
            f"resources.{stage}.gpu: cluster {cluster.name} has no {name} (it has: {known})",
            hint="name one of these, or add it to the cluster profile",
        )
    return name, cluster.gpus[name]


def _resources(
    members: tuple[StageName, ...], spec: JobSpec, cluster: Cluster
) -> tuple[Resources, StageRequest]:
    """Resources of a stage: of fused members the times added, of the rest the largest."""
    requests = {m: _merged(m, spec, cluster) for m in members}
    first = members[0]
    request = requests[first]
    cpus = max(r.cpus or 1 for r in requests.values())
    memory = max(r.memory or 1024 for r in requests.values())
    gpus, device = 0, "cpu"
    if (found := _gpu(first, request, cluster)) is not None:
        name, gpu = found
        gpus, device = request.gpus or 0, gpu.device
        if cluster.whole_node:
            gpus = max(gpus, cluster.node.gpus)
        if gpu.most is not None and gpus > gpu.most:
            raise SpecError(
                f"resources.{first}.gpus: at most {gpu.most} of {name} per job, {gpus} asked for",
                hint="lower gpus, or use pack to run several folds on one",
            )
        cpus = _asked(first, spec, cluster, key="cpus") or gpu.cpus * gpus
        memory = _asked(first, spec, cluster, key="memory") or gpu.ram * gpus
    whole = cluster.whole_node and gpus > 0
    if whole:
        cpus, memory = cluster.node.cpus or cpus, cluster.node.memory or memory
    if cluster.executor == "local":  # a machine has what it has: ask for no more
        cpus = min(cpus, cluster.node.cpus or cpus)
        memory = min(memory, cluster.node.memory or memory)
    cut = _slice(request)
    time = cut or sum(r.time or 0 for r in requests.values())
    time = _within_limits(first, time, cluster, key="slice" if cut else "time")
    return Resources(time, cpus, memory, gpus, device, whole), request  # type: ignore[arg-type]


def _slice(request: StageRequest) -> int | None:
    """Seconds of one job of the stage, where its time is cut."""
    if request.slice is None:
        return None
    return min(request.slice, request.time or request.slice)  # of one a job says, of one a profile


def _links(stage: StageName, request: StageRequest, resources: Resources, cluster: Cluster) -> int:
    """How many jobs each element gets at once, one after the other; 1: further ones are made."""
    if cluster.continuation != "array" or cluster.executor == "local" or stage not in SLICED:
        return 1
    return math.ceil((request.time or resources.time_s) / resources.time_s) + SPARE_LINKS


def _within_limits(stage: str, time: int, cluster: Cluster, *, key: str) -> int:
    longest, shortest = cluster.limits.longest_job, cluster.limits.shortest_job
    if longest is not None and time > longest:
        most = f'"{format_duration(longest)}"'
        cut = stage in SLICED and key == "time"
        raise SpecError(
            f"resources.{stage}.{key}: {format_duration(time)} is more than the "
            f"{format_duration(longest)} that cluster {cluster.name} allows",
            hint=f"write at most {most}"
            + (f", or keep the time and cut it: slice: {most}" if cut else ""),
        )
    return max(time, shortest or 0)


def _within_job_limit(stages: list[Stage], cluster: Cluster) -> None:
    jobs = sum(len(stage.elements) * stage.links for stage in stages)
    if cluster.limits.jobs is not None and jobs > cluster.limits.jobs:
        raise SpecError(
            f"{jobs} jobs are more than the {cluster.limits.jobs} of cluster {cluster.name}",
            hint=_fewer_jobs(stages),
        )


def _fewer_jobs(stages: list[Stage]) -> str:
    train = next(stage for stage in stages if stage.name == "train")
    if train.links == 1:
        return "put several tasks into one job: resources.train.pack"
    longer = "a longer resources.train.slice, " if train.links > 1 + SPARE_LINKS else ""
    return (
        f"each training is a chain of {train.links} jobs (continuation: array): {longer}"
        "resources.train.pack, or continuation: resubmit"
    )


def _pack(stage: str, request: StageRequest, resources: Resources, cluster: Cluster) -> int:
    pack = request.pack or (resources.gpus if resources.whole_node else 1)
    if pack > resources.cpus:
        raise SpecError(
            f"resources.{stage}.pack: {pack} tasks on {resources.cpus} CPUs",
            hint="give the element at least one CPU per task, or pack fewer",
        )
    return pack


def _sbatch(
    request: StageRequest, resources: Resources, cluster: Cluster
) -> dict[str, str | int | bool]:
    """sbatch's long options without dashes. Site's and user's own parameters win."""
    options: dict[str, str | int | bool] = {
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": resources.cpus,
        "mem": f"{resources.memory_mib}M",
        "time": format_duration(resources.time_s),
        "signal": f"B:USR2@{min(SIGNAL_LEAD_S, resources.time_s // SIGNAL_LEAD_SHARE)}",
        # all that sbatch has, which is what the profile names (executors/sbatch.py). With a list of
        # names the node would ask a login shell for the rest, rc files included (sbatch(1),
        # --export and --get-user-env)
        "export": "ALL",
        "propagate": "NONE",  # limits of the login node: the nodes have their own
        "requeue": True,
        "kill-on-invalid-dep": "yes",
    }
    for key in ("account", "partition", "qos", "constraint"):
        if (value := getattr(cluster, key)) is not None:
            options[key] = value
    if resources.gpus:
        name = request.gpu or cluster.gpu
        assert name is not None
        key, _, value = cluster.gpus[name].flag.lstrip("-").partition("=")
        options[key] = value.format(count=resources.gpus)
    if resources.whole_node:
        options["exclusive"] = True
    merged = {**options, **cluster.sbatch, **request.sbatch}
    return {key: value for key, value in merged.items() if value is not False}
