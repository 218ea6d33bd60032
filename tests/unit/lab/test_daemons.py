"""Against real processes: the promise that a lab signals nothing but its own daemons."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.daemons import Daemon
from tests.lab.process import program_of


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "SLURM_CONF": f"{tmp_path}/lab/etc/slurm.conf"}
    with subprocess.Popen(["sleep", "60"], env=environment) as process:
        # Popen returns once exec has begun; the kernel renames the process a moment later
        while program_of(process.pid) != "sleep":
            time.sleep(0.001)
        yield process
        process.kill()


def daemon(tmp_path: Path, *, pid: int, program: str = "sleep", lab: str = "lab") -> Daemon:
    pid_file = tmp_path / "daemon.pid"
    pid_file.write_text(f"{pid}\n")
    return Daemon(program, ("true",), pid_file, mark=f"{tmp_path}/{lab}/")


def test_a_daemon_of_the_lab_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    ours = daemon(tmp_path, pid=sleeper.pid)
    assert ours.is_alive()
    ours.stop(seconds=5)
    assert sleeper.wait(timeout=5) != 0
    assert not ours.pid_file.exists()


@pytest.mark.parametrize("other", [{"program": "slurmctld"}, {"lab": "la"}, {"lab": "lab2"}])
def test_a_stale_pid_file_hits_no_other_process(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], other: dict[str, str]
) -> None:
    stale = daemon(tmp_path, pid=sleeper.pid, **other)
    assert not stale.is_alive()
    stale.stop(seconds=5)
    assert sleeper.poll() is None
    assert not stale.pid_file.exists()


def test_a_pid_file_of_a_process_that_is_gone_is_cleared_away(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = daemon(tmp_path, pid=gone.pid, program="true")
    stale.stop(seconds=5)
    assert not stale.pid_file.exists()
