"""The learning rate rises to where the trainer's own schedule begins, and then is that schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from ca_hpc.nnunet.warm_up import warmed_up

EPOCHS = 10
SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "nnU-Net's": lambda optimizer: PolyLRScheduler(optimizer, 0.01, EPOCHS),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, T_max=EPOCHS),
    "steps": lambda optimizer: MultiStepLR(optimizer, milestones=[5, 8], gamma=0.1),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:The epoch parameter in"),
    pytest.mark.filterwarnings("ignore:Detected call of"),
]


def rates(
    make_schedule: Callable[[Any], Any], *, warmup: int, first: int = 0, initial: float = 0.01
) -> list[float]:
    """The rate of each epoch from ``first`` on, set as nnU-Net sets it at an epoch's start."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], initial)
    schedule = warmed_up(make_schedule(optimizer), epochs=warmup)
    seen = []
    for epoch in range(first, EPOCHS):
        schedule.step(epoch)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES.keys())
def make_schedule(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_the_rate_rises_linearly_to_the_initial_one(make_schedule: Callable[[Any], Any]) -> None:
    assert rates(make_schedule, warmup=4)[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])


def test_then_it_is_what_it_is_without_warm_up(make_schedule: Callable[[Any], Any]) -> None:
    assert rates(make_schedule, warmup=4)[4:] == rates(make_schedule, warmup=0)[4:]


@pytest.mark.parametrize("first", [2, 4, 7])
def test_a_continued_training_has_the_same_rates(
    make_schedule: Callable[[Any], Any], first: int
) -> None:
    undisturbed = rates(make_schedule, warmup=4)
    assert rates(make_schedule, warmup=4, first=first) == undisturbed[first:]


def test_groups_of_parameters_keep_their_own_rates() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(groups)
    warmed_up(CosineAnnealingLR(optimizer, T_max=EPOCHS), epochs=2).step(0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]


def test_a_schedule_is_not_warmed_up_twice() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.01)
    once = warmed_up(PolyLRScheduler(optimizer, 0.01, EPOCHS), epochs=3)
    assert warmed_up(once, epochs=3) is once
