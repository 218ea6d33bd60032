"""Files are whole or not there, values keep their types, and weights have one digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ca_hpc.nnunet.checkpoints import link_or_copy, plain, replacing, unplain, weights_sha256


def test_numbers_come_back_bit_for_bit_with_their_types() -> None:
    array = np.array([[0.1, np.nan]], dtype=np.float16)
    back = unplain(plain({"a": array, "b": [np.float64(0.1) + 0.2]}))
    assert back["a"].dtype == array.dtype and back["a"].tobytes() == array.tobytes()
    assert isinstance(back["b"][0], np.float64) and back["b"] == [np.float64(0.1) + 0.2]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_link_left_by_a_killed_process_is_not_written_through(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("source")
    (tmp_path / ".partial-target").hardlink_to(source)
    with replacing(target) as partial:
        partial.write_text("new")
    assert (source.read_text(), target.read_text()) == ("source", "new")
    (tmp_path / ".partial-target").hardlink_to(source)
    link_or_copy(source, target)
    assert target.samefile(source)


def test_a_weights_digest_sees_names_values_shapes_and_types_but_not_order() -> None:
    weights = {"a": torch.arange(4.0), "b": torch.tensor(True)}
    digest = weights_sha256(weights)
    assert weights_sha256(dict(reversed(weights.items()))) == digest
    changed = (
        {"a": torch.arange(4.0), "c": torch.tensor(True)},
        {"a": torch.arange(4.0) + 1e-7, "b": torch.tensor(True)},
        {"a": torch.arange(4.0).reshape(2, 2), "b": torch.tensor(True)},
        {"a": torch.arange(4.0).view(torch.int32), "b": torch.tensor(True)},
    )
    assert digest not in {weights_sha256(other) for other in changed}


def test_linking_a_file_onto_itself_changes_nothing(tmp_path: Path) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_text("content")
    link_or_copy(file, other)
    link_or_copy(file, other)
    link_or_copy(file, file)
    assert other.read_text() == file.read_text() == "content"
