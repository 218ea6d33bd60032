"""A training of twelve minutes in slices of two, with each way of continuation."""

from __future__ import annotations

from tests.integration.interruptions import nothing_left
from tests.integration.slices import SLICE_S, WAYS, in_slices
from tests.integration.watched import Scene

PACE_S = 0.55  # and some for the iteration itself
TRAINING_S = 720
EPOCHS = 60  # of 20 iterations: twelve minutes


def test_a_training_of_twelve_minutes_in_slices_of_two_ends_with_the_same_weights(
    scene: Scene,
) -> None:
    with nothing_left(scene.site.user.uid):
        jobs = in_slices(
            scene,
            WAYS,
            epochs=EPOCHS,
            pace_s=PACE_S,
            at_least=TRAINING_S // SLICE_S,
            seconds=2700,
        )
    print(jobs)
