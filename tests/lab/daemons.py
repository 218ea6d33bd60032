"""The daemons of a lab. A daemon is known by its pid file; no other process is ever signalled."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab.cluster import Cluster
from tests.lab.machine import LabError, must
from tests.lab.process import end, is_marked, program_of


@dataclass(frozen=True)
class Daemon:
    """A program that puts itself into the background and writes its pid to ``pid_file``.

    ``mark`` stands in the command line or environment of the lab's own processes only.
    """

    program: str
    argv: tuple[str, ...]
    pid_file: Path
    mark: str
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None

    def start(self) -> None:
        """Start it unless it runs already; ``LabError`` if it refuses at once."""
        if self.is_alive():
            return
        self.pid_file.unlink(missing_ok=True)
        must(self.argv, user=self.user, env=dict(self.env), timeout=60)

    def is_alive(self) -> bool:
        pid = self._pid()
        return pid is not None and self._is_ours(pid)

    def stop(self, *, seconds: float) -> None:
        """Ask it to end, kill it after ``seconds``. The pid file is gone afterwards."""
        pid = self._pid()
        if pid is not None:
            end(pid, is_ours=self._is_ours, seconds=seconds)
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it as a power cut would. The pid file stays."""
        self.send(signal.SIGKILL)
        while self.is_alive():
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; ``LabError`` if it does not run."""
        pid = self._pid()
        if pid is None or not self._is_ours(pid):
            raise LabError(f"{self.program} of {self.mark} does not run")
        os.kill(pid, number)

    def _pid(self) -> int | None:
        try:
            return int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _is_ours(self, pid: int) -> bool:
        # A pid file can outlive its process, and the number may be another lab's daemon by now.
        return program_of(pid) == self.program and is_marked(pid, self.mark)


def daemons(cluster: Cluster) -> tuple[Daemon, ...]:
    """munged, mariadbd, slurmdbd, slurmctld, then one slurmd per node: the order of starting.

    Without accounting there are no mariadbd and no slurmdbd.
    """
    log, pids, state = cluster.log, cluster.pids, cluster.state

    def daemon(program: str, *options: str, pid_file: Path, user: str | None = None) -> Daemon:
        env = tuple(cluster.env.items())
        mark = f"{cluster.root}/"
        return Daemon(program, (program, *options), pid_file, mark, env=env, user=user)

    munged = daemon(
        "munged",
        "--force",  # a folder below /var/tmp is writable for all, if sticky
        f"--socket={cluster.munge_socket}",
        f"--key-file={state}/munge/munge.key",
        f"--seed-file={state}/munge/munged.seed",
        f"--log-file={log}/munge/munged.log",
        f"--pid-file={pids}/munge/munged.pid",
        "--num-threads=10",
        pid_file=pids / "munge/munged.pid",
        user="munge",
    )
    mariadbd = daemon(
        "mariadbd",
        "--no-defaults",
        "--user=mysql",
        f"--datadir={state}/mysql",
        f"--socket={cluster.mysql_socket}",
        f"--pid-file={pids}/mysql/mysqld.pid",
        f"--log-error={log}/mysql/mysqld.err",
        "--bind-address=127.0.0.1",
        f"--port={cluster.mysql_port}",
        "--skip-name-resolve",
        "--performance-schema=OFF",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-lock-wait-timeout=900",  # slurmdbd refuses to start with less
        "--innodb-flush-log-at-trx-commit=2",
        pid_file=pids / "mysql/mysqld.pid",
    )
    # mariadbd does not go into the background by itself
    mariadbd = replace(mariadbd, argv=("setsid", "--fork", *mariadbd.argv))
    slurmdbd = daemon("slurmdbd", pid_file=pids / "slurm/slurmdbd.pid")
    return (
        munged,
        *((mariadbd, slurmdbd) if cluster.traits.accounting else ()),
        daemon("slurmctld", pid_file=pids / "slurm/slurmctld.pid"),
        *(
            daemon("slurmd", "-N", name, pid_file=pids / f"slurmd.{name}.pid")
            for name in cluster.node_names
        ),
    )
