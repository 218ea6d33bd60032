"""Jobs of the integration tests: written, submitted and followed as the ordinary user."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.lab.machine import as_user, environment_of, run

TRAINING_TIMEOUT_S = 1500

# Small patches, coarse spacing, few iterations: real training that two cores do in seconds.
QUICK: Mapping[str, Any] = {
    "plans": {
        "spacing": {"RL": 2, "AP": 2, "SI": 5},
        "patch_size": {"RL": 32, "AP": 32, "SI": 32},
        "gpu_memory": "1GB",
    },
    "training": {
        "epochs": 1,
        "iterations_per_epoch": 2,
        "validation_iterations_per_epoch": 1,
        "workers": 0,
    },
    "validation": {"tile_step": 1.0, "mirroring": False},
}

# Of a stage's or a profile's: its jobs wait until they are released.
HELD: Mapping[str, Any] = {"sbatch": {"hold": True}}


@dataclass(frozen=True)
class HpcUser:
    """The ordinary user that jobs belong to."""

    name: str
    uid: int

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` as this user with a login environment plus ``env``; no shell. Seconds."""
        return run(argv, user=self.name, env=env, cwd=cwd, timeout=timeout)


@dataclass(frozen=True)
class Site:
    """The command line of the host, as the ordinary user, on the throw-away cluster."""

    user: HpcUser
    python: Path
    environment: Mapping[str, str]
    folder: Path

    def ca_hpc(self, *arguments: str, timeout: float = 120) -> Any:
        """``ca-hpc ARGUMENTS``: the finished process."""
        argv = (str(self.python), "-I", "-m", "ca_hpc", *arguments)
        return self.user.run(argv, env=self.environment, cwd=self.folder, timeout=timeout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """``ca-hpc ARGUMENTS``: the process, which has begun."""
        return subprocess.Popen(
            as_user(self.user.name, (self.python, "-I", "-m", "ca_hpc", *arguments)),
            env={**environment_of(self.user.name), **self.environment},
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def own(self, *paths: Path) -> None:
        """Let them belong to the user."""
        for path in paths:
            shutil.chown(path, self.user.name)

    def write(self, name: str, spec: Mapping[str, Any]) -> Path:
        """A job file that the user can read."""
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(dict(spec), sort_keys=False))
        file.chmod(0o644)
        return file

    def submit(self, job: Path, *options: str) -> Path:
        """Submit, and return the run folder."""
        done = self.ca_hpc("submit", str(job), "--json", *options)
        assert done.returncode == 0, done.stderr
        return Path(json.loads(done.stdout)["run"])

    def status(self, run: Path) -> dict[str, Any]:
        """The run's status of now by ``--json``."""
        done = self.ca_hpc("status", "--json", str(run))
        assert done.stdout, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def task(self, run: Path, name: str) -> dict[str, Any]:
        """One of its tasks."""
        (found,) = (task for task in self.status(run)["tasks"] if task["task"] == name)
        return found  # type: ignore[no-any-return]

    def release(self, *jobs: str) -> None:
        """Let start what was submitted with ``HELD``."""
        done = self.user.run(("scontrol", "release", *jobs), env=self.environment)
        assert done.returncode == 0, done.stderr

    def follow(self, run: Path, *, seconds: float = TRAINING_TIMEOUT_S) -> dict[str, Any]:
        """Stay until the run has ended; its status by ``--json``."""
        done = self.ca_hpc("status", "--watch", "--json", str(run), timeout=seconds)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]


def until(true: Callable[[], bool], *, seconds: float) -> None:
    """Look again and again; AssertionError with the place of ``true`` if it takes longer."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {true}"
        time.sleep(0.3)


def why(run: Path, status: Mapping[str, Any]) -> str:
    """What went wrong, for an assertion's message: causes and the ends of the logs."""
    out = []
    for task in status["tasks"]:
        if task["state"] != "COMPLETED":
            out.append(f"{task['task']}: {task['state']}: {task['cause']}")
            for log in sorted((run / "tasks" / task["task"]).glob("attempts/*/log.txt")):
                out.append(log.read_text(errors="replace")[-1500:])
    return "\n".join(out)
