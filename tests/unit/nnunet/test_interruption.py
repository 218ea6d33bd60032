"""A signal becomes a flag, in the process that asked for it and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ca_hpc
from ca_hpc.nnunet.interruption import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_asks_to_stop_and_may_come_twice(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert stop.asked
    assert signal.getsignal(number) != before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_without_a_signal_the_former_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest():
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before


# Ends as a step does that has saved, its interpreter taking its time; asked on and on until then.
STEP = """
import atexit, os, signal, sys, time
from ca_hpc.nnunet.interruption import StopRequest

with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked

class Last:
    def __del__(self):
        print("ending", flush=True)
        time.sleep(0.5)

def ask():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR2)

ask()
atexit.register(ask)
last = Last()
sys.exit(85)
"""


def test_what_was_asked_to_stop_ends_with_its_own_status_however_often_it_is_asked() -> None:
    argv = (sys.executable, "-c", STEP)
    step = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(ca_hpc.__file__).parents[1])
    assert step.stdout is not None
    with step.stdout as output:
        assert output.readline() == b"ending\n"
    for number in (signal.SIGTERM, signal.SIGUSR2):
        step.send_signal(number)
    assert step.wait(timeout=30) == 85


def test_a_signal_to_a_forked_worker_neither_ends_it_nor_asks_to_stop() -> None:
    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(3 if stop.asked else 0)
        assert os.waitpid(child, 0)[1] == 0
        assert not stop.asked
