"""How a fold starts and what it does on its course: warm-up, frozen encoder, no epochs at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.calls import FoldCall, FoldOutcome, Start
from ca_hpc.nnunet.checkpoints import weights_sha256
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.weights.checkpoint import read_checkpoint

MakeCall = Callable[..., FoldCall]
IMPORT = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"


@dataclass(frozen=True)
class Told:
    """An outcome and the events on the way to it."""

    outcome: FoldOutcome
    events: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def final(self) -> dict[str, torch.Tensor]:
        return weights_in(self.outcome.fold_folder / "checkpoint_final.pth")


def weights_in(file: Path) -> dict[str, torch.Tensor]:
    return as_torch(read_checkpoint(file).tensors)


def run(call: FoldCall, *, signal_at: str | None = None) -> Told:
    """Train; with SIGUSR2 when the file of that name has been written, or that case predicted."""
    events: list[dict[str, Any]] = []

    def emit(event: Any) -> None:
        events.append(json.loads(json.dumps(event, allow_nan=False)))
        if signal_at and signal_at in (Path(event.get("file", "")).name, event.get("case")):
            os.kill(os.getpid(), signal.SIGUSR2)

    return Told(train_fold(call, emit=emit, clock=time.monotonic), events)


def encoder(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: of for key, of in weights.items() if key.startswith("encoder.")}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture
def pretrained(make_call: MakeCall, tmp_path: Path, kept: Path) -> Start:
    """The weights of one epoch on the other fold, made once for this module."""
    file = kept / "checkpoint_final.pth"
    if not file.exists():
        call = make_call(attempt_folder=tmp_path / "pretraining", fold=1, seed=99, epochs=1)
        shutil.copy(run(call).outcome.fold_folder / file.name, file)
    return Start("pretrained", file=file, sha256=None)


@pytest.fixture
def trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for trainers of one's own."""
    folder = tmp_path / "trainers"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    yield folder


def test_the_log_shows_the_rates_of_the_warm_up(make_call: MakeCall) -> None:
    told = run(make_call(epochs=4, iterations_per_epoch=1, warmup_epochs=2))
    rates = [event["lr"] for event in told.of("epoch")]
    assert rates[:2] == [0.005, 0.01]
    assert rates[2:] == pytest.approx([0.01 * (1 - epoch / 4) ** 0.9 for epoch in (2, 3)])
    final = torch.load(told.outcome.fold_folder / "checkpoint_final.pth", weights_only=False)
    assert final["logging"]["lrs"] == rates
    assert told.of("start")[0]["warmup_epochs"] == 2


@pytest.mark.parametrize("interrupted", ["resume-e00000-i00001.pt", "resume-e00001-i00001.pt"])
def test_a_warmed_up_frozen_training_continues_to_the_same_weights(
    make_call: MakeCall, pretrained: Start, tmp_path: Path, interrupted: str
) -> None:
    """Before the encoder learns, and after."""
    course = {"warmup_epochs": 2, "frozen_encoder_epochs": 1, "start": pretrained}
    undisturbed = run(make_call(attempt_folder=tmp_path / "undisturbed", **course))
    first = run(make_call(checkpoint_every_s=0.0, **course), signal_at=interrupted)
    assert not first.outcome.finished
    second = run(
        make_call(
            attempt_folder=tmp_path / "attempt-2",
            earlier_attempts=(tmp_path / "attempt-1",),
            **course,
        )
    )
    assert second.outcome.resumed_from is not None
    assert second.outcome.weights_sha256 == undisturbed.outcome.weights_sha256
    assert [e["lr"] for e in second.of("epoch")][-1] == undisturbed.of("epoch")[-1]["lr"]


def test_the_encoder_stands_still_for_the_first_epochs_and_then_learns(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    before = weights_in(pretrained.file)
    for epochs, frozen, learns in [(2, 2, False), (2, 1, True)]:
        call = make_call(
            attempt_folder=tmp_path / f"{epochs}-{frozen}",
            epochs=epochs,
            frozen_encoder_epochs=frozen,
            start=pretrained,
        )
        told = run(call)
        assert told.of("start")[0]["frozen_encoder_epochs"] == frozen
        changed = moved(before, told.final)
        assert any(key.startswith("decoder.stages.") for key in changed)
        assert bool(changed & set(encoder(before))) == learns


def test_running_averages_of_a_frozen_encoder_stand_still_too(make_call: MakeCall) -> None:
    call = make_call(trainer="nnUNetTrainerBN", epochs=1, frozen_encoder_epochs=1)
    of = run(call).final
    means = {key: values for key, values in of.items() if key.endswith("running_mean")}
    assert means
    for key, values in means.items():
        assert torch.any(values != 0) == ("encoder." not in key), key


def test_a_network_without_an_encoder_cannot_have_it_frozen(
    make_call: MakeCall, trainers: Path
) -> None:
    (trainers / "flat.py").write_text(
        f"import torch\n{IMPORT}"
        "class FlatTrainer(nnUNetTrainer):\n"
        "    @staticmethod\n"
        "    def build_network_architecture(plans_manager, configuration_manager, channels,\n"
        "                                   heads, enable_deep_supervision=True):\n"
        "        return torch.nn.Conv3d(channels, heads, 3, padding=1)\n"
    )
    with pytest.raises(CaHpcError, match="Conv3d has no encoder that could be frozen"):
        run(make_call(trainer="FlatTrainer", frozen_encoder_epochs=1))


def test_a_continuation_with_another_warm_up_or_start_is_refused(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    first = make_call(checkpoint_every_s=0.0, start=pretrained)
    run(first, signal_at="resume-e00000-i00001.pt")
    second = replace(
        first,
        attempt_folder=tmp_path / "attempt-2",
        earlier_attempts=(tmp_path / "attempt-1",),
        start=replace(pretrained, weights="shuffled", head="pretrained"),
        settings=replace(first.settings, warmup_epochs=1, frozen_encoder_epochs=2),
    )
    with pytest.raises(CaHpcError) as caught:
        run(second)
    for difference in (
        "warmup_epochs: 0 there, 1 asked for",
        "frozen_encoder_epochs: 0 there, 2 asked for",
        "weights: pretrained there, shuffled asked for",
        "head: new there, pretrained asked for",
    ):
        assert difference in caught.value.message


def test_with_no_epochs_the_pretrained_network_is_saved_and_validated_as_it_is(
    make_call: MakeCall, pretrained: Start, trainers: Path
) -> None:
    (trainers / "idle.py").write_text(
        f"{IMPORT}"
        "class IdleTrainer(nnUNetTrainer):\n"
        "    def get_tr_and_val_datasets(self):\n"
        "        raise AssertionError('no batch is needed')\n"
    )
    call = make_call(
        trainer="IdleTrainer",
        epochs=0,
        start=replace(pretrained, head="pretrained"),
        validation_checkpoint="best",  # there is none but the final one
    )
    told = run(call)
    assert (told.outcome.finished, told.outcome.epochs_done) == (True, 0)
    assert told.of("epoch") == []
    assert told.outcome.weights_sha256 == weights_sha256(weights_in(pretrained.file))
    assert weights_sha256(told.final) == told.outcome.weights_sha256
    assert told.outcome.summary_file is not None
    assert len(json.loads(told.outcome.summary_file.read_text())["metric_per_case"]) == 2
    content = read_checkpoint(told.outcome.fold_folder / "checkpoint_final.pth").content
    assert tuple(content["inference_allowed_mirroring_axes"]) == (0, 1, 2)
    assert content["current_epoch"] == 0
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
        assert (told.outcome.fold_folder.parent / name).is_file()


def test_a_validation_without_epochs_continues_where_it_was_interrupted(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    first = make_call(epochs=0, start=pretrained)
    assert not run(first, signal_at="blob_4").outcome.finished
    second = replace(
        first,
        attempt_folder=tmp_path / "attempt-2",
        earlier_attempts=(first.attempt_folder,),
    )
    told = run(second)
    assert told.outcome.finished
    assert [event["reused"] for event in told.of("validation")] == [True, False]


def test_shuffled_weights_are_the_pretrained_values_in_other_places(
    make_call: MakeCall, pretrained: Start, tmp_path: Path
) -> None:
    control = replace(pretrained, weights="shuffled")
    runs = [
        run(make_call(attempt_folder=tmp_path / name, epochs=0, start=control, seed=seed))
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    assert runs[0].of("start")[0]["weights"] == "shuffled"
    digests = [told.outcome.weights_sha256 for told in runs]
    assert digests[0] == digests[1] != digests[2]
    before, after = encoder(weights_in(pretrained.file)), encoder(runs[0].final)
    assert any(key.endswith("conv.weight") for key in moved(before, after))
    for key, values in before.items():
        assert torch.equal(values.flatten().sort().values, after[key].flatten().sort().values)


@pytest.mark.parametrize(
    "trainer",
    ["nnUNetTrainerDA5", "nnUNetTrainerNoMirroring", "nnUNetTrainerDiceCELoss_noSmooth", "Quick"],
)
def test_any_trainer_trains_through_our_loop_and_keeps_its_own_ways(
    make_call: MakeCall, trainers: Path, trainer: str
) -> None:
    (trainers / "quick.py").write_text(
        f"{IMPORT}"
        "class Quick(nnUNetTrainer):\n"
        "    def __init__(self, plans, configuration, fold, dataset_json, device):\n"
        "        super().__init__(plans, configuration, fold, dataset_json, device)\n"
        "        self.initial_lr = 0.5\n"
    )
    told = run(make_call(trainer=trainer, epochs=1, iterations_per_epoch=1))
    content = read_checkpoint(told.outcome.fold_folder / "checkpoint_final.pth").content
    assert content["trainer_name"] == trainer
    assert told.outcome.fold_folder.parent.name == f"{trainer}__nnUNetPlans__3d_fullres"
    mirrored = content["inference_allowed_mirroring_axes"]
    assert (mirrored is None) == (trainer == "nnUNetTrainerNoMirroring")
    assert told.of("epoch")[0]["lr"] == (0.5 if trainer == "Quick" else 0.01)


def test_a_trainer_with_its_own_warm_up_keeps_it_and_takes_no_second_one(
    make_call: MakeCall, tmp_path: Path
) -> None:
    call = make_call(trainer="nnUNetTrainer_warmup", epochs=1, iterations_per_epoch=1)
    assert run(call).of("epoch")[0]["lr"] == pytest.approx(0.01 / 50)
    with pytest.raises(CaHpcError, match="has a warm-up of its own, over 50 epochs"):
        run(
            make_call(
                attempt_folder=tmp_path / "other", trainer="nnUNetTrainer_warmup", warmup_epochs=2
            )
        )


def test_probabilities_are_written_where_asked_and_taken_over_with_the_masks(
    make_call: MakeCall, tmp_path: Path
) -> None:
    first = run(make_call(epochs=1, iterations_per_epoch=1, probabilities=True))
    folder = first.outcome.fold_folder / "validation"
    soft = np.load(folder / "blob_4.npz")["probabilities"]
    assert soft.shape == (2, 22, 24, 20)  # channel, then as nnU-Net's reader turns the image
    assert np.allclose(soft.sum(axis=0), 1, atol=1e-4)
    assert (folder / "blob_4.pkl").is_file()
    again = make_call(
        attempt_folder=tmp_path / "attempt-2",
        earlier_attempts=(tmp_path / "attempt-1",),
        epochs=1,
        iterations_per_epoch=1,
        probabilities=True,
    )
    second = run(again)
    assert [event["reused"] for event in second.of("validation")] == [True, True]
    taken = second.outcome.fold_folder / "validation"
    assert (taken / "blob_5.npz").read_bytes() == (folder / "blob_5.npz").read_bytes()


def test_masks_without_the_probabilities_asked_for_are_predicted_again(
    make_call: MakeCall,
) -> None:
    def reused(**changes: Any) -> list[bool]:
        told = run(make_call(epochs=1, iterations_per_epoch=1, **changes))
        return [event["reused"] for event in told.of("validation")]

    assert reused() == [False, False]
    assert reused(probabilities=True) == [False, False]
    folder = make_call().attempt_folder
    (soft,) = folder.rglob("blob_4.npz")
    soft.unlink()
    assert reused(probabilities=True) == [False, True]
    assert reused() == [False, False]
    assert list(folder.rglob("*.npz")) == []
