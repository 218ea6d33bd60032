"""What an administrator, or bad luck, does to a running cluster: freeze, kill, restart, drain."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.lab import layout
from tests.lab.cluster import Cluster
from tests.lab.daemons import Daemon, daemons
from tests.lab.machine import must, run, wait_until

FREEZER = Path("/sys/fs/cgroup/freezer")
MEMORY = Path("/sys/fs/cgroup/memory")


def has_cgroups() -> bool:
    """Whether SLURM can track jobs by cgroups here: the hierarchies of cgroup v1, writable."""
    return all(
        (folder / "cgroup.procs").exists() and os.access(folder, os.W_OK)
        for folder in (FREEZER, MEMORY)
    )


def controller(cluster: Cluster) -> Daemon:
    """slurmctld."""
    return _daemon(cluster, "slurmctld")


def node_daemon(cluster: Cluster, node: str) -> Daemon:
    """slurmd of ``node``. slurmstepd, which watches the steps of a job, lives without it."""
    return _daemon(cluster, "slurmd", "-N", node)


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """Within, slurmctld answers nobody, and goes on afterwards as if nothing had been."""
    slurmctld = controller(cluster)
    slurmctld.send(signal.SIGSTOP)
    try:
        yield
    finally:
        slurmctld.send(signal.SIGCONT)


@contextmanager
def dead(cluster: Cluster) -> Iterator[None]:
    """Within, there is no slurmctld: killed as by a power cut, started again afterwards."""
    slurmctld = controller(cluster)
    slurmctld.kill()
    try:
        yield
    finally:
        slurmctld.start()
        log = cluster.log / "slurm/slurmctld.log"
        wait_until("slurmctld", lambda: _pings(cluster), seconds=30, look_at=log)


def set_preempt_signal(cluster: Cluster, *, on: bool) -> None:
    """Whether a job that is preempted gets its ``--signal`` first, from now on."""
    changed = replace(cluster, traits=replace(cluster.traits, preempt_signal=on))
    layout.write_config(changed)
    must(["scontrol", "reconfigure"], env=cluster.env, timeout=30)


def set_node(cluster: Cluster, node: str, *, state: str) -> None:
    """``DOWN``, ``DRAIN``, ``RESUME``."""
    why = [] if state == "RESUME" else ["Reason=test"]
    update = ["scontrol", "update", f"NodeName={node}", f"State={state}", *why]
    must(update, env=cluster.env, timeout=30)


def node_state(cluster: Cluster, node: str) -> str:
    """sinfo's word, such as ``idle``, ``mixed``, ``down*``."""
    return must(["sinfo", "-h", "-n", node, "-p", "long", "-o", "%T"], env=cluster.env).strip()


def _daemon(cluster: Cluster, *start: str) -> Daemon:
    (found,) = (each for each in daemons(cluster) if each.argv[: len(start)] == start)
    return found


def _pings(cluster: Cluster) -> bool:
    return run(["scontrol", "ping"], env=cluster.env, timeout=10).returncode == 0
