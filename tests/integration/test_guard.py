"""An ordinary user's task in a real image: what signals do to it, and what is left afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ca_hpc.core.model import Command, Mount, Pin, Runtime
from ca_hpc.runtimes import wrap
from tests.integration.jobs import HpcUser
from tests.lab.machine import LOGIN_PATH

WAIT_S = 20.0
# Like a training: children that heed no signal; when asked, it still reads much of the image
# before it has saved, here for a second.
PAYLOAD = """\
import multiprocessing, os, pathlib, signal, sys, time
out, asked = pathlib.Path(sys.argv[1]), []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: asked.append(number))
def loader():
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)
for _ in range(2):
    multiprocessing.Process(target=loader).start()
(out / "ready").touch()
while not asked:
    time.sleep(0.02)
end, read, status = time.monotonic() + 1, 0, 1
try:
    with next(pathlib.Path("/opt/ca-hpc").rglob("libtorch_cpu.so")).open("rb") as stream:
        while time.monotonic() < end or read < 1 << 24:
            read += len(stream.read(1 << 20))
            time.sleep(0.02)
    (out / "saved").write_text(str(read))
    status = 85
finally:
    os._exit(status)
"""


@dataclass(frozen=True)
class Task:
    """A guard that runs PAYLOAD in a work folder."""

    guard: subprocess.Popen[bytes]
    work: Path

    def part(self, name: str) -> int:
        """The pid of one of its processes."""
        below = tree(self.guard.pid)
        parts = {
            "guard": [self.guard.pid],
            "keeper": [pid for pid in below[1:] if "ca_hpc.guard" in command_line(pid)],
            "server": [pid for pid in below if "squashfuse_ll -f" in command_line(pid)],
            "apptainer": [
                pid for pid in below if command_line(pid).startswith("Apptainer runtime")
            ],
            "container": [pid for pid in below if command_line(pid).startswith("appinit")],
            "payload": [pid for pid in below if "python3 -u -c" in command_line(pid)[:80]],
        }
        return parts[name][0]

    def leaves_nothing(self, processes: Sequence[int]) -> bool:
        """Whether these have ended and nothing is mounted in its work folder."""
        mounted = str(self.work) in Path("/proc/self/mounts").read_text()
        return not mounted and not any(map(lives, processes))

    @property
    def log(self) -> str:
        return (self.work / "log").read_text()

    @property
    def saved(self) -> bool:
        """Whether the payload has saved after it had read what no cache held."""
        file = self.work / "out/saved"
        return file.exists() and int(file.read_text()) > 1 << 20


Start = Callable[..., Task]


@pytest.fixture
def start(hpc_user: HpcUser, host_python: Path, image: Path, work: Path) -> Iterator[Start]:
    """Start a task as the worker would, as the ordinary user; ``way`` restricts the mount."""
    started: list[Task] = []
    for name in ("home", "out"):
        (work / name).mkdir()
        shutil.chown(work / name, hpc_user.name)

    def start(*, way: str | None = None, ready: bool = True) -> Task:
        command = task_command(host_python, image=image, work=work)
        argv = list(command.argv)
        if way is not None:
            argv[argv.index("--image") : argv.index("--image")] = ["--way", way]
        with (work / "log").open("ab") as log:
            guard = subprocess.Popen(
                argv,
                env=dict(command.environment),
                user=hpc_user.uid,
                group=hpc_user.uid,
                extra_groups=(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(task := Task(guard, work))
        if ready:
            until((work / "out/ready").exists, what=f"the payload did not start: {task.log}")
        return task

    yield start
    for task in started:
        for pid in tree(task.guard.pid) if task.guard.poll() is None else ():
            send(pid, signal.SIGKILL)
        task.guard.wait()


def task_command(python: Path, *, image: Path, work: Path) -> Command:
    return wrap(
        Command(("python3", "-u", "-c", PAYLOAD, str(work / "out"))),
        Runtime("apptainer", "python3", Pin(str(image), "")),
        mounts=(Mount(str(work / "out"), writable=True),),
        work_folder=str(work),
        gpu=True,  # there is none: --nv must do no harm
        host_environment={"PATH": LOGIN_PATH, "HOME": str(work / "home")},
        node_python=str(python),
    )


def until(true: Callable[[], bool], *, what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def state(pid: int) -> tuple[str, int] | None:
    """State and parent of a process, as proc(5) has them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def lives(pid: int) -> bool:
    found = state(pid)
    return found is not None and found[0] != "Z"


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def tree(root: int) -> list[int]:
    """A process and all its descendants, whatever their namespaces, sessions and groups."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := state(int(entry.name))) is not None:
            children[found[1]].append(int(entry.name))
    below = [root]
    for pid in below:
        below += children[pid]
    return below


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.mark.parametrize("way", ["namespace", "fusermount"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_the_whole_job_leaves_time_to_save(
    start: Start, way: str, number: signal.Signals
) -> None:
    task = start(way=way)
    processes = tree(task.guard.pid)
    assert len(processes) >= 8, "guard, keeper, server, Apptainer's two, payload and its loaders"
    for pid in processes:
        send(pid, number)
    assert task.guard.wait(WAIT_S) == 85, task.log
    assert task.saved
    until(lambda: task.leaves_nothing(processes), what="something is left")


def test_without_the_guards_mount_such_a_signal_is_the_end(start: Start) -> None:
    # why all of this is there; should it fail one day, the guard is not needed any more
    task = start(way="apptainer")
    for pid in tree(task.guard.pid):
        send(pid, signal.SIGTERM)
    assert task.guard.wait(WAIT_S) in (1, 128 + signal.SIGBUS)
    assert not task.saved


def test_the_first_way_works_here_and_is_written_down(start: Start) -> None:
    task = start()
    assert (task.work / "image-mount.txt").read_text() == "namespace\n"
    assert str(task.work) not in Path("/proc/self/mounts").read_text()
    send(task.guard.pid, signal.SIGTERM)
    assert task.guard.wait(WAIT_S) == 85
    assert task.saved
    assert task.log == ""


@pytest.mark.parametrize(
    ("part", "status", "saves"),
    [
        ("guard", -9, True),
        ("keeper", 137, True),
        ("apptainer", 137, False),
        ("container", 137, False),
        ("payload", 137, False),
    ],
)
def test_whatever_is_killed_the_rest_ends_too(
    start: Start, part: str, status: int, saves: bool
) -> None:
    task = start()
    processes = tree(task.guard.pid)
    send(task.part(part), signal.SIGKILL)
    assert task.guard.wait(WAIT_S) == status
    until(lambda: task.leaves_nothing(processes), what=f"something is left: {task.log}")
    assert task.saved == saves


def test_a_server_that_is_killed_is_named_and_ends_the_task(start: Start) -> None:
    task = start()
    processes = tree(task.guard.pid)
    send(task.part("server"), signal.SIGKILL)
    assert task.guard.wait(WAIT_S) not in (0, None)
    assert "ca-hpc: the image's server was killed by SIGKILL" in task.log
    until(lambda: task.leaves_nothing(processes), what="something is left")


def test_a_job_that_is_killed_as_a_whole_leaves_nothing(start: Start) -> None:
    task = start()
    processes = tree(task.guard.pid)
    for pid in processes:
        send(pid, signal.SIGKILL)
    assert task.guard.wait(WAIT_S) == -9
    until(lambda: task.leaves_nothing(processes), what="something is left")


@pytest.mark.parametrize("delay_s", [0.02, 0.05, 0.08, 0.12])
def test_a_request_while_it_starts_ends_it(start: Start, delay_s: float) -> None:
    task = start(ready=False)
    time.sleep(delay_s)
    processes = tree(task.guard.pid)
    for pid in processes:
        send(pid, signal.SIGTERM)
    # 2: Go as the first process of a container cannot die of a signal; 255: Apptainer's own
    assert task.guard.wait(WAIT_S) in (-15, 143, 85, 2, 255)
    until(lambda: task.leaves_nothing(processes), what="something is left")
