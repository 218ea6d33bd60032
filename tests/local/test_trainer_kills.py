"""SIGKILL at any instant of a training: it goes on from a sound checkpoint, to the same weights."""

from __future__ import annotations

from pathlib import Path

from tests.blobs import blobs_in
from tests.trainer_kills import seed_of_this_run, survives_kills


def test_a_trainer_survives_ten_kills_five_of_them_while_it_writes(tmp_path: Path) -> None:
    data = blobs_in(tmp_path / "nnunet")
    survives_kills(data, tmp_path, anywhere=5, writing=5, seed=seed_of_this_run())
