"""Work is begun while it fits in before the job's end, and no job is too short to get on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ca_hpc.nnunet.interruption import StopRequest
from ca_hpc.nnunet.pace import ASSUMED_S, EXIT_S, RECENT, SAFETY, Pace, Work


@dataclass
class HandClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def make_pace(clock: HandClock) -> Callable[..., Pace]:
    def make(ends_at_s: float | None, stop: StopRequest | None = None) -> Pace:
        return Pace(clock=clock, ends_at_s=ends_at_s, stop=stop or StopRequest())

    return make


def do(pace: Pace, clock: HandClock, work: Work, *, seconds: float) -> None:
    with pace.measured(work):
        clock.now += seconds


def test_it_stops_when_an_iteration_and_a_save_no_longer_fit(
    clock: HandClock, make_pace: Callable[..., Pace]
) -> None:
    pace = make_pace(100.0)
    do(pace, clock, "iteration", seconds=10.0)
    do(pace, clock, "checkpoint", seconds=2.0)
    last = 100.0 - EXIT_S - SAFETY * (10.0 + 2.0)
    clock.now = last
    assert pace.reason_to_stop("iteration", "checkpoint") is None
    clock.now = last + 0.1
    assert pace.reason_to_stop("iteration", "checkpoint") == "deadline"
    event = pace.stopping("deadline")
    assert (event["reason"], event["done"]) == ("deadline", 1)
    assert (event["seconds_per_iteration"], event["seconds_per_checkpoint"]) == (10.0, 2.0)
    assert event["seconds_per_case"] is None
    assert event["seconds_left"] == pytest.approx(100.0 - clock.now)


def test_what_was_never_measured_is_assumed(
    clock: HandClock, make_pace: Callable[..., Pace]
) -> None:
    pace = make_pace(100.0)
    do(pace, clock, "iteration", seconds=1.0)
    clock.now = 100.0 - EXIT_S - SAFETY * (1.0 + ASSUMED_S["checkpoint"]) + 0.1
    assert pace.reason_to_stop("iteration", "checkpoint") == "deadline"


@pytest.mark.parametrize("ends_at", [1000.0, 3.0, -50.0])
def test_a_job_however_short_tries_one_unit_of_work(
    clock: HandClock, make_pace: Callable[..., Pace], ends_at: float
) -> None:
    pace = make_pace(ends_at)
    do(pace, clock, "checkpoint", seconds=50.0)
    assert pace.reason_to_stop("iteration", "checkpoint") is None


def test_without_a_known_end_only_a_signal_stops_it(make_pace: Callable[..., Pace]) -> None:
    stop = StopRequest()
    pace = make_pace(None, stop)
    with pace.measured("iteration"):
        pass
    assert pace.reason_to_stop("iteration") is None
    stop.asked = True
    assert pace.reason_to_stop("iteration") == "signal"
    assert pace.stopping("signal")["seconds_left"] is None


def test_the_longest_of_the_last_few_counts(
    clock: HandClock, make_pace: Callable[..., Pace]
) -> None:
    pace = make_pace(None)
    do(pace, clock, "iteration", seconds=90.0)  # compiling
    do(pace, clock, "iteration", seconds=1.0)
    assert pace.longest("iteration") == 90.0
    for _ in range(RECENT):
        do(pace, clock, "iteration", seconds=1.0)
    assert pace.longest("iteration") == 1.0
