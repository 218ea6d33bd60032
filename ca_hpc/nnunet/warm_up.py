"""A linear rise of the learning rate, put before any trainer's own schedule."""

from __future__ import annotations

from typing import Any


class WarmUp:
    """Stands where a trainer has its learning rate scheduler.

    In epoch e < ``epochs`` (0-based) every rate is (e + 1) / ``epochs`` of the one that the own
    schedule begins with; from epoch ``epochs`` on the rates are those of the same training without
    warm-up. They follow from the epoch alone, so a continued training has the same ones.
    """

    def __init__(self, schedule: Any, *, epochs: int) -> None:
        self._schedule = schedule
        self._epochs = epochs

    def step(self, epoch: int) -> None:
        """Set the rates of ``epoch`` in the optimiser, where nnU-Net reads them for its log."""
        rising = epoch < self._epochs
        self._schedule.step(0 if rising else epoch)
        if rising:
            for group in self._schedule.optimizer.param_groups:
                group["lr"] *= (epoch + 1) / self._epochs


def warmed_up(schedule: Any, *, epochs: int) -> Any:
    """``schedule`` after a rise over ``epochs``; as it is for 0, or where it has one already."""
    if epochs == 0 or isinstance(schedule, WarmUp):
        return schedule
    return WarmUp(schedule, epochs=epochs)
