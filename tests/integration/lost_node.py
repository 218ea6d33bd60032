"""A node that is lost to SLURM while its processes live on, and comes back when all is over."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration.interruptions import Victim
from tests.integration.jobs import until, why
from tests.integration.watched import Scene
from tests.lab import controls, leftovers, queue

# SlurmdTimeout, the wait before a job may start again, and the start in the image
ELSEWHERE_S = 180.0


def lost_node(scene: Scene, *, last: signal.Signals | None = None) -> None:
    """The task runs again elsewhere, once; its old copy ends late, and changes nothing.

    ``last``: a signal that the old copy's batch process gets when it lives on; it must not have
    the job queued again.
    """
    site, cluster = scene.site, scene.cluster
    spec = scene.job("lost", folds=1)
    run = site.submit(site.write("lost", spec))
    victim = Victim(scene, run, "train-finetune-fold0")
    until(lambda: any(len(one.iterations) >= 3 for one in victim.attempts()), seconds=240)
    job = victim.job()
    slurmd = controls.node_daemon(cluster, job.node)
    slurmd.kill()
    old = [pid for pid, _ in leftovers.processes_naming(str(run), uid=site.user.uid)]
    assert len(old) > 1
    try:
        for pid in old:
            os.kill(pid, signal.SIGSTOP)
        with watched(victim) as seen:
            until(lambda: len(victim.attempts()) == 2, seconds=ELSEWHERE_S)
            assert victim.job().node not in ("", job.node)
            status = site.follow(run)
        assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
        assert seen <= {"PENDING", "RUNNING", "UNKNOWN", "COMPLETED"}, seen
        first, second = sorted((run / "tasks" / victim.task / "attempts").iterdir())
        assert not (first / "result.json").exists() and (second / "result.json").exists()

        before = digests(run, but=first)
        done = len(victim.attempts()[0].iterations)
        for pid in old:
            os.kill(pid, signal.SIGCONT)
        if last is not None:
            os.kill(batch_process(old), last)
        until(lambda: not alive(old), seconds=180)
        assert len(victim.attempts()[0].iterations) > done, "the old copy did not live on"
        assert digests(run, but=first) == before
    finally:
        for pid in alive(old):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        slurmd.start()
    until(lambda: controls.node_state(cluster, job.node) == "idle", seconds=60)
    assert not queue.queued(cluster, name=run.name)
    assert victim.status()["state"] == "COMPLETED"
    assert len(victim.attempts()) == 2
    assert digests(run, but=first) == before


@contextmanager
def watched(victim: Victim) -> Iterator[set[str]]:
    """The states that ``status`` shows meanwhile; COMPLETED before there is a result fails."""
    seen: set[str] = set()
    results = victim.run / "tasks" / victim.task / "attempts"
    over = threading.Event()

    def look() -> None:
        while not over.wait(2):
            state = victim.status()["state"]
            seen.add(state if state != "COMPLETED" or any(results.glob("*/result.json")) else "!")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def digests(run: Path, *, but: Path) -> Mapping[str, str]:
    """Of every file of the run that is not ``but``'s or a log of SLURM's own."""
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run.rglob("*"))
        if file.is_file() and but not in file.parents and "submitit" not in file.parts
    }


def alive(pids: list[int]) -> list[int]:
    """Those that have not ended, nor wait as zombies to be noticed."""
    states = {}
    for pid in pids:
        with suppress(OSError):
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return [pid for pid, state in states.items() if state != "Z"]


def batch_process(pids: list[int]) -> int:
    """The one whose parent is slurmstepd."""

    def parent(pid: int) -> Path:
        return Path("/proc") / Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]

    (found,) = (pid for pid in pids if "slurmstepd" in (parent(pid) / "comm").read_text())
    return found
