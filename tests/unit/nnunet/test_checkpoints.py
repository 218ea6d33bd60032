"""Resume files: whole or not there, the furthest sound one wins, and settings must agree."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.checkpoints import (
    Course,
    Position,
    link_or_copy,
    newest_valid,
    plain,
    replacing,
    unplain,
    weights_sha256,
    write_resume,
)

COURSE = Course(
    trainer="nnUNetTrainer",
    configuration="3d_fullres",
    fold="0",
    plans_sha256="ab12",
    epochs=5,
    iterations_per_epoch=10,
    validation_iterations_per_epoch=2,
    seed=1,
    initial_learning_rate=None,
    warmup_epochs=2,
    frozen_encoder_epochs=1,
    weights="pretrained",
    pretrained_sha256="cd34",
    stem="exact",
    head="new",
)


def state(position: Position) -> dict[str, Any]:
    outputs = [{"loss": np.float32(0.1)}] * position.iteration
    return {
        "network_weights": {"layer": torch.ones(3)},
        "current_epoch": position.epoch,
        "logging": plain({"train_losses": [np.float32(0.3)] * position.epoch}),
        "_best_ema": plain(np.float64(0.1) + 0.2),
        "ca_hpc": {
            "iteration": position.iteration,
            "course": asdict(COURSE),
            "train_outputs": plain(outputs),
        },
    }


def write(folder: Path, epoch: int, iteration: int) -> Path:
    position = Position(epoch, iteration)
    return write_resume(folder, position=position, state=state(position))


def test_the_furthest_position_over_all_attempts_is_found(tmp_path: Path) -> None:
    write(tmp_path / "2", 0, 9)
    furthest = write(tmp_path / "1", 1, 4)
    write(tmp_path / "1", 0, 5)
    folders = [tmp_path / name for name in ("1", "2", "never-begun")]
    resume = newest_valid(folders, emit=[].append)
    assert resume is not None
    assert (resume.file, resume.position, resume.course) == (furthest, Position(1, 4), COURSE)


def test_of_equal_positions_the_latest_attempts_file_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "1", 1, 4)
    latest = write(tmp_path / "2", 1, 4)
    resume = newest_valid([tmp_path / "1", tmp_path / "2"], emit=[].append)
    assert resume is not None and resume.file == latest


def test_numbers_come_back_bit_for_bit_with_their_types(tmp_path: Path) -> None:
    write(tmp_path, 2, 1)
    resume = newest_valid([tmp_path], emit=[].append)
    assert resume is not None
    assert resume.best_ema == np.float64(0.1) + 0.2
    loss = resume.train_outputs[0]["loss"]
    assert isinstance(loss, np.float32) and loss == np.float32(0.1)
    array = np.array([[0.1, np.nan]], dtype=np.float16)
    back = unplain(plain({"a": array}))["a"]
    assert back.dtype == array.dtype and back.tobytes() == array.tobytes()


@pytest.mark.parametrize("content", [b"", b"no zip", None], ids=["empty", "foreign", "truncated"])
def test_a_broken_newest_file_is_reported_skipped_and_kept(
    tmp_path: Path, content: bytes | None
) -> None:
    sound, broken = write(tmp_path, 1, 0), write(tmp_path, 2, 0)
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2] if content is None else content)
    events: list[Any] = []
    resume = newest_valid([tmp_path], emit=events.append)
    assert resume is not None and resume.file == sound
    assert [(e["event"], e["file"]) for e in events] == [("checkpoint-skipped", str(broken))]
    assert broken.exists()


def test_a_file_renamed_to_another_position_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path, 1, 0).rename(tmp_path / "resume-e00004-i00000.pt")
    assert newest_valid([tmp_path], emit=[].append) is None


def test_the_last_two_files_are_kept(tmp_path: Path) -> None:
    for epoch in range(4):
        write(tmp_path, epoch, 0)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "resume-e00002-i00000.pt",
        "resume-e00003-i00000.pt",
    ]


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


def test_other_settings_are_refused_by_name() -> None:
    other = replace(COURSE, epochs=7, seed=2, warmup_epochs=0, head="pretrained")
    with pytest.raises(CaHpcError) as caught:
        COURSE.must_equal(other, place=Path("attempt-1/resume.pt"))
    assert "epochs: 7 there, 5 asked for" in caught.value.message
    assert "seed: 2 there, 1 asked for" in caught.value.message
    assert "warmup_epochs: 0 there, 2 asked for" in caught.value.message
    assert "head: pretrained there, new asked for" in caught.value.message
    assert "fold" not in caught.value.message


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
