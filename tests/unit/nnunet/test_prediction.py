"""Test sets: what stock nnU-Net predicts with the same folds, once, and never half a file."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import ca_hpc
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.calls import FoldCall, PredictionCall
from ca_hpc.nnunet.fold_training import train_fold
from ca_hpc.nnunet.prediction import predict_test_sets
from ca_hpc.nnunet.sliding_window import outdated
from tests.blobs import CASES, Preprocessed

REPOSITORY = Path(ca_hpc.__file__).parents[1]
IMPORT = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
# as trainers written for nnU-Net before 2.8 build their network: not that of the plans
OWN_NETWORK = f"""
import torch
{IMPORT}
class OldWays(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(
        architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import,
        num_input_channels, num_output_channels, enable_deep_supervision=True,
    ):
        return torch.nn.Conv3d(num_input_channels, num_output_channels, 3, padding=1)

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    def set_deep_supervision_enabled(self, enabled):
        pass
"""
SETS = {"test": ("far_0", "far_1"), "clinic": ("near_0",)}


def add_test_images(data: Preprocessed) -> None:
    """Of each set in ``SETS``, with the channels of the training's."""
    for test_set, cases in SETS.items():
        folder = data.raw / ("imagesTs" if test_set == "test" else f"imagesTs_{test_set}")
        folder.mkdir(exist_ok=True)
        for source, case in zip(CASES, cases, strict=False):
            for image in (data.raw / "imagesTr").glob(f"{source}_*"):
                read = nibabel.load(image)
                channel = image.name.removeprefix(source)
                cut = read.slicer[2:, :, 1:]  # grids that training has not seen
                nibabel.save(cut, folder / f"{case}{channel}")


MakePrediction = Callable[..., PredictionCall]


@pytest.fixture
def make_prediction(make_call: Callable[..., FoldCall], tmp_path: Path) -> MakePrediction:
    """``make_prediction(data, trainer=…)``: a call with two folds trained for it."""

    def make(
        data: Preprocessed, *, trainer: str = "nnUNetTrainer", **changes: Any
    ) -> PredictionCall:
        add_test_images(data)
        model = tmp_path / "results" / data.dataset_folder.name
        model /= f"{trainer}__nnUNetPlans__3d_fullres"
        model.mkdir(parents=True)
        for fold in (0, 1):
            attempt = tmp_path / f"train-{fold}"
            call = make_call(**data.of_call, trainer=trainer, fold=fold, attempt_folder=attempt)
            outcome = train_fold(call, emit=lambda event: None, clock=time.monotonic)
            outcome.fold_folder.rename(model / f"fold_{fold}")
            for name in ("plans.json", "dataset.json"):
                shutil.copy(outcome.fold_folder.parent / name, model)
        call = PredictionCall(
            trainer=trainer,
            model_folder=model,
            configuration="3d_fullres",
            checkpoints={f: model / f"fold_{f}/checkpoint_final.pth" for f in ("0", "1")},
            raw_folder=data.raw,
            test_sets=SETS,
            output_folder=tmp_path / "test",
            earlier_folders=(),
            device="cpu",
            torch_threads=1,
            tile_step=1.0,
            mirroring=False,
            probabilities=False,
        )
        return replace(call, **changes)

    return make


def predict(
    call: PredictionCall,
    *,
    signal_at: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[bool, list[bool]]:
    """Whether it came to its end, and of each case that it came to whether it was there before."""
    events: list[Any] = []

    def emit(event: Any) -> None:
        events.append(json.loads(json.dumps(event)))
        if signal_at and event.get("case") == signal_at:
            os.kill(os.getpid(), signal.SIGUSR2)

    finished = predict_test_sets(call, emit=emit, clock=clock)
    cases = [event for event in events if event["event"] == "case"]
    assert [event["done"] for event in cases] == list(range(1, len(cases) + 1))
    assert {event["total"] for event in cases} == {3}
    assert finished == (events[-1]["event"] == "case")
    return finished, [event["reused"] for event in cases]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def stock(call: PredictionCall, *, images: Path, output: Path) -> None:
    """nnU-Net's own command with both folds."""
    trainer, plans, configuration = call.model_folder.name.split("__")
    results = call.model_folder.parent.parent
    argv = [str(Path(sys.executable).with_name("nnUNetv2_predict"))]
    argv += ["-i", str(images), "-o", str(output), "-d", call.raw_folder.name]
    argv += ["-tr", trainer, "-p", plans, "-c", configuration, "-f", "0", "1", "-device", "cpu"]
    argv += ["-step_size", str(call.tile_step), "--save_probabilities"]
    argv += [] if call.mirroring else ["--disable_tta"]
    environment = {**os.environ, "nnUNet_results": str(results), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def same_as_stock(call: PredictionCall, *, test_set: str, tmp_path: Path) -> None:
    folder = call.raw_folder / ("imagesTs" if test_set == "test" else f"imagesTs_{test_set}")
    output = tmp_path / f"stock-{test_set}"
    stock(call, images=folder, output=output)
    for case in SETS[test_set]:
        ours = call.output_folder / test_set / case
        found, wanted = (nibabel.load(f"{of}.nii.gz") for of in (ours, output / case))
        assert np.asanyarray(wanted.dataobj).any()
        np.testing.assert_array_equal(found.dataobj, wanted.dataobj)
        np.testing.assert_array_equal(found.affine, wanted.affine)
        soft = [np.load(f"{of}.npz")["probabilities"] for of in (ours, output / case)]
        np.testing.assert_array_equal(*soft)


def test_importing_the_module_imports_no_torch() -> None:
    program = "import sys, ca_hpc.nnunet.prediction; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


def test_two_folds_together_predict_voxel_for_voxel_what_stock_nnunet_does(
    make_prediction: MakePrediction, blobs: Preprocessed, tmp_path: Path
) -> None:
    call = make_prediction(blobs, tile_step=0.5, mirroring=True, probabilities=True)
    assert predict(call) == (True, [False] * 3)
    same_as_stock(call, test_set="test", tmp_path=tmp_path)
    alone = replace(
        call,
        checkpoints={"0": call.checkpoints["0"]},
        output_folder=tmp_path / "alone",
    )
    assert predict(alone)[0]
    soft = [np.load(c.output_folder / "test/far_0.npz")["probabilities"] for c in (call, alone)]
    assert np.abs(soft[0] - soft[1]).max() > 0.01  # the second fold has its say


def test_so_do_regions_with_a_mask_as_second_channel(
    make_prediction: MakePrediction, nested: Preprocessed, tmp_path: Path
) -> None:
    call = make_prediction(nested, probabilities=True)
    assert predict(call) == (True, [False] * 3)
    same_as_stock(call, test_set="clinic", tmp_path=tmp_path)


def test_a_trainer_of_ones_own_predicts_with_its_own_network_as_in_its_validation(
    make_prediction: MakePrediction,
    blobs: Preprocessed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainers = tmp_path / "trainers"
    trainers.mkdir()
    (trainers / "old_ways.py").write_text(OWN_NETWORK)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers))
    call = make_prediction(blobs, trainer="OldWays")
    # not by the stock command: it finds no such trainer where torchvision does not fit torch
    folder = tmp_path / "raw" / blobs.raw.name
    (folder / "imagesTs").mkdir(parents=True)
    validated = sorted(call.model_folder.glob("fold_0/validation/*.nii.gz"))
    for mask in validated:
        image = mask.name.replace(".nii.gz", "_0000.nii.gz")
        shutil.copy(blobs.raw / "imagesTr" / image, folder / "imagesTs" / image)
    alone = replace(
        call,
        checkpoints={"0": call.checkpoints["0"]},
        raw_folder=folder,
        test_sets={"test": [mask.name.removesuffix(".nii.gz") for mask in validated]},
    )
    assert predict_test_sets(alone, emit=lambda event: None, clock=time.monotonic)
    assert len(validated) == 2
    for mask in validated:
        found, wanted = (
            np.asanyarray(nibabel.load(file).dataobj)
            for file in (call.output_folder / "test" / mask.name, mask)
        )
        assert wanted.any()
        np.testing.assert_array_equal(found, wanted)


def test_interrupted_it_goes_on_after_the_last_case_and_ends_with_the_same_files(
    make_prediction: MakePrediction, blobs: Preprocessed, tmp_path: Path
) -> None:
    call = make_prediction(blobs)
    undisturbed = replace(call, output_folder=tmp_path / "undisturbed")
    assert predict(undisturbed) == (True, [False] * 3)
    assert predict(call, signal_at="far_0") == (False, [False])
    second = replace(
        call, output_folder=tmp_path / "attempt-2", earlier_folders=(call.output_folder,)
    )
    assert predict(second, signal_at="far_1") == (False, [True, False])
    assert predict(second, signal_at="near_0") == (True, [True, True, False])  # nothing is left
    assert predict(second) == (True, [True] * 3)
    assert files(second.output_folder) == files(undisturbed.output_folder)
    assert [file.name for file in call.output_folder.rglob("*.nii.gz")] == ["far_0.nii.gz"]


def test_a_job_that_is_about_to_end_predicts_one_case_at_least(
    make_prediction: MakePrediction, blobs: Preprocessed
) -> None:
    call = replace(make_prediction(blobs), ends_at_s=30.0)
    for reused in ([False], [True, False], [True, True, False]):
        finished = len(reused) == 3
        assert predict(call, clock=itertools.count(0.0, 10.0).__next__) == (finished, reused)


def test_killed_while_it_writes_it_leaves_whole_predictions_only(
    make_prediction: MakePrediction, blobs: Preprocessed, tmp_path: Path
) -> None:
    call = make_prediction(blobs)
    undisturbed = replace(call, output_folder=tmp_path / "undisturbed")
    predict(undisturbed)
    program = f"""
import os, signal, time
from pathlib import Path, PosixPath
from ca_hpc.nnunet import sliding_window
from ca_hpc.nnunet.calls import PredictionCall
from ca_hpc.nnunet.prediction import predict_test_sets
write = sliding_window.export_prediction_from_logits

def die(*arguments, **options):
    write(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

sliding_window.export_prediction_from_logits = die
predict_test_sets({call!r}, emit=lambda event: None, clock=time.monotonic)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert list(call.output_folder.rglob(".partial-*"))
    assert list(call.output_folder.rglob("[!.]*.nii.gz")) == []
    assert predict(call) == (True, [False] * 3)
    assert files(call.output_folder) == files(undisturbed.output_folder)


def test_predictions_by_fewer_folds_or_of_another_tiling_are_made_again(
    make_prediction: MakePrediction, blobs: Preprocessed, tmp_path: Path
) -> None:
    call = make_prediction(blobs)
    fewer = replace(call, checkpoints={"0": call.checkpoints["0"]}, output_folder=tmp_path / "few")
    assert predict(fewer) == (True, [False] * 3)
    call = replace(call, earlier_folders=(fewer.output_folder,))
    assert predict(call) == (True, [False] * 3)
    few, both = fewer.output_folder, call.output_folder
    assert outdated(few, by=both) and not outdated(both, by=few)
    part = tmp_path / "part"
    shutil.copytree(both, part)
    assert not outdated(both, by=part)
    (part / "test" / "far_1.nii.gz").unlink()
    assert outdated(part, by=both) and not outdated(both, by=part)
    assert predict(replace(call, mirroring=True)) == (True, [False] * 3)
    assert predict(replace(call, mirroring=True)) == (True, [True] * 3)
    assert predict(replace(call, mirroring=True, probabilities=True)) == (True, [False] * 3)
    assert predict(call) == (True, [False] * 3)
    assert list(call.output_folder.rglob("*.npz")) == []


def test_an_image_that_is_gone_is_named(
    make_prediction: MakePrediction, blobs: Preprocessed
) -> None:
    call = make_prediction(blobs, test_sets={"test": ["far_0", "lost"], "clinic": ["near_0"]})
    with pytest.raises(CaHpcError, match=r"There is no .*imagesTs/lost_0000\.nii\.gz"):
        predict(call)
