"""Resume files: the furthest sound one of all attempts wins, and old ones go when they may."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.nnunet import resume_files
from ca_hpc.nnunet.checkpoints import plain
from ca_hpc.nnunet.course import Course
from ca_hpc.nnunet.resume_files import (
    Position,
    Resume,
    broken_files,
    supersede,
    take_over_newest,
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
        "network_weights": {"layer": torch.arange(3000.0)},
        "current_epoch": position.epoch,
        "logging": plain({"train_losses": [np.float32(0.3)] * position.epoch}),
        "_best_ema": plain(np.float64(0.1) + 0.2),
        "ca_hpc": {
            "iteration": position.iteration,
            "course": asdict(COURSE),
            "outputs": plain(outputs),
        },
    }


def write(attempt: Path, epoch: int, iteration: int) -> Path:
    position = Position(epoch, iteration)
    return write_resume(attempt / "resume", position=position, state=state(position))


def found(*attempts: Path, events: list[Any] | None = None) -> Resume:
    resume = take_over_newest(attempts, emit=[].append if events is None else events.append)
    assert resume is not None
    return resume


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """One bit of the weights, which ``torch.load`` does not notice."""
    place = content.index(torch.arange(3000.0).numpy().tobytes()) + 5000
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.fixture
def attempts(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in ("1", "2", "3")]


def test_the_furthest_position_over_all_attempts_is_taken_over(attempts: list[Path]) -> None:
    write(attempts[1], 0, 9)
    furthest = write(attempts[0], 1, 4)
    write(attempts[0], 0, 5)
    resume = found(*attempts)
    assert (resume.found, resume.position, resume.course) == (furthest, Position(1, 4), COURSE)
    assert resume.file == attempts[2] / "resume" / furthest.name
    assert resume.file.samefile(furthest)


def test_of_equal_positions_the_latest_attempts_file_is_taken(attempts: list[Path]) -> None:
    write(attempts[0], 1, 4)
    latest = write(attempts[1], 1, 4)
    assert found(*attempts).found == latest


def test_what_was_taken_over_is_there_when_its_source_has_gone(attempts: list[Path]) -> None:
    write(attempts[0], 1, 4)
    file = found(*attempts[:2]).file
    for epoch in (2, 3):
        write(attempts[0], epoch, 0)
    assert torch.load(file, weights_only=True)["current_epoch"] == 1


def test_numbers_come_back_with_their_types(attempts: list[Path]) -> None:
    write(attempts[0], 2, 1)
    resume = found(attempts[0])
    assert resume.best_ema == np.float64(0.1) + 0.2
    loss = resume.outputs[0]["loss"]
    assert isinstance(loss, np.float32) and loss == np.float32(0.1)


@pytest.mark.parametrize(
    "broken", [lambda content: b"", lambda content: b"no zip", truncated, flipped],
    ids=["empty", "foreign", "truncated", "flipped"],
)  # fmt: skip
def test_a_broken_file_is_set_aside_and_the_one_before_it_taken(
    attempts: list[Path], broken: Callable[[bytes], bytes]
) -> None:
    sound, damaged = write(attempts[0], 1, 0), write(attempts[1], 2, 0)
    damaged.write_bytes(broken(damaged.read_bytes()))
    events: list[Any] = []
    assert found(*attempts, events=events).found == sound
    assert [(e["event"], e["file"]) for e in events] == [("checkpoint-skipped", str(damaged))]
    assert broken_files(attempts) == [damaged.with_name(damaged.name + ".broken")]
    events.clear()
    assert found(*attempts, events=events).position == Position(1, 0)
    assert events == []  # nobody reads it again


def test_torch_itself_takes_a_flipped_bit_for_weights(attempts: list[Path]) -> None:
    """Why the checksums are looked at; if this fails, that may no longer be needed."""
    file = write(attempts[0], 1, 0)
    file.write_bytes(flipped(file.read_bytes()))
    torch.load(file, weights_only=True)


def test_a_file_renamed_to_another_position_is_not_believed(attempts: list[Path]) -> None:
    file = write(attempts[0], 1, 0)
    file.rename(file.with_name("resume-e00004-i00000.pt"))
    assert take_over_newest(attempts, emit=[].append) is None


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_now_is_neither_set_aside_nor_started_over_from(
    attempts: list[Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before, newest = write(attempts[0], 1, 0), write(attempts[0], 2, 0)
    opened = zipfile.ZipFile

    def refuse(file: Path) -> zipfile.ZipFile:
        if file.name == newest.name:
            raise OSError(number, os.strerror(number))
        return opened(file)

    monkeypatch.setattr(resume_files.zipfile, "ZipFile", refuse)
    events: list[Any] = []
    assert found(*attempts, events=events).found == before
    assert events[0]["reason"].endswith(os.strerror(number))
    before.unlink()
    (attempts[2] / "resume" / before.name).unlink()
    with pytest.raises(CaHpcError, match="No resume file can be read, and 1 may be sound"):
        take_over_newest(attempts, emit=[].append)
    assert newest.exists() and broken_files(attempts) == []


def test_files_that_go_while_they_are_read_are_listed_again(
    attempts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an older copy of the task does it that is still alive: it drops what it has surpassed."""
    write(attempts[0], 1, 0)
    link, times = resume_files.link_or_copy, iter(range(2, 5))

    def late(source: Path, target: Path) -> None:
        if (epoch := next(times, None)) is not None:
            write(attempts[0], epoch, 0)
            write(attempts[0], epoch, 1)
        link(source, target)

    monkeypatch.setattr(resume_files, "link_or_copy", late)
    assert found(*attempts).position == Position(4, 1)


def test_the_last_two_files_are_kept(attempts: list[Path]) -> None:
    for epoch in range(4):
        write(attempts[0], epoch, 0)
    assert sorted(file.name for file in (attempts[0] / "resume").iterdir()) == [
        "resume-e00002-i00000.pt",
        "resume-e00003-i00000.pt",
    ]


def test_earlier_attempts_lose_their_checkpoints_to_two_whole_files_of_a_later_one(
    attempts: list[Path],
) -> None:
    write(attempts[0], 1, 0)
    best = attempts[0] / "results/Dataset/trainer__plans__3d/fold_0/checkpoint_best.pth"
    best.parent.mkdir(parents=True)
    best.write_text("weights")
    newer = write(attempts[2], 9, 0)  # a still later attempt: not to be touched
    first = write(attempts[1], 1, 5)
    assert not supersede(attempts[:2])
    second = write(attempts[1], 2, 0)
    whole = second.read_bytes()
    second.write_bytes(truncated(whole))
    assert not supersede(attempts[:2])
    assert best.exists() and (attempts[0] / "resume").exists()
    assert not second.exists()  # set aside
    second.write_bytes(whole)
    assert supersede(attempts[:2])
    assert not best.exists() and not (attempts[0] / "resume").exists()
    assert first.exists() and second.exists() and newer.exists()


def test_other_settings_are_refused_by_name() -> None:
    other = replace(COURSE, epochs=7, seed=2, warmup_epochs=0, head="pretrained")
    with pytest.raises(CaHpcError) as caught:
        COURSE.must_equal(other, place=Path("attempt-1/resume.pt"))
    assert "epochs: 7 there, 5 asked for" in caught.value.message
    assert "seed: 2 there, 1 asked for" in caught.value.message
    assert "warmup_epochs: 0 there, 2 asked for" in caught.value.message
    assert "head: pretrained there, new asked for" in caught.value.message
    assert "fold" not in caught.value.message


@pytest.mark.parametrize("name", ["plans_sha256", "pretrained_sha256"])
def test_other_plans_and_weights_are_not_the_recorded_files(name: str) -> None:
    changes = {"epochs": 7, name: "0" * 64}
    other = replace(COURSE, **changes)  # type: ignore[arg-type]
    with pytest.raises(DigestMismatch) as caught:
        COURSE.must_equal(other, place=Path("attempt-1/resume.pt"))
    asked = getattr(COURSE, name)
    assert f"{name}: {'0' * 64} there, {asked} asked for" in caught.value.message
