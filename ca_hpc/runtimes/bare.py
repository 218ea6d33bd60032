"""``runtime: none``: the command runs on the node as it is, in a clean environment."""

from __future__ import annotations

from collections.abc import Mapping

from ca_hpc.core.model import Command, Mount, Runtime

# LD_LIBRARY_PATH stays: on module systems CUDA's driver libraries are found through it. It is what
# the profile's `setup` has made of it.
PASSED = ("PATH", "USER", "LOGNAME", "LD_LIBRARY_PATH")


def wrap(
    command: Command,
    runtime: Runtime,
    *,
    mounts: tuple[Mount, ...],
    work_folder: str,
    gpu: bool,
    host_environment: Mapping[str, str],
    node_python: str | None = None,
) -> Command:
    """The same argv; of the node's environment only ``PASSED``, and a home of its own."""
    kept = {key: host_environment[key] for key in PASSED if key in host_environment}
    own = {"HOME": f"{work_folder}/home", "TMPDIR": work_folder}
    return Command(command.argv, {**kept, **own, **command.environment})
