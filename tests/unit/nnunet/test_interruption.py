"""A signal becomes a flag, in the process that asked for it and nowhere else."""

from __future__ import annotations

import os
import signal

import pytest

from ca_hpc.nnunet.interruption import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_asks_to_stop_and_may_come_twice(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert stop.asked
    assert signal.getsignal(number) == before


def test_a_signal_to_a_forked_worker_neither_ends_it_nor_asks_to_stop() -> None:
    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(3 if stop.asked else 0)
        assert os.waitpid(child, 0)[1] == 0
        assert not stop.asked
