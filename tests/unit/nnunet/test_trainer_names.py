"""What can be read from a trainer's name."""

from __future__ import annotations

import pytest

from ca_hpc.nnunet.trainer_names import epochs_in_trainer_name


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("nnUNetTrainer_250epochs", 250),
        ("nnUNetTrainer_1epoch", 1),
        ("nnUNetTrainer_250epochs_NoMirroring", 250),
        ("nnUNetTrainer_onlyMirror01_1500ep", 1500),
        ("nnUNetTrainerDA5_10epochs", 10),
        ("nnUNetTrainer", None),
        ("nnUNetTrainerDA5", None),
        ("nnUNetTrainer_onlyMirror01", None),
    ],
)
def test_the_epochs_that_a_name_promises(name: str, epochs: int | None) -> None:
    assert epochs_in_trainer_name(name) == epochs
