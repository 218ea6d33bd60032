"""The guard without an image: what it starts here is an ordinary program (way "apptainer").

With an image and Apptainer: tests/integration/test_guard.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ca_hpc.guard.ways import Payload
from ca_hpc.store.sif import Partition
from tests.sif import write_sif
from tests.waiting import WAIT_S, lives, until

# Says that it is ready; when asked to end it takes its time, leaves a file and exits with 85.
SAVING = """\
import os, pathlib, signal, sys, time
def save(number, frame):
    time.sleep(0.3)
    pathlib.Path(sys.argv[2], "saved").touch()
    os._exit(85)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[2], "ready").write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.fixture
def sif(tmp_path: Path) -> Path:
    return write_sif(tmp_path / "image.sif")


def guard_argv(sif: Path, *program: str, way: str = "apptainer") -> tuple[str, ...]:
    work = sif.parent
    return (
        *(sys.executable, "-m", "ca_hpc.guard", "--image", str(sif), "--way", way),
        *("--mount-point", str(work / "mount"), "--record", str(work / "way"), "--", *program),
    )


def run_guard(sif: Path, *program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(guard_argv(sif, *program), capture_output=True, text=True, timeout=WAIT_S)


def start_saving(sif: Path) -> subprocess.Popen[bytes]:
    program = (sys.executable, "-c", SAVING, str(sif), str(sif.parent))
    guard = subprocess.Popen(guard_argv(sif, *program))
    until((sif.parent / "ready").exists, what="the payload did not start")
    until(lambda: (sif.parent / "ready").read_text() != "", what="the payload did not start")
    return guard


def child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


@pytest.mark.parametrize("status", [0, 1, 85, 255])
def test_the_status_of_the_command_is_the_guards(sif: Path, status: int) -> None:
    assert run_guard(sif, "sh", "-c", f"exit {status}", str(sif)).returncode == status
    assert (sif.parent / "way").read_text() == "apptainer\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGTERM])
def test_a_command_that_a_signal_ended_shows_as_128_and_the_signal(
    sif: Path, number: signal.Signals
) -> None:
    done = run_guard(sif, "sh", "-c", f"kill -{int(number)} $$", str(sif))
    assert done.returncode == 128 + number


def test_the_command_gets_the_guards_environment_and_no_signal_mask(sif: Path) -> None:
    code = "import os, signal; print(dict(os.environ), signal.pthread_sigmask(0, ()))"
    # LC_CTYPE: Python sets it where it is missing (PEP 538)
    environment = {"PATH": os.environ["PATH"], "LC_CTYPE": "C.UTF-8", "A": "1 2"}
    plain, guarded = (
        subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
        for argv in (
            (sys.executable, "-c", code, str(sif)),
            guard_argv(sif, sys.executable, "-c", code, str(sif)),
        )
    )
    assert guarded == plain


def test_a_request_to_end_reaches_the_command_and_the_guard_waits(sif: Path) -> None:
    guard = start_saving(sif)
    guard.send_signal(signal.SIGTERM)
    guard.send_signal(signal.SIGTERM)
    assert guard.wait(WAIT_S) == 85
    assert (sif.parent / "saved").exists()


def test_a_request_that_a_command_loses_while_it_starts_is_repeated(sif: Path) -> None:
    # as a container's first process does before it has handlers
    ready = sif.parent / "ready"
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(0.5)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))\n"
        "time.sleep(600)"
    )
    guard = subprocess.Popen(guard_argv(sif, sys.executable, "-c", code, str(sif)))
    until(ready.exists, what="the payload did not start")
    guard.terminate()
    assert guard.wait(WAIT_S) == 85


def test_signals_that_are_not_for_it_do_not_end_the_guard(sif: Path) -> None:
    guard = start_saving(sif)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        guard.send_signal(number)
    time.sleep(0.2)
    assert guard.poll() is None
    guard.terminate()
    assert guard.wait(WAIT_S) == 85


@pytest.mark.parametrize("victim", ["guard", "keeper"])
def test_when_half_of_the_guard_is_killed_the_command_saves_and_ends(
    sif: Path, victim: str
) -> None:
    guard = start_saving(sif)
    payload = int((sif.parent / "ready").read_text())
    os.kill({"guard": guard.pid, "keeper": child_of(guard.pid)}[victim], signal.SIGKILL)
    assert guard.wait(WAIT_S) == {"guard": -9, "keeper": 137}[victim]
    until(lambda: not lives(payload), what="the payload lives on")
    assert (sif.parent / "saved").exists()


def test_when_the_worker_is_killed_the_command_saves_and_ends(sif: Path) -> None:
    argv = guard_argv(sif, sys.executable, "-c", SAVING, str(sif), str(sif.parent))
    code = f"import time; from ca_hpc import processes; processes.start({argv}); time.sleep(600)"
    worker = subprocess.Popen((sys.executable, "-c", code))
    ready = sif.parent / "ready"
    until(lambda: ready.exists() and ready.read_text() != "", what="the payload did not start")
    guard = child_of(worker.pid)
    worker.kill()
    worker.wait()
    until(lambda: not lives(guard), what="the guard lives on")
    assert (sif.parent / "saved").exists()
    assert not lives(int(ready.read_text()))


def test_a_program_that_is_missing_is_named_without_a_traceback(sif: Path) -> None:
    done = run_guard(sif, "no-such-apptainer", "exec", str(sif))
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: no-such-apptainer is not on this node"]


def test_an_image_that_is_cut_off_is_refused(sif: Path) -> None:
    with sif.open("r+b") as stream:
        stream.truncate(sif.stat().st_size - 1)
    done = run_guard(sif, "true", str(sif))
    assert done.returncode == 2
    assert "image.sif is cut off" in done.stderr


def test_only_the_image_gives_way_to_the_mount_point() -> None:
    payload = Payload(
        ("apptainer", "exec", "--home", "/w/home", "/i.sif", "cat", "/i.sif"),
        "/i.sif",
        Partition(0, 1, squashfs=True),
        Path("/w/image"),
    )
    assert payload.argv_for("--userns") == (
        *("apptainer", "exec", "--home", "/w/home"),
        *("--userns", "/w/image", "cat", "/i.sif"),
    )
