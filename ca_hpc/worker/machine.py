"""What a node is made of, for the record and for the check before a training."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.core.model import Resources
from ca_hpc.core.run_record import Gpu, Machine
from ca_hpc.errors import CaHpcError
from ca_hpc.processes import Run
from ca_hpc.worker.node import Node

TIMEOUT_S: Final = 60.0  # a driver that was idle may take seconds to wake up
# nvidia-smi --help-query-gpu; drivers before 470 do not know the last one, and refuse all for it
_FIELDS: Final = ("index", "uuid", "name", "memory.total", "driver_version", "compute_cap")
_QUERIES: Final = (_FIELDS, _FIELDS[:-1])


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU. ``capability``: CUDA's, ``9.0``; None where the driver does not tell."""

    index: str
    uuid: str
    gpu: Gpu
    capability: str | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """The node, and those of its GPUs that the job may use."""

    machine: Machine
    devices: tuple[Device, ...] = ()


def uses_cuda(resources: Resources) -> bool:
    """Whether tasks with these resources compute on GPUs."""
    return resources.gpus > 0 and resources.device == "cuda"


def look(node: Node, resources: Resources, *, run: Run = processes.run) -> Hardware:
    """The node that this process runs on. GPUs are looked for where the tasks use some."""
    found: tuple[Device, ...] = ()
    if uses_cuda(resources):
        found = devices(node.gpus, environment=node.environment, run=run)
    return Hardware(machine(node.name, gpus=tuple(device.gpu for device in found)), found)


def machine(host: str, *, gpus: tuple[Gpu, ...] = (), proc: Path = Path("/proc")) -> Machine:
    """This node's processor, memory and kernel. What is not told is 0 or the architecture."""
    return Machine(
        host=host,
        cpu=_field(proc / "cpuinfo", "model name") or platform.machine(),  # ARM has no such line
        cpus=len(os.sched_getaffinity(0)),
        memory_mib=_whole(_field(proc / "meminfo", "MemTotal")) // 1024,
        kernel=os.uname().release,
        gpus=gpus,
    )


def devices(
    visible: Collection[str], *, environment: Mapping[str, str], run: Run = processes.run
) -> tuple[Device, ...]:
    """The GPUs that nvidia-smi sees, of these only the ``visible`` ones if it knows them.

    ``visible``: numbers or UUIDs, as in CUDA_VISIBLE_DEVICES. () without nvidia-smi, and where it
    fails: whether there is a GPU is for torch to say.
    """
    for fields in _QUERIES:
        query = ("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
        try:
            done = run(query, env=environment, timeout_s=TIMEOUT_S)
        except (CaHpcError, OSError):
            return ()
        if done.returncode == 0:
            rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
            found = tuple(_device(*row) for row in rows if len(row) == len(fields))
            chosen = tuple(device for device in found if _named(device, visible))
            return chosen or found
    return ()


def _device(
    index: str, uuid: str, name: str, memory: str, driver: str, capability: str = ""
) -> Device:
    told = capability if capability[:1].isdigit() else None
    return Device(index, uuid, Gpu(name, _whole(memory), driver), told)


def _named(device: Device, visible: Collection[str]) -> bool:
    # CUDA takes the beginning of a UUID for the whole
    return any(word == device.index or device.uuid.startswith(word) for word in visible)


def _field(file: Path, name: str) -> str | None:
    """The first value of a ``name : value`` file of proc(5)."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), None)


def _whole(text: str | None) -> int:
    """The leading number of ``81559`` or ``131072 kB``; 0 of ``[N/A]``."""
    first = (text or "").split(" ")[0]
    return int(first) if first.isdigit() else 0
