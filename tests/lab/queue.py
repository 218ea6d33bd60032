"""What the scheduler knows of a job, asked as root; and a more important job that pushes it out."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from tests.lab.cluster import Cluster
from tests.lab.machine import LabError, must, run

OVER = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE")
)


@dataclass(frozen=True)
class Job:
    """A job, or one element of an array, at one moment. ``number``: SLURM's own, without ``_``."""

    number: str
    state: str
    node: str
    restarts: int
    reason: str


def job(cluster: Cluster, job_id: str) -> Job | None:
    """The job ``101`` or the element ``101_2`` as slurmctld knows it; None if it does not."""
    done = run(["scontrol", "--oneliner", "show", "job", job_id], env=cluster.env, timeout=30)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return None
    fields = dict(re.findall(r"(\S+?)=(\S*)", lines[0]))
    return Job(
        number=fields["JobId"],
        state=fields["JobState"],
        node=fields.get("NodeList", "").replace("(null)", ""),
        restarts=int(fields.get("Restarts", 0)),
        reason=fields.get("Reason", ""),
    )


def wait_for(cluster: Cluster, job_id: str, states: Collection[str], *, seconds: float) -> Job:
    """The job once it is in one of ``states``; ``LabError`` if that takes too long."""
    end = time.monotonic() + seconds
    while True:
        now = job(cluster, job_id)
        if now is not None and now.state in states:
            return now
        if time.monotonic() > end:
            raise LabError(f"job {job_id} is {now}, not {sorted(states)}, after {seconds:.0f} s")
        time.sleep(0.2)


def preempt(cluster: Cluster, node: str, *, seconds: int = 1) -> str:
    """Put a job of the partition ``high`` on ``node``, whose GPU it wants; its id."""
    want = ["--partition=high", f"--nodelist={node}", "--gres=gpu:1", "--mem=50", "--time=1"]
    rest = ["--output=/dev/null", "--chdir=/", "--job-name=important", f"--wrap=sleep {seconds}"]
    return must(["sbatch", "--parsable", *want, *rest], env=cluster.env, timeout=30).strip()


def queued(cluster: Cluster, *, name: str) -> list[str]:
    """``id state`` of the jobs that wait or run and whose name begins with ``name``."""
    rows = must(["squeue", "-h", "-r", "-o", "%i %T %j"], env=cluster.env, timeout=30).splitlines()
    return [row.rpartition(" ")[0] for row in rows if row.split(" ", 2)[2].startswith(name)]
