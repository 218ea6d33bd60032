"""The old copy of a lost node's task, when it is told to stop late: it queues nothing again."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import pytest

from tests.integration.interruptions import nothing_left
from tests.integration.lost_node import lost_node
from tests.integration.watched import Scene


@pytest.mark.parametrize("last", [None, signal.SIGUSR2, signal.SIGTERM], ids=str)
def test_a_task_of_a_lost_node_runs_again_and_its_old_copy_changes_nothing(
    scenes: Sequence[Scene], last: signal.Signals | None
) -> None:
    for scene in scenes:
        with nothing_left(scene.site.user.uid):
            lost_node(scene, last=last)
