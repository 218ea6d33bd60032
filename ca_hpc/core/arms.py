"""How an arm is trained: its own settings over the common ones. Pure."""

from __future__ import annotations

import dataclasses

from ca_hpc.core.spec import Arm, Training


def arm_training(training: Training, arm: Arm) -> Training:
    """The arm's settings over the common ones, wherever both have the key."""
    names = [field.name for field in dataclasses.fields(training)]
    own = {name: value for name in names if (value := getattr(arm, name, None)) is not None}
    if arm.weights == "random":
        own["frozen_encoder_epochs"] = 0  # it has learnt nothing yet
    return dataclasses.replace(training, **own)
