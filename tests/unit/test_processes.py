"""How programs are started: their signals, and what they are told when we are gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from ca_hpc import processes

WAIT_S = 20.0
# The signals that a process holds back and those that it ignores, as the kernel has them.
SIGNALS = "grep -E '^Sig(Blk|Ign)' /proc/self/status"


def signals_of(log: Path) -> dict[str, int]:
    rows = (line.split() for line in log.read_text().splitlines())
    return {name.rstrip(":"): int(bits, 16) for name, bits in rows}


def bit(number: signal.Signals) -> int:
    return 1 << (number - 1)


def test_what_a_program_is_to_ignore_is_ignored_when_it_starts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = ("sh", "-c", SIGNALS)
    assert processes.start(argv, log=log, ignoring=(signal.SIGUSR2, signal.SIGTERM)).wait() == 0
    ignored = signals_of(log)["SigIgn"]
    assert ignored & bit(signal.SIGUSR2)
    assert ignored & bit(signal.SIGTERM)
    assert not ignored & bit(signal.SIGUSR1)


def test_signals_that_we_hold_back_come_through_to_a_program(tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2,))
    try:
        assert processes.start(("sh", "-c", SIGNALS), log=log).wait() == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert signals_of(log)["SigBlk"] == 0


def test_a_program_ends_with_the_process_that_started_it() -> None:
    code = (
        "import signal, sys, time\nfrom ca_hpc import processes\n"
        "child = processes.start(('sleep', '600'), end_with_us=signal.SIGKILL)\n"
        "print(child.pid, flush=True)\ntime.sleep(600)"
    )
    parent = subprocess.Popen((sys.executable, "-c", code), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    end = time.monotonic() + WAIT_S
    while Path(f"/proc/{child}").exists():
        state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        assert time.monotonic() < end, "the child lives on"
        time.sleep(0.02)


def test_a_copy_exits_with_what_its_body_returns() -> None:
    code = (
        "import os\nfrom ca_hpc import processes\n"
        "pid = processes.fork(lambda: 7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"


def test_a_copy_that_fails_does_not_go_on_as_its_parent() -> None:
    code = (
        "import os\nfrom ca_hpc import processes\n"
        "try:\n    pid = processes.fork(lambda: 1 // 0)\n"
        "finally:\n    print('here')\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout == "here\n1\n"
    assert "ZeroDivisionError" in done.stderr


def test_who_asks_too_late_for_the_end_of_his_parent_is_told_at_once() -> None:
    code = (
        "import os, signal\nfrom ca_hpc import processes\n"
        "processes.end_with_parent(signal.SIGTERM, parent=os.getppid() + 1)"
    )
    done = subprocess.run((sys.executable, "-c", code), check=False)
    assert done.returncode == -signal.SIGTERM
