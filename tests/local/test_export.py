"""An exported model: stock nnU-Net installs it and predicts with it what the run's own did."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from ca_hpc.actions.export import Exported, export
from ca_hpc.actions.weights import Addition, add
from ca_hpc.core.model import Pin, Runtime
from ca_hpc.errors import CaHpcError, TaskFailed
from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.nnunet.checkpoints import weights_sha256
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.weights.checkpoint import read_checkpoint
from ca_hpc.weights.store import WeightStore
from tests.checkpoints import network_of, write_checkpoint
from tests.local_runs import JOB, status, submit, until

TWO_ARMS = """arms:
  finetune: {weights: pretrained, plans: model}
  other: {weights: random, plans: model}
threads: 1
"""

AS_IT_IS = """arms:
  as-it-is: {weights: pretrained, plans: model, head: pretrained, epochs: 0}
threads: 1
"""


def make(run: RunFolder, **options: object) -> Exported:
    arguments = {"arm": "finetune", "say": print, **options}
    return export(run, environment=dict(os.environ), **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two arms of which one has published its folds 0 and 1 of 0, 1 and 2, the other none."""
    here = tmp_path_factory.mktemp("export")
    write_checkpoint(here / "pretrained.pth", model="demo")
    write_dataset(here / "data", people=4, seed=9, contrasts=("T2starw",))
    job = JOB.replace("arms: {scratch: {weights: random, plans: model}}\n", TWO_ARMS)
    job = job.replace("folds: [0]", "folds: [0, 1, 2]")
    job = job.replace("weights: null", "weights: pretrained.pth")
    path = submit(here, job)
    until(lambda: status(path)["ended"], seconds=600, what="the run did not end")
    run = RunFolder.open(path)
    assert [fold for fold, _ in run.folds("finetune")] == ["0", "1", "2"]
    shutil.rmtree(next(folder for fold, folder in run.folds("finetune") if fold == "2"))
    shutil.rmtree(run.results("other"))
    return run


@pytest.fixture(scope="module")
def exported(run: RunFolder) -> Exported:
    return make(run)


def names(run: RunFolder) -> list[str]:
    return [file.name for file in run.file("exports").iterdir() if file.name != ".lock"]


def test_published_folds_are_exported_and_missing_ones_told(
    run: RunFolder, exported: Exported
) -> None:
    assert exported.file == run.path / f"exports/{run.path.name}-finetune.zip"
    assert (exported.folds, exported.missing) == (("0", "1"), ("2",))
    assert exported.sha256 == sha256_file(exported.file)
    assert names(run) == [exported.file.name]
    ((_, folder), *_) = run.folds("finetune")
    model = f"{folder.parent.parent.name}/{folder.parent.name}"
    with zipfile.ZipFile(exported.file) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            f"{model}/{name}"
            for name in (
                "README.md",
                "dataset.json",
                "dataset_fingerprint.json",
                "fold_0/checkpoint_final.pth",
                "fold_1/checkpoint_final.pth",
                "plans.json",
            )
        ]
        assert json.loads(archive.read(f"{model}/dataset.json"))["image_orientation"] == "RPI"


def stock(command: str, *arguments: str | Path, results: Path) -> None:
    """One of nnU-Net's own commands, on one thread as the run was."""
    program = Path(sys.executable).with_name(command)
    environment = {**os.environ, "nnUNet_results": str(results), "OMP_NUM_THREADS": "1"}
    argv = [str(program), *map(str, arguments)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def same_mask(found: Path, wanted: Path) -> None:
    assert np.asanyarray(nibabel.load(wanted).dataobj).any()
    np.testing.assert_array_equal(nibabel.load(found).dataobj, nibabel.load(wanted).dataobj)
    np.testing.assert_array_equal(nibabel.load(found).affine, nibabel.load(wanted).affine)


def test_stock_nnunets_own_commands_install_it_and_predict_the_same_masks(
    run: RunFolder, exported: Exported, tmp_path: Path
) -> None:
    dataset = run.cases.dataset
    results = tmp_path / "results"
    results.mkdir()
    stock("nnUNetv2_install_pretrained_model_from_zip", exported.file, results=results)
    for fold, folder in run.folds("finetune"):
        trainer, plans, configuration = folder.parent.name.split("__")
        images, output = tmp_path / f"images{fold}", tmp_path / fold
        images.mkdir()
        own = sorted(folder.glob("validation/*.nii.gz"))
        for mask in own:
            image = mask.name.replace(".nii.gz", "_0000.nii.gz")
            shutil.copyfile(run.raw / dataset / "imagesTr" / image, images / image)
        named = ("-d", dataset, "-tr", trainer, "-p", plans, "-c", configuration, "-f", fold)
        how = ("-device", "cpu", "--disable_tta", "-step_size", "1.0")
        stock("nnUNetv2_predict", "-i", images, "-o", output, *named, *how, results=results)
        assert own
        for mask in own:
            same_mask(output / mask.name, mask)


def test_read_back_it_predicts_the_same_masks_through_ca_hpc(
    run: RunFolder, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = WeightStore(tmp_path / "store")
    monkeypatch.setenv("CA_HPC_STORE", str(store.root))
    for fold in ("0", "1"):
        entry = add(
            Addition(str(exported.file), fold=fold),
            store=store,
            here=tmp_path,
            now=None,
            say=print,
            progress=lambda done, total: None,
        )
        job = JOB.replace("arms: {scratch: {weights: random, plans: model}}\n", AS_IT_IS)
        job = job.replace("model: demo\n", "").replace("folds: [0]", f"folds: [{fold}]")
        job = job.replace("weights: null", f"weights: sha256:{entry.manifest.sha256[:12]}")
        job = job.replace("path: data", f"path: {run.spec.data[0].path}")
        job = job.replace("plans: {patch_size: {RL: 16, AP: 24, SI: 32}}\n", "")
        again = RunFolder.open(submit(tmp_path, job))
        until(lambda again=again: status(again.path)["ended"], seconds=600, what="it goes on")
        ((_, found),) = again.folds("as-it-is")
        wanted = sorted(dict(run.folds("finetune"))[fold].glob("validation/*.nii.gz"))
        assert wanted
        for mask in wanted:
            same_mask(found / "validation" / mask.name, mask)


def test_the_spinal_cord_toolbox_finds_one_model_with_its_folds(
    exported: Exported, tmp_path: Path
) -> None:
    with zipfile.ZipFile(exported.file) as archive:
        archive.extractall(tmp_path)
    # as spinalcordtoolbox/deepseg/nnunet.py, create_nnunet_from_plans, looks for them
    (dataset,) = tmp_path.iterdir()
    (model,) = dataset.glob("nnUNetTrainer*")
    assert sorted(int(path.name.split("_")[-1]) for path in model.glob("fold_*")) == [0, 1]
    assert {path.name for path in model.glob("**/checkpoint_*.pth")} == {"checkpoint_final.pth"}


def test_a_checkpoint_is_half_as_large_and_holds_the_same_weights(
    run: RunFolder, exported: Exported, tmp_path: Path
) -> None:
    _, folder = next(run.folds("finetune"))
    original = folder / "checkpoint_final.pth"
    with zipfile.ZipFile(exported.file) as archive:
        name = next(name for name in archive.namelist() if name.endswith(original.name))
        reduced = Path(archive.extract(name, tmp_path))
    ratio = reduced.stat().st_size / original.stat().st_size
    assert 0.45 < ratio < 0.6
    before = torch.load(original, weights_only=False)
    after = torch.load(reduced, weights_only=True)  # without an exception for numpy
    assert after["network_weights"].keys() == before["network_weights"].keys()
    for name, tensor in before["network_weights"].items():
        assert torch.equal(after["network_weights"][name], tensor)
    for key in ("trainer_name", "current_epoch", "inference_allowed_mirroring_axes"):
        assert after[key] == before[key]
    assert after["init_args"] == {k: v for k, v in before["init_args"].items() if k != "device"}


def test_it_is_read_back_as_pretrained_weights(
    run: RunFolder, exported: Exported, tmp_path: Path
) -> None:
    entry = add(
        Addition(str(exported.file), fold="1"),
        store=WeightStore(tmp_path),
        here=tmp_path,
        now="2026-01-01T00:00:00",
        say=print,
        progress=lambda done, total: None,
    )
    manifest = entry.manifest
    assert manifest.source.sha256 == exported.sha256
    assert (manifest.family, manifest.trainer, manifest.left_out) == (
        "nnU-Net",
        "nnUNetTrainer",
        (),
    )
    assert manifest.trained_on.orientation == "RPI"
    own, trained = manifest.network, network_of("demo")
    assert own is not None
    assert own.axes == trained.axes
    assert own.arch_kwargs["strides"] == trained.arch_kwargs["strides"]
    assert (own.patch_size.RL, own.patch_size.AP, own.patch_size.SI) == (16, 24, 32)
    folder = dict(run.folds("finetune"))["1"]
    assert weights_sha256(as_torch(read_checkpoint(entry.file).tensors)) == weights_sha256(
        as_torch(read_checkpoint(folder / "checkpoint_final.pth").tensors)
    )


def test_nothing_private_is_inside(run: RunFolder, exported: Exported) -> None:
    text = "\n".join(readable(exported.file))
    private = [str(run.path.parent), socket.gethostname(), str(Path.home()), sys.prefix]
    private += [case.id for case in run.cases.cases]
    private += [case.subject for case in run.cases.cases]
    assert [word for word in private if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)] == []


def readable(file: Path) -> Iterator[str]:
    """All of a zip but the tensors' values, which can hold any short word by chance."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            yield name
            if not name.endswith(".pth"):
                yield archive.read(name).decode()
                continue
            with archive.open(name) as stream, zipfile.ZipFile(stream) as checkpoint:
                for inner in checkpoint.namelist():
                    yield inner
                    if "/data/" not in inner:
                        yield checkpoint.read(inner).decode("latin-1")


def test_equal_runs_give_equal_bytes(run: RunFolder, exported: Exported, tmp_path: Path) -> None:
    again = make(run, output=tmp_path)
    assert again.file == tmp_path / exported.file.name
    assert again.sha256 == exported.sha256


def test_the_card_tells_what_the_model_is_and_how_good(run: RunFolder, exported: Exported) -> None:
    with zipfile.ZipFile(exported.file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("README.md"))
        card = archive.read(name).decode()
    _, folder = next(run.folds("finetune"))
    summary = json.loads((folder / "validation/summary.json").read_text())
    dice = summary["foreground_mean"]["Dice"]
    assert f"| 0 | {dice:.4f} | {len(summary['metric_per_case'])} |" in card
    assert "| patch, voxels | RL 16, AP 24, SI 32 |" in card
    assert "| orientation (SCT's code) | RPI |" in card
    assert "-f 0 1 -chk checkpoint_final.pth" in card
    pretrained = run.path.parent.parent / "pretrained.pth"
    assert f"| read from | pretrained.pth, sha256:{sha256_file(pretrained)} |" in card
    assert "| licence | not known: ask its authors" in card
    assert "trainer_class.py" not in card


def test_some_folds_and_the_best_checkpoint_have_a_name_of_their_own(
    run: RunFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    made = make(run, folds=[1], checkpoint="best", output=tmp_path, say=told.append)
    assert made.file.name == f"{run.path.name}-finetune-fold1-best.zip"
    assert (made.folds, made.missing) == (("1",), ("0", "2"))
    assert told == ["fold 1: 1 of 1"]
    with zipfile.ZipFile(made.file) as archive:
        assert [n for n in archive.namelist() if n.endswith("fold_1/checkpoint_best.pth")]
        card = next(name for name in archive.namelist() if name.endswith("README.md"))
        assert "Of checkpoint_final.pth; this zip holds checkpoint_best.pth" in (
            archive.read(card).decode()
        )


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"arm": None}, "has the arms finetune, other", "--arm finetune"),
        ({"arm": "control"}, "there is no arm control", "known: finetune, other"),
        ({"arm": "other"}, "has not published any fold of arm other; published: none", "status"),
        ({"folds": [0, 2]}, "has not published fold 2 of arm finetune; published: 0, 1", "status"),
    ],
)
def test_what_cannot_be_exported_is_explained(
    run: RunFolder, options: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(CaHpcError) as refused:
        make(run, **options)
    assert message in refused.value.message
    assert hint in (refused.value.hint or "")


def test_a_file_of_the_same_name_stays(run: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine.zip"
    mine.write_text("mine")
    with pytest.raises(CaHpcError, match="is there already"):
        make(run, output=mine)
    with pytest.raises(CaHpcError, match="there is no folder"):
        make(run, output=tmp_path / "none" / "mine.zip")
    assert mine.read_text() == "mine"


@pytest.fixture
def copy(run: RunFolder, tmp_path: Path) -> RunFolder:
    """The same run, to break something in."""
    return RunFolder.open(shutil.copytree(run.path, tmp_path / run.path.name))


def test_a_damaged_checkpoint_is_named_and_nothing_is_left(copy: RunFolder, tmp_path: Path) -> None:
    _, folder = next(copy.folds("finetune"))
    file = folder / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(TaskFailed, match=str(file)):
        make(copy, output=tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()
    assert ".making" not in str(list(copy.file("exports").iterdir()))


def test_a_machine_without_the_runs_runtime_is_told_so(copy: RunFolder, tmp_path: Path) -> None:
    image = tmp_path / "train.sif"
    image.write_bytes(b"an image")
    runtime = Runtime("apptainer", "python3", Pin(str(image), sha256_file(image)), "no-apptainer")
    copy.write("workflow.json", replace(copy.workflow, runtime=runtime))
    with pytest.raises(CaHpcError, match="no-apptainer") as refused:
        make(copy)
    assert "module load apptainer" in (refused.value.hint or "")


LIMITED = """
import os, resource, sys
from pathlib import Path
from ca_hpc.actions.export import export
from ca_hpc.store.run_folder import RunFolder
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
export(RunFolder(Path(sys.argv[1])), arm="finetune", environment=dict(os.environ), say=print)
"""


def test_a_disk_that_gets_full_is_told(copy: RunFolder) -> None:
    shutil.rmtree(copy.file("exports"), ignore_errors=True)
    (copy.file("exports") / ".making-before").mkdir(parents=True)  # left by one that was killed
    # the kernel refuses what goes beyond the limit, as it does on a full disk
    argv = [sys.executable, "-c", LIMITED, str(copy.path)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=300)
    assert "model.zip cannot be written: File too large" in done.stderr
    assert names(copy) == []
