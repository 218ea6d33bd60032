"""Exactly one array each: the controller away at twenty submissions."""

from __future__ import annotations

from tests.integration.exactly_once import Desk
from tests.integration.test_exactly_once import away, desk  # noqa: F401

TIMES = 20


def test_a_controller_that_is_away_while_a_stage_is_submitted(
    desk: Desk,  # noqa: F811
    seed: int,
) -> None:
    away(desk, times=TIMES, seed=seed)
