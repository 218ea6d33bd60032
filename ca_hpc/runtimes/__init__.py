"""Runtimes: pure functions from a command to the command that is started."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ca_hpc.core.model import Command, Mount, Runtime
from ca_hpc.runtimes import apptainer, bare

Wrap = Callable[..., Command]
RUNTIMES: Final[Mapping[str, Wrap]] = {"apptainer": apptainer.wrap, "none": bare.wrap}


def wrap(
    command: Command,
    runtime: Runtime,
    *,
    mounts: Iterable[Mount],
    work_folder: str,
    gpu: bool,
    host_environment: Mapping[str, str],
    node_python: str | None = None,
) -> Command:
    """The command as it is started on the node.

    ``work_folder`` becomes /tmp and home inside an image. ``host_environment`` is the node's: only
    what is listed in ``PASSED`` gets through to the started program. ``node_python``, an
    interpreter of the node with this package, runs the guard of an image (:mod:`ca_hpc.guard`).
    """
    return RUNTIMES[runtime.kind](
        command,
        runtime,
        mounts=tuple(mounts),
        work_folder=work_folder,
        gpu=gpu,
        host_environment=host_environment,
        node_python=node_python,
    )
