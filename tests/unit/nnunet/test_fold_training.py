"""A fold goes on from wherever it was left, to the same weights, and never from a wrong start."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
import pytest
import torch

import ca_hpc
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.nnunet.calls import FoldCall, FoldOutcome, Start
from ca_hpc.nnunet.checkpoints import weights_sha256
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.store.digests import sha256_file
from ca_hpc.weights.checkpoint import read_checkpoint

REPOSITORY = Path(ca_hpc.__file__).parents[1]
MakeCall = Callable[..., FoldCall]


class Log:
    """Keeps the events; sends this process ``number`` at the event of a file or case."""

    def __init__(
        self, signal_at: str | None = None, number: signal.Signals = signal.SIGUSR2
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self._signal_at = signal_at
        self._number = number

    def __call__(self, event: Any) -> None:
        self.events.append(json.loads(json.dumps(event, allow_nan=False)))
        name = event.get("case") or Path(event.get("file", "")).name
        if name == self._signal_at:
            os.kill(os.getpid(), self._number)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def run(call: FoldCall, log: Log | None = None) -> FoldOutcome:
    return train_fold(call, emit=log or Log(), clock=time.monotonic)


def run_in_new_process(call: FoldCall, *, signal_at: str) -> dict[str, Any]:
    """Run in a process group of its own, all of which gets SIGTERM at the event of a file."""
    program = f"""
import json, os, signal, time
from dataclasses import asdict, replace
from pathlib import Path, PosixPath
from ca_hpc.nnunet.calls import FoldCall, Start, TrainingSettings
from ca_hpc.nnunet.fold_training import train_fold

def emit(event):
    if Path(event.get("file", "")).name == {signal_at!r}:
        os.killpg(0, signal.SIGTERM)

outcome = train_fold({call!r}, emit=emit, clock=time.monotonic)
print("\\n" + json.dumps(asdict(outcome), default=str))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)
    return cast("dict[str, Any]", json.loads(output.splitlines()[-1]))


def curves(outcome: FoldOutcome) -> dict[str, list[Any]]:
    """What nnU-Net logged per epoch, but for the times of day."""
    final = outcome.fold_folder / "checkpoint_final.pth"
    logged = torch.load(final, weights_only=False)["logging"]
    return {key: of for key, of in logged.items() if "timestamps" not in key}


def weights_in(file: Path) -> dict[str, torch.Tensor]:
    return as_torch(read_checkpoint(file).tensors)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``pretrained`` puts its checkpoint, once for this module."""
    return tmp_path_factory.mktemp("weights") / "checkpoint_final.pth"


@pytest.fixture
def pretrained(make_call: MakeCall, tmp_path: Path, weights: Path) -> Start:
    """The weights of one epoch on the other fold."""
    if not weights.exists():
        call = make_call(attempt_folder=tmp_path / "pretraining", fold=1, seed=99, epochs=1)
        shutil.copy(run(call).fold_folder / "checkpoint_final.pth", weights)
    return Start("pretrained", file=weights, sha256=sha256_file(weights))


def test_importing_the_module_imports_no_torch() -> None:
    program = "import sys, ca_hpc.nnunet.fold_training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


def test_a_fold_is_trained_validated_and_told_about(make_call: MakeCall) -> None:
    log = Log()
    outcome = run(make_call(), log)
    assert (outcome.finished, outcome.epochs_done) == (True, 2)
    (start,) = log.of("start")
    assert (start["epoch"], start["iteration"], start["resumed_from"]) == (0, 0, None)
    assert (start["device"], start["torch_threads"]) == ("cpu", 1)
    network = weights_in(outcome.fold_folder / "checkpoint_final.pth")
    own = {key: of for key, of in network.items() if not key.startswith("decoder.encoder.")}
    assert start["parameters"] <= sum(tensor.numel() for tensor in own.values())
    assert [(e["epoch"], e["epochs"]) for e in log.of("epoch")] == [(0, 2), (1, 2)]
    assert log.of("epoch")[1]["lr"] < log.of("epoch")[0]["lr"] == 0.01
    assert [(e["case"], e["done"], e["total"]) for e in log.of("validation")] == [
        ("blob_4", 1, 2),
        ("blob_5", 2, 2),
    ]
    assert log.of("end") == [{"event": "end", "finished": True, "epochs_done": 2}]
    assert (outcome.fold_folder / "progress.png").is_file()


def test_stock_nnunet_uses_the_final_checkpoint(make_call: MakeCall) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    call = make_call()
    outcome = run(call)
    final = outcome.fold_folder / "checkpoint_final.pth"
    assert read_checkpoint(final).content["trainer_name"] == "nnUNetTrainer"
    predictor = nnUNetPredictor(
        tile_step_size=1.0, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(outcome.fold_folder.parent), (0,))
    raw = call.preprocessed_root.parent / "raw" / "Dataset901_Blobs" / "imagesTr"
    image, properties = predictor.plans_manager.image_reader_writer_class().read_images(
        [str(raw / "blob_4_0000.nii.gz")]
    )
    stock = predictor.predict_single_npy_array(image, properties)
    ours = nibabel.load(outcome.fold_folder / "validation" / "blob_4.nii.gz")
    assert np.array_equal(stock.transpose(2, 1, 0), np.asarray(ours.dataobj))


def test_interrupted_in_mid_epoch_and_continued_elsewhere_ends_with_the_same_weights(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    undisturbed = run(make_call(attempt_folder=tmp_path / "undisturbed", start=pretrained))
    first = run_in_new_process(
        make_call(checkpoint_every_s=0.0, workers=2, start=pretrained),
        signal_at="resume-e00001-i00001.pt",
    )
    assert (first["finished"], first["epochs_done"]) == (False, 1)
    gone = replace(pretrained, file=tmp_path / "no-longer-there.pth")
    second = run(
        make_call(
            attempt_folder=tmp_path / "attempt-2",
            earlier_attempts=(tmp_path / "attempt-1",),
            workers=1,
            start=gone,
        )
    )
    assert second.finished
    newest = tmp_path / "attempt-1" / "resume" / "resume-e00001-i00001.pt"
    assert second.resumed_from == str(newest)
    assert second.pretrained_sha256 == pretrained.sha256
    assert second.weights_sha256 == undisturbed.weights_sha256
    assert curves(second) == curves(undisturbed)
    assert (second.fold_folder / "checkpoint_best.pth").is_file()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_ends_the_call_with_all_saved_and_no_process_left(
    make_call: MakeCall, number: signal.Signals
) -> None:
    log = Log(signal_at="resume-e00000-i00002.pt", number=number)
    outcome = run(make_call(checkpoint_every_s=0.0, workers=1), log)
    assert (outcome.finished, outcome.epochs_done) == (False, 0)
    assert Path(log.of("checkpoint")[-1]["file"]).name == "resume-e00000-i00002.pt"
    assert log.of("end") == [{"event": "end", "finished": False, "epochs_done": 0}]
    assert multiprocessing.active_children() == []


def test_interrupted_before_the_first_checkpoint_is_due_the_pretrained_start_is_kept(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    undisturbed = run(make_call(attempt_folder=tmp_path / "undisturbed", start=pretrained))
    first = run(make_call(start=pretrained), Log(signal_at="checkpoint_best.pth"))
    assert [file.name for file in (tmp_path / "attempt-1" / "resume").iterdir()] == [
        "resume-e00001-i00000.pt"
    ]
    again = make_call(
        attempt_folder=tmp_path / "attempt-2",
        earlier_attempts=(first.fold_folder.parents[3],),
        start=pretrained,
    )
    assert run(again).weights_sha256 == undisturbed.weights_sha256


def test_a_broken_newest_resume_file_falls_back_to_the_one_before(
    make_call: MakeCall, tmp_path: Path
) -> None:
    undisturbed = run(make_call(attempt_folder=tmp_path / "undisturbed"))
    run(make_call(checkpoint_every_s=0.0), Log(signal_at="resume-e00001-i00001.pt"))
    newest = tmp_path / "attempt-1" / "resume" / "resume-e00001-i00001.pt"
    newest.write_bytes(newest.read_bytes()[:5000])
    log = Log()
    outcome = run(
        make_call(
            attempt_folder=tmp_path / "attempt-2", earlier_attempts=(tmp_path / "attempt-1",)
        ),
        log,
    )
    assert [event["file"] for event in log.of("checkpoint-skipped")] == [str(newest)]
    assert (log.of("start")[0]["epoch"], log.of("start")[0]["iteration"]) == (1, 0)
    assert outcome.weights_sha256 == undisturbed.weights_sha256


def test_where_every_resume_file_is_broken_the_pretrained_start_is_told_of_loudly(
    make_call: MakeCall, pretrained: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = run(make_call(attempt_folder=tmp_path / "undisturbed", start=pretrained))
    assert f"pretrained weights sha256:{pretrained.sha256} loaded\n" in capsys.readouterr().out
    run(make_call(checkpoint_every_s=0.0, start=pretrained), Log("resume-e00001-i00001.pt"))
    broken = list((tmp_path / "attempt-1" / "resume").iterdir())
    for file in broken:
        file.write_bytes(b"")
    log = Log()
    again = make_call(
        attempt_folder=tmp_path / "attempt-2",
        earlier_attempts=(tmp_path / "attempt-1",),
        start=pretrained,
    )
    assert run(again, log).weights_sha256 == undisturbed.weights_sha256
    assert [len(event["broken"]) for event in log.of("start-over")] == [len(broken)] == [2]
    assert log.of("start")[0]["pretrained_sha256"] == pretrained.sha256
    told = capsys.readouterr().out
    assert "WARNING: all resume files are broken (2): the training starts again\n" in told
    assert f"pretrained weights sha256:{pretrained.sha256} loaded\n" in told


def attempts_until_finished(
    make_call: MakeCall, folder: Path, *, seconds: float, **changes: Any
) -> list[Log]:
    """What the attempts told, each in a job of ``seconds`` by a clock that ticks when looked at."""
    logs: list[Log] = []
    finished = False
    while not finished:
        assert len(logs) < 60
        clock, log = itertools.count(0.0).__next__, Log()
        call = make_call(
            attempt_folder=folder / f"attempt-{len(logs)}",
            earlier_attempts=tuple(folder / f"attempt-{n}" for n in range(len(logs))),
            ends_at_s=seconds,
            **changes,
        )
        finished = train_fold(call, emit=log, clock=clock).finished
        assert clock() <= seconds or finished
        logs.append(log)
    return logs


@pytest.mark.parametrize("seconds", [90.0, 60.0, 45.0])
def test_a_training_in_short_jobs_gets_on_in_each_and_ends_with_the_same_weights(
    make_call: MakeCall, pretrained: Start, tmp_path: Path, seconds: float
) -> None:
    course = {"start": pretrained, "validation_iterations_per_epoch": 3}
    undisturbed = run(make_call(attempt_folder=tmp_path / "undisturbed", **course))
    logs = attempts_until_finished(make_call, tmp_path / "t", seconds=seconds, **course)
    assert len(logs) > 1
    stops = [event for log in logs[:-1] for event in log.of("stopping")]
    assert len(stops) == len(logs) - 1
    assert {event["reason"] for event in stops} == {"deadline"}
    assert all(event["done"] > 0 for event in stops)
    starts = [(e["epoch"], e["iteration"]) for log in logs for e in log.of("start")]
    assert starts == sorted(starts)
    final = tmp_path / "t" / f"attempt-{len(logs) - 1}" / "results"
    (final,) = final.rglob("checkpoint_final.pth")
    assert weights_sha256(weights_in(final)) == undisturbed.weights_sha256


def test_over_many_jobs_the_checkpoints_of_the_last_alone_are_kept(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    def stop_at(number: int) -> None:
        call = make_call(
            attempt_folder=tmp_path / f"attempt-{number}",
            earlier_attempts=tuple(tmp_path / f"attempt-{n}" for n in range(number)),
            start=pretrained,
            epochs=9,
            checkpoint_every_s=0.0,
        )
        assert not run(call, Log(signal_at=f"resume-e0000{number}-i00002.pt")).finished

    for number in range(4):
        stop_at(number)
        left = tmp_path / f"attempt-{number}" / "resume" / ".partial-resume-e00009-i00000.pt"
        left.write_text("killed")
    kept = {
        str(file.relative_to(tmp_path))
        for file in tmp_path.glob("attempt-*/**/*")
        if file.is_file()
    }
    assert {name for name in kept if name.endswith(".pt")} == {
        "attempt-3/resume/resume-e00003-i00001.pt",
        "attempt-3/resume/resume-e00003-i00002.pt",
        "attempt-3/resume/.partial-resume-e00009-i00000.pt",
    }
    assert [name.split("/")[0] for name in kept if name.endswith("best.pth")] == ["attempt-3"]


def test_a_superseded_copy_that_is_still_alive_harms_itself_only(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    """A new copy begins while the old one trains, and ends before it; then the old one goes on."""
    undisturbed = run(make_call(attempt_folder=tmp_path / "undisturbed", start=pretrained))
    outcomes: list[FoldOutcome] = []

    def begin_another(event: Any) -> None:
        if Path(event.get("file", "")).name == "resume-e00000-i00002.pt" and not outcomes:
            call = make_call(
                attempt_folder=tmp_path / "attempt-2",
                earlier_attempts=(tmp_path / "attempt-1",),
                checkpoint_every_s=0.0,
                start=pretrained,
            )
            outcomes.append(run_apart(call))

    old = make_call(checkpoint_every_s=0.0, start=pretrained)
    late = train_fold(old, emit=begin_another, clock=time.monotonic)
    (new,) = outcomes
    assert new.resumed_from == str(tmp_path / "attempt-1/resume/resume-e00000-i00002.pt")
    assert late.weights_sha256 == new.weights_sha256 == undisturbed.weights_sha256
    assert (new.fold_folder / "checkpoint_final.pth").is_file()


def run_apart(call: FoldCall) -> FoldOutcome:
    """Run in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, call).result()


def test_a_finished_training_is_only_validated_and_predictions_are_kept(
    make_call: MakeCall, tmp_path: Path
) -> None:
    first = run(make_call(), Log(signal_at="blob_4"))
    assert (first.finished, first.epochs_done) == (False, 2)
    log = Log()
    call = make_call(
        attempt_folder=tmp_path / "attempt-2", earlier_attempts=(tmp_path / "attempt-1",)
    )
    second = run(call, log)
    assert second.finished
    assert second.resumed_from == str(first.fold_folder / "checkpoint_final.pth")
    assert log.of("epoch") == []
    assert [(e["case"], e["reused"]) for e in log.of("validation")] == [
        ("blob_4", True),
        ("blob_5", False),
    ]
    for name in ("checkpoint_final.pth", "checkpoint_best.pth", "../plans.json", "../dataset.json"):
        assert (second.fold_folder / name).is_file()


def test_the_best_checkpoint_can_be_validated_instead(make_call: MakeCall) -> None:
    outcome = run(make_call(validation_checkpoint="best"))
    best = weights_in(outcome.fold_folder / "checkpoint_best.pth")
    assert outcome.weights_sha256 == weights_sha256(best)


def test_other_epochs_than_those_begun_with_are_refused(
    make_call: MakeCall, tmp_path: Path
) -> None:
    run(make_call(checkpoint_every_s=0.0), Log(signal_at="resume-e00001-i00001.pt"))
    with pytest.raises(CaHpcError, match=r"epochs: 2 there, 3 asked for"):
        run(
            make_call(
                epochs=3,
                attempt_folder=tmp_path / "attempt-2",
                earlier_attempts=(tmp_path / "attempt-1",),
            )
        )


def test_weights_that_are_missing_or_not_the_recorded_ones_never_mean_a_start_from_scratch(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    absent = tmp_path / "absent.pth"
    with pytest.raises(CaHpcError, match="no weights at"):
        run(make_call(start=replace(pretrained, file=absent)))
    with pytest.raises(DigestMismatch):
        run(make_call(start=replace(pretrained, sha256="0" * 64)))


def test_a_fresh_start_is_from_the_pretrained_weights_and_a_new_head(
    make_call: MakeCall, pretrained: Start
) -> None:
    log = Log()
    outcome = run(make_call(initial_learning_rate=1e-12, start=pretrained), log)
    assert log.of("start")[0]["pretrained_sha256"] == pretrained.sha256
    before = weights_in(pretrained.file)
    after = weights_in(outcome.fold_folder / "checkpoint_final.pth")
    moved = [key for key in before if not torch.allclose(before[key], after[key], atol=1e-6)]
    assert moved and all(".seg_layers." in key for key in moved)


def test_a_fold_that_the_splits_do_not_have_is_refused(make_call: MakeCall) -> None:
    with pytest.raises(CaHpcError, match="Fold 2 is not in"):
        run(make_call(fold=2))


def test_a_configuration_that_the_plans_do_not_have_is_refused(make_call: MakeCall) -> None:
    with pytest.raises(CaHpcError, match="no configuration 3d_huge"):
        run(make_call(configuration="3d_huge"))


def test_the_settings_reach_the_record_beside_the_checkpoint(make_call: MakeCall) -> None:
    call = make_call(initial_learning_rate=0.001)
    log = Log()
    outcome = run(call, log)
    course = json.loads((outcome.fold_folder / "course.json").read_text())
    assert course["initial_learning_rate"] == log.of("epoch")[0]["lr"] == 0.001
    settings = asdict(call.settings)
    assert {key: settings[key] for key in settings if key in course}.items() <= course.items()
