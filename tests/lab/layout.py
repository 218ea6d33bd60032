"""A cluster's folder on disk: record, keys, fake GPUs and configuration, with their owners."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
from pathlib import Path

from tests.lab.cluster import USUAL, Cluster, Traits, config_files
from tests.lab.machine import LabError, must

# Below Linux's ephemeral ports, which start at 32768.
PORT_BASES = range(17000, 30000, 100)
RECORD = "lab.json"
WIPED = ("etc", "log", "run", "state", "env.sh", RECORD)


def recorded(root: Path) -> Cluster | None:
    """The cluster that ``write`` laid out below ``root``."""
    try:
        return Cluster.from_json((root.resolve() / RECORD).read_text())
    except FileNotFoundError:
        return None


def new_cluster(
    root: Path, *, nodes: int, port_base: int | None, traits: Traits = USUAL
) -> Cluster:
    """A cluster for an empty folder, on free ports; ``LabError`` if there are none."""
    root = root.resolve()
    if root.exists() and any(root.iterdir()):
        raise LabError(f"{root} is not empty and holds no lab; give an empty or a new folder")
    bases = PORT_BASES if port_base is None else (port_base,)
    for base in bases:
        cluster = Cluster(root=root, port_base=base, nodes=nodes, traits=traits)
        if all(_is_free(port) for port in cluster.ports):
            return cluster
    raise LabError(f"no free ports from {bases[0]} on; name others with --port-base")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def write(cluster: Cluster) -> None:
    """Folders with the owners that each daemon insists on, keys, fake GPUs, configuration."""
    for folder in (cluster.root, cluster.etc, cluster.log, cluster.pids, cluster.state):
        _folder(folder)
    for name in ("munge", "mysql", "slurm"):
        _folder(cluster.log / name, owner=name, mode=0o700)
        _folder(cluster.pids / name, owner=name)
    for name, owner in (("munge", "munge"), ("mysql", "mysql"), ("slurmctld", "slurm")):
        _folder(cluster.state / name, owner=owner, mode=0o700)
    for name in cluster.node_names:
        _folder(cluster.state / f"slurmd.{name}")
    key = cluster.state / "munge/munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")
    _folder(cluster.state / "gpu")
    for device in cluster.gpu_devices:
        # CUDA_VISIBLE_DEVICES is set for a character device only; this one is /dev/null's twin.
        if not device.exists():
            os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            device.chmod(0o666)
    (cluster.root / RECORD).write_text(cluster.to_json())
    write_config(cluster)


def write_config(cluster: Cluster) -> None:
    """The configuration files; running daemons read them again when they are told to."""
    host = socket.gethostname().partition(".")[0]
    for path, text in config_files(cluster, host=host, version=_slurm_version()).items():
        path.write_text(text)
    secret = cluster.etc / "slurmdbd.conf"
    secret.chmod(0o600)  # slurmdbd refuses to start otherwise
    shutil.chown(secret, "slurm", "slurm")


def _folder(path: Path, *, owner: str = "root", mode: int = 0o755) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    shutil.chown(path, owner, owner)


def _slurm_version() -> tuple[int, int]:
    said = must(["slurmd", "-V"])
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None:
        raise LabError(f"slurmd -V says {said!r}, which names no version; is it SLURM's?")
    return int(found[1]), int(found[2])


def wipe(cluster: Cluster) -> None:
    """Remove what ``write`` and the daemons left, and the root if that empties it."""
    for name in cluster.node_names:
        for hierarchy in Path("/sys/fs/cgroup").glob(f"*/slurm_{name}"):
            # what a killed slurmstepd has left lies deeper; rmdir is all that works there
            for folder in (*sorted(hierarchy.rglob("*/"), reverse=True), hierarchy):
                with contextlib.suppress(OSError):  # another lab's, with jobs in it
                    folder.rmdir()
    for name in WIPED:
        path = cluster.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not any(cluster.root.iterdir()):
        cluster.root.rmdir()
