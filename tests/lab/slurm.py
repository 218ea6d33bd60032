"""Bring a throw-away SLURM cluster up or down: munge, MariaDB, slurmdbd, slurmctld, slurmd."""

from __future__ import annotations

import argparse
import fcntl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.lab import layout
from tests.lab.cluster import USUAL, Cluster, Traits
from tests.lab.daemons import Daemon, daemons
from tests.lab.machine import (
    DEFAULT_USER,
    LabError,
    install,
    must,
    ordinary_user,
    require_root,
    run,
    wait_until,
)
from tests.lab.process import marked_processes

PACKAGE_OF = {
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}
STOP_SECONDS = 30.0
ACCOUNTING_SQL = """
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS slurm@127.0.0.1 IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO slurm@127.0.0.1;
"""


def up(
    root: Path,
    *,
    user: str = DEFAULT_USER,
    nodes: int = 4,
    port_base: int | None = None,
    traits: Traits = USUAL,
) -> Cluster:
    """Bring the cluster below ``root`` up and return it once all nodes take jobs.

    A cluster that is up stays as it is, one that is half up is completed. ``nodes``,
    ``port_base`` and ``traits`` count for a new root only. Raises ``LabError``.
    """
    require_root()
    install(PACKAGE_OF)
    ordinary_user(user)
    with _one_at_a_time():
        cluster = layout.recorded(root) or layout.new_cluster(
            root, nodes=nodes, port_base=port_base, traits=traits
        )
        layout.write(cluster)
        if run(["test", "-r", cluster.slurm_conf], user=user).returncode:
            raise LabError(f"{user} cannot enter {root}: choose a root below open folders")
        for daemon in daemons(cluster):
            _START.get(daemon.program, _start)(cluster, daemon)
        _wait(cluster, "a node", lambda: _all_nodes_take_jobs(cluster), "slurmd.node1.log")
    must(["sinfo"], user=user, env=cluster.env, timeout=30)
    return cluster


def down(root: Path, *, wipe: bool = False) -> None:
    """Stop the daemons of the cluster below ``root``; ``wipe`` cancels its jobs and removes it.

    Signals no process but those named by the cluster's own pid files. Nothing there: nothing done.
    """
    cluster = layout.recorded(root)
    if cluster is None:
        return
    require_root()
    everything = daemons(cluster)
    if wipe and any(each.program == "slurmctld" and each.is_alive() for each in everything):
        try:
            _cancel_jobs(cluster)
        except LabError as error:  # a hanging slurmctld must not keep the lab up
            print(f"lab: jobs not cancelled: {error}", file=sys.stderr)
    for daemon in reversed(everything):
        daemon.stop(seconds=STOP_SECONDS)
    if not wipe:
        return
    for pid, program in marked_processes(f"{cluster.root}/"):
        if program == "slurmstepd":  # has no pid file: reported, not touched
            print(f"lab: {program} {pid} of {cluster.root} still runs", file=sys.stderr)
    layout.wipe(cluster)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two labs that start together must not choose the same ports."""
    with Path("/run/lock/ca-hpc-lab").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start_munge(cluster: Cluster, munged: Daemon) -> None:
    munged.start()
    token = ["munge", "--no-input", f"--socket={cluster.munge_socket}"]
    _wait(cluster, "munge", lambda: run(token).returncode == 0, "munge/munged.log")


def _start_database(cluster: Cluster, mariadbd: Daemon) -> None:
    if not (cluster.state / "mysql/mysql").exists():
        make = ["mariadb-install-db", "--no-defaults", "--user=mysql", "--skip-test-db"]
        make += ["--auth-root-authentication-method=normal"]
        must([*make, f"--datadir={cluster.state}/mysql"])
    mariadbd.start()
    client = ["--no-defaults", "--user=root", f"--socket={cluster.mysql_socket}"]
    ping = ["mariadb-admin", *client, "ping"]
    _wait(cluster, "MariaDB", lambda: run(ping).returncode == 0, "mysql/mysqld.err")
    must(["mariadb", *client, "--execute", ACCOUNTING_SQL])


def _start_accounting(cluster: Cluster, slurmdbd: Daemon) -> None:
    slurmdbd.start()
    listing = ("sacctmgr", "--noheader", "list", "cluster", "format=cluster")
    _wait(cluster, "slurmdbd", lambda: _ok(cluster, *listing), "slurm/slurmdbd.log")
    if "calab" not in must(listing, env=cluster.env):
        must(["sacctmgr", "--immediate", "add", "cluster", "calab"], env=cluster.env)


def _start_controller(cluster: Cluster, slurmctld: Daemon) -> None:
    slurmctld.start()
    _wait(cluster, "slurmctld", lambda: _ok(cluster, "scontrol", "ping"), "slurm/slurmctld.log")


def _start(cluster: Cluster, daemon: Daemon) -> None:
    daemon.start()


_START: Final[Mapping[str, Callable[[Cluster, Daemon], None]]] = {
    "munged": _start_munge,
    "mariadbd": _start_database,
    "slurmdbd": _start_accounting,
    "slurmctld": _start_controller,
}


def _all_nodes_take_jobs(cluster: Cluster) -> bool:
    states = run(["sinfo", "-h", "-N", "-p", "long", "-o", "%N %t"], env=cluster.env, timeout=10)
    state_of = dict(line.split() for line in states.stdout.splitlines())
    for node in (node for node, state in state_of.items() if state.startswith(("down", "drain"))):
        # left so by a lab that was stopped in the middle of a job
        run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], env=cluster.env, timeout=10)
    ready = [node for node, state in state_of.items() if state in ("idle", "mix", "alloc")]
    return len(ready) == cluster.nodes


def _cancel_jobs(cluster: Cluster) -> None:
    """Steps outlive their slurmd by design: without this they would run on as orphans."""
    jobs = must(["squeue", "--noheader", "--format=%A"], env=cluster.env, timeout=20).split()
    if not jobs:
        return
    must(["scancel", *sorted(set(jobs))], env=cluster.env, timeout=20)
    busy = ["squeue", "--noheader", "--states=running,completing"]

    def all_ended() -> bool:
        done = run(busy, env=cluster.env, timeout=10)
        return done.returncode == 0 and not done.stdout.strip()

    _wait(cluster, "the end of all jobs", all_ended, "slurm/slurmctld.log")


def _ok(cluster: Cluster, *argv: str) -> bool:
    return run(argv, env=cluster.env, timeout=10).returncode == 0


def _wait(cluster: Cluster, what: str, probe: Callable[[], bool], log: str) -> None:
    wait_until(what, probe, seconds=60, look_at=cluster.log / log)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.lab.slurm", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "down"):
        command = verbs.add_parser(verb)
        command.add_argument("--root", type=Path, required=True, help="folder of this cluster")
        if verb == "up":
            command.add_argument("--user", default=DEFAULT_USER, help="ordinary user to make")
            command.add_argument("--nodes", type=int, default=4)
            command.add_argument("--port-base", type=int, help="first port (default: a free one)")
            command.add_argument("--no-accounting", action="store_true", help="without slurmdbd")
            command.add_argument("--no-preempt-signal", action="store_true")
            command.add_argument("--cgroup", action="store_true", help="track jobs by cgroups")
        else:
            command.add_argument("--wipe", action="store_true", help="cancel jobs, remove all")
    given = parser.parse_args()
    began = time.monotonic()
    try:
        if given.verb == "up":
            traits = Traits(
                accounting=not given.no_accounting,
                preempt_signal=not given.no_preempt_signal,
                tracking="cgroup" if given.cgroup else "linuxproc",
            )
            cluster = up(
                given.root,
                user=given.user,
                nodes=given.nodes,
                port_base=given.port_base,
                traits=traits,
            )
            print(f"lab: {cluster.nodes} nodes idle; now: . {cluster.root}/env.sh")
        else:
            down(given.root, wipe=given.wipe)
    except (LabError, ValueError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    print(f"lab: {given.verb} took {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
