"""slurmctld frozen or killed, and ``submit`` killed, at every stage: one array each, always.

The jobs are held, so that nothing of them runs. A wrapper around sbatch, first on PATH, stops the
submission at a chosen stage until the scenario lets it go on.
"""

from __future__ import annotations

import json
import random
import shutil
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.shipped import shipped
from tests.integration.jobs import HELD, HpcUser, Site, until
from tests.lab import controls
from tests.lab.cluster import Cluster
from tests.lab.machine import LOGIN_PATH, must

STAGES: Final = ("prepare", "preprocess", "train", "evaluate", "report")
DISTURBED: Final[Mapping[str, Callable[[Cluster], AbstractContextManager[None]]]] = {
    "frozen": controls.frozen,
    "dead": controls.dead,
}
# With this squeue knows no job, unless it is kept from it
IN_THE_SHELL: Final = {"SQUEUE_PARTITION": "nowhere"}
# sbatch gives up after 10 s (MessageTimeout); a credential of munge lasts 300 s
LONGEST_S = 25.0
KILLS: Final = Path(__file__).parents[1] / "kills.py"
DRIVER: Final = Path(__file__).with_name("submit_in_process.py")
STOPPING: Final = ("STOP_AT", "THEN")
WRAPPER = """#!/bin/sh
# stops at submission number $STOP_AT; with $THEN=kill it kills who called it once sbatch is done
if [ "$1" = --version ]; then exec {sbatch} --version; fi
echo x >> {folder}/calls
n=$(wc -l < {folder}/calls)
if [ "$n" != "$STOP_AT" ]; then exec {sbatch} "$@"; fi
if [ "$THEN" = kill ]; then
    {sbatch} "$@"
    status=$?
    kill -9 $PPID
    exit $status
fi
touch {folder}/reached
while [ ! -e {folder}/go ]; do sleep 0.05; done
exec {sbatch} "$@"
"""


@dataclass(frozen=True)
class Desk:
    """Where the ordinary user submits: a job of held jobs, and the wrapper."""

    cluster: Cluster
    user: HpcUser
    python: Path
    folder: Path
    job: Path

    @classmethod
    def new(
        cls, folder: Path, *, cluster: Cluster, user: HpcUser, python: Path, checkpoint: Path
    ) -> Desk:
        """Data, weights, a profile whose jobs are held, and a job."""
        write_dataset(folder / "data", people=4, seed=3, contrasts=("T2starw",))
        shutil.copy(checkpoint, folder / "weights.pth")
        profile = yaml.safe_load(shipped("configs", "clusters", "lab.yaml").read_text())
        # sbatch gets no other variables of the shell, and is the wrapper
        profile |= HELD | {"environment": ["HOME", "PATH", *STOPPING]}
        (folder / "held.yaml").write_text(yaml.safe_dump(profile))
        job = folder / "job.yaml"
        spec = {
            "kind": "finetune",
            "name": f"once{time.time_ns()}",  # squeue goes on showing jobs of earlier tests
            "cluster": "./held.yaml",
            "runtime": "none",
            "data": [{"type": "bids", "path": "data", "label_suffix": "_label-SC_seg"}],
            "splits": {"folds": 2},
            "weights": "weights.pth",
            "model": "demo",
        }
        job.write_text(yaml.safe_dump(spec, sort_keys=False))
        wrapper = folder / "bin/sbatch"
        wrapper.parent.mkdir()
        sbatch = shutil.which("sbatch", path=LOGIN_PATH)
        wrapper.write_text(WRAPPER.format(folder=folder, sbatch=sbatch))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        for file in (KILLS, DRIVER):
            shutil.copy(file, folder)
        must(["chown", "-R", user.name, folder])
        return cls(cluster, user, python, folder, job)

    @property
    def runs(self) -> list[RunFolder]:
        return [RunFolder(path) for path in sorted((self.folder / "ca-hpc-runs").glob("once*-*"))]

    def environment(self, *, stop_at: int | None = None, then: str = "wait") -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{LOGIN_PATH}"
        chosen = dict(zip(STOPPING, (str(stop_at or 0), then), strict=True))
        return {**self.cluster.env, "PATH": path, **chosen, **IN_THE_SHELL}

    def start(self, *, stop_at: int) -> subprocess.Popen[str]:
        """``ca-hpc submit``, as the user; it stands still right before its sbatch ``stop_at``."""
        for name in ("calls", "reached", "go"):
            (self.folder / name).unlink(missing_ok=True)
        site = Site(self.user, self.python, self.environment(stop_at=stop_at), self.folder)
        return site.start("submit", str(self.job), "--json")

    def submit(self) -> subprocess.CompletedProcess[str]:
        """The next call, undisturbed."""
        environment = {**self.cluster.env, "PATH": LOGIN_PATH, **IN_THE_SHELL}
        site = Site(self.user, self.python, environment, self.folder)
        done: subprocess.CompletedProcess[str] = site.ca_hpc(
            "submit", str(self.job), "--json", timeout=300
        )
        return done

    def assert_one_array_each(self) -> RunFolder:
        """One run; one array of each stage in the queue; the records and the pickles fit them."""
        (run,) = self.runs
        # by its token: a controller that is killed has forgotten cancellations of earlier runs too
        mark = f".{run.pins.token}."
        argv = ["squeue", "-h", "-t", "all", "-o", "%F %j"]
        rows = [line.split() for line in must(argv, env=self.cluster.env).splitlines()]
        queued = {(job, name) for job, name in rows if mark in name}
        stages = Counter(named.split(".")[1] for _, named in queued)
        assert stages == Counter(STAGES), queued
        records = run.submissions()
        assert {(s.jobs[0][1].split("_")[0], s.job_name) for s in records} == queued
        for record in records:
            folder = run.submission_folder(record.number)
            assert len(record.jobs) == len(list(folder.glob("*.pkl"))) > 0
            for _, job in record.jobs:
                shown = must(["scontrol", "show", "job", job], env=self.cluster.env)
                assert all(f"afterok:{i}" in shown or f"afterany:{i}" in shown
                           for i in record.after), shown  # fmt: skip
        return run

    def clear(self) -> None:
        """Nothing of the user's in the queue, no runs, for the next scenario."""
        must(["scancel", "--user", self.user.name], env=self.cluster.env)
        argv = ["squeue", "-h", "-o", "%i", "--user", self.user.name]
        until(lambda: not must(argv, env=self.cluster.env).strip(), seconds=30)
        for run in self.runs:
            run.path.rename(self.folder / f"done-{time.time_ns()}")


def disturbed(desk: Desk, chance: random.Random, *, how: str, killed: bool) -> str:
    """The controller away while one stage is submitted; with ``killed`` the command dies too.

    Returns what was done, in words.
    """
    stage = chance.randrange(len(STAGES))
    lead, away = chance.uniform(0.0, 1.0), chance.uniform(0.5, LONGEST_S)
    submitting = desk.start(stop_at=stage + 1)
    until(lambda: (desk.folder / "reached").exists() or submitting.poll() is not None, seconds=60)
    assert submitting.poll() is None, submitting.communicate()
    with DISTURBED[how](desk.cluster):
        (desk.folder / "go").touch()
        time.sleep(lead if killed else away)
        if killed:
            submitting.kill()
            time.sleep(away)
    out, err = submitting.communicate(timeout=300)
    told = f"{how} at {STAGES[stage]} for {away:.1f} s, killed {killed}: {submitting.returncode}"
    if submitting.returncode != 0:
        assert killed, err
        done = desk.submit()
        assert done.returncode == 0, f"{told}\n{done.stderr}"
    run = desk.assert_one_array_each()
    last = json.loads(out) if out else {"run": str(run.path)}
    assert last["run"] == str(run.path), told
    desk.clear()
    return told


def killed_at_every_point(desk: Desk) -> list[str]:
    """``submit`` killed before each change to the file system and each program, and after sbatch.

    Each is followed by the next call, which must end with one array each. Returns the points.
    """
    points: list[str] = []
    for change in range(10_000):
        point = in_process(desk, "before", change)
        desk.assert_one_array_each()
        desk.clear()
        if point is None:
            break
        points.append(point)
    for stage in range(len(STAGES)):
        (desk.folder / "calls").unlink(missing_ok=True)
        assert in_process(desk, "after", stage + 1) == "killed"
        desk.assert_one_array_each()
        desk.clear()
    return points


def in_process(desk: Desk, when: str, number: int) -> str | None:
    """See ``submit_in_process.py``: a submission that is killed, and the next one."""
    stop_at = number if when == "after" else None
    done = desk.user.run(
        (desk.python, desk.folder / DRIVER.name, desk.job, when, str(number)),
        env=desk.environment(stop_at=stop_at, then="kill"),
        cwd=desk.folder,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told["point"]  # type: ignore[no-any-return]
