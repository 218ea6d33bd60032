"""Weights that are sound and do not fit: refused at submission, without torch, in under a second.

Each case is a job of its own in a folder of its own; one process without torch submits and
validates them all. The broken files are in ``test_bad_weights.py``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from ca_hpc.core.profile import Network
from ca_hpc.weights.safetensors_file import write
from ca_hpc.weights.store import WeightStore
from ca_hpc.weights.tensors import Tensor
from ca_hpc.weights.topology import canonical_name, tensor_shapes
from tests.checkpoints import network_of, store_zeros

GENUINE: Final = Path(__file__).parents[2] / "fixtures" / "checkpoints"
UNETS: Final = "dynamic_network_architectures.architectures.unet."
JOB: Final[dict[str, Any]] = {
    "kind": "finetune",
    "name": "neck",
    # its sbatch is not here: a job that is not refused ends with 4
    "cluster": "lab",
    "runtime": "none",
    "data": [{"type": "bids", "path": "../bids", "label_suffix": "_seg"}],
    "weights": "weights.safetensors",
    "splits": {"folds": 2},
}
TWO_CHANNELS: Final = [{"type": "nnunet", "path": "../raw"}]
FINETUNE: Final[dict[str, Any]] = {"finetune": {}}


def zeros(network: Network, file: Path, *, channels: int = 1, heads: int | None = 2) -> None:
    """Weights of a network, all zero, under every name that nnU-Net's file has."""
    shapes = tensor_shapes(
        network.arch_kwargs,
        network_class_name=network.network_class_name,
        channels=channels,
        heads=heads or 1,
    )
    assert shapes is not None
    tensors: dict[str, Tensor] = {}

    def tensor(shape: tuple[int, ...]) -> Tensor:
        values = memoryview(bytes(4 * int(np.prod(shape))))
        return Tensor("float32", shape, lambda: values)

    for name, shape in shapes.items():
        tensors.setdefault(canonical_name(name), tensor(shape))
    kept = [name for name in shapes if heads or ".seg_layers." not in name]
    write(file, {name: tensors[canonical_name(name)] for name in kept})


def demo(**arch_kwargs: Any) -> Network:
    """The network of the model ``demo`` with something else in it."""
    network = network_of("demo")
    kwargs = {k: v for k, v in {**network.arch_kwargs, **arch_kwargs}.items() if v != "left out"}
    return dataclasses.replace(network, arch_kwargs=kwargs)


def residual() -> Network:
    network = demo(n_conv_per_stage="left out", n_blocks_per_stage=[1, 2, 2, 2])
    return dataclasses.replace(network, network_class_name=UNETS + "ResidualEncoderUNet")


def released(**arch_kwargs: Any) -> Network:
    """The network of contrast-agnostic v2 with something else in it."""
    network = network_of("contrast-agnostic-v2")
    return dataclasses.replace(network, arch_kwargs={**network.arch_kwargs, **arch_kwargs})


def flat() -> Network:
    """The 2D network of the same plans."""
    return demo(
        conv_op="torch.nn.modules.conv.Conv2d",
        norm_op="torch.nn.modules.instancenorm.InstanceNorm2d",
        kernel_sizes=[[3, 3]] * 4,
        strides=[[1, 1], [2, 2], [2, 2], [2, 2]],
    )


Make = Callable[[Path], object]


def of(network: Network, **options: Any) -> Make:
    return lambda folder: zeros(network, folder / "weights.safetensors", **options)


def genuine(name: str = "2.8.1-ExperimentPlanner.pth") -> Make:
    """A checkpoint of nnU-Net's own: three stages of 2, 4 and 4 features at 1 mm."""
    return lambda folder: shutil.copy(GENUINE / name, folder / "weights.pth")


def archive(folder: Path) -> None:
    zeros(demo(), folder / "weights.safetensors")
    with zipfile.ZipFile(folder / "model.zip", "w") as packed:
        packed.write(folder / "weights.safetensors", "model/weights.safetensors")


def profile(network: Network, **changes: Any) -> Make:
    """A model profile of one's own, ``mine.yaml``."""

    def make(folder: Path) -> None:
        described = dataclasses.asdict(network)
        text = json.dumps({"name": "mine", "network": described, **changes})
        (folder / "mine.yaml").write_text(text)

    return make


def both(*makes: Make) -> Make:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def kept(folder: Path) -> None:
    store_zeros(WeightStore(folder / "store"), model="demo", work=folder)


def damaged(folder: Path) -> None:
    entry = store_zeros(WeightStore(folder / "store"), model="demo", work=folder)
    with entry.file.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\1")


@dataclass(frozen=True)
class Misfit:
    """``make(folder)`` writes the files; ``job``: keys over those of ``JOB``.

    ``told`` and ``way_out`` are in the message and the hint; ``code`` is what the shell sees.
    """

    make: Make
    told: str
    way_out: str
    job: Mapping[str, Any] = field(default_factory=dict)
    code: int = 2


DEMO: Final = {"model": "demo"}
PTH: Final = {"weights": "weights.pth"}

MISFITS: Final[dict[str, Misfit]] = {
    # --- channels ---
    "more channels in the images": Misfit(
        of(demo()),
        "the images have 2 channels, the weights 1 (first layer)",
        "stem: repeat",
        DEMO | {"data": TWO_CHANNELS},
    ),
    "more channels in the weights": Misfit(
        of(demo(), channels=2),
        "the weights have 2 input channels, the images 1",
        "give each case all channels, in the order of the pretraining",
        DEMO,
    ),
    "stem: repeat does not make channels fewer": Misfit(
        of(demo(), channels=3),
        "the weights have 3 input channels, the images 2",
        "give each case all channels",
        DEMO | {"data": TWO_CHANNELS, "stem": "repeat"},
    ),
    # --- topology ---
    "v3.0 with the profile of v2": Misfit(
        of(released(strides=[[1, 1, 1], *[[2, 2, 2]] * 4, [2, 2, 1]])),
        "1 of 98 tensors differs, first decoder.transpconvs.0.weight: (320, 320, 2, 2, 1) in the "
        "file, (320, 320, 1, 2, 2) in the network",
        "name the profile that these weights belong to",
        {"model": "contrast-agnostic-v2"},
    ),
    "v2.5 with the profile of v2": Misfit(
        of(released(features_per_stage=[32, 64, 128, 256, 384, 384])),
        "first encoder.stages.4.0.convs.0.conv.weight: (384, 256, 3, 3, 3) in the file, "
        "(320, 256, 3, 3, 3) in the network",
        "name the profile",
        {"model": "contrast-agnostic-v2"},
    ),
    "fewer stages": Misfit(
        of(
            demo(
                n_stages=3,
                features_per_stage=[8, 16, 32],
                kernel_sizes=[[3, 3, 3]] * 3,
                strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                n_conv_per_stage=[2, 2, 2],
                n_conv_per_stage_decoder=[2, 2],
            )
        ),
        "first encoder.stages.3.0.convs.0.conv.weight: missing in the file",
        "name the profile",
        DEMO,
    ),
    "more stages": Misfit(
        of(
            demo(
                n_stages=5,
                features_per_stage=[8, 16, 32, 64, 64],
                kernel_sizes=[[3, 3, 3]] * 5,
                strides=[[1, 1, 1], *[[2, 2, 2]] * 4],
                n_conv_per_stage=[2] * 5,
                n_conv_per_stage_decoder=[2] * 4,
            )
        ),
        "; encoder.stages.4.0.convs.0.conv.bias is in the file only",
        "name the profile",
        DEMO,
    ),
    "one convolution more": Misfit(
        of(demo(n_conv_per_stage=[2, 2, 2, 3])),
        "the network of demo: encoder.stages.3.0.convs.2.conv.bias is in the file only",
        "name the profile",
        DEMO,
    ),
    "ResEnc weights with a plain profile": Misfit(
        of(residual()),
        "first encoder.stages.0.0.convs.0.conv.weight: missing in the file, (8, 1, 3, 3, 3) in "
        "the network; encoder.stages.0.blocks.0.conv1.conv.bias is in the file only",
        "name the profile",
        DEMO,
    ),
    "plain weights with a ResEnc profile": Misfit(
        both(of(demo()), profile(residual())),
        "do not fit the network of mine: ",
        "name the profile",
        {"model": "mine.yaml"},
    ),
    "a genuine ResEnc checkpoint with a plain profile": Misfit(
        genuine("2.8.1-nnUNetPlannerResEncL.pth"),
        "first encoder.stages.0.0.convs.0.conv.weight: missing in the file",
        "leave `model` out, to take the network from the weights",
        DEMO | PTH,
    ),
    "other kernels": Misfit(
        of(demo(kernel_sizes=[[1, 3, 3], *[[3, 3, 3]] * 3])),
        "first encoder.stages.0.0.convs.0.conv.weight: (8, 1, 1, 3, 3) in the file",
        "name the profile",
        DEMO,
    ),
    "convolutions without a bias": Misfit(
        of(demo(conv_bias=False)),
        "first encoder.stages.0.0.convs.0.conv.bias: missing in the file",
        "name the profile",
        DEMO,
    ),
    "batch normalisation": Misfit(
        of(demo(norm_op="torch.nn.modules.batchnorm.BatchNorm3d")),
        "encoder.stages.0.0.convs.0.norm.num_batches_tracked is in the file only",
        "name the profile",
        DEMO,
    ),
    "a 2D network": Misfit(
        of(flat()),
        "weights.safetensors: the weights belong to a 2D network",
        "give a checkpoint of a 3d_fullres training",
    ),
    # --- the head ---
    "a head with other labels": Misfit(
        of(demo()),
        "arms.keep keeps the weights' head, which has 2 outputs; 2 labels and the background "
        "need 3",
        "head: new, or the labels of the pretraining",
        DEMO | {"arms": {"keep": {"head": "pretrained"}}, "labels": {"cord": 1, "lesion": 2}},
    ),
    "a head of one soft output": Misfit(
        of(demo(), heads=1),
        "which has 1 output; 1 label and the background need 2",
        "head: new",
        DEMO | {"arms": {"keep": {"head": "pretrained", "epochs": 0}}},
    ),
    "no head to keep": Misfit(
        of(demo(), heads=None),
        "which has no outputs; 1 label and the background need 2",
        "head: new",
        DEMO | {"arms": {"keep": {"head": "pretrained"}}},
    ),
    # --- patch and spacing ---
    "a patch that the checkpoint's network cannot take": Misfit(
        genuine(),
        "plans.patch_size {RL: 10, AP: 32, SI: 32} does not fit the network: it must be "
        "divisible, RL by 4, AP by 4, SI by 4",
        "patch_size: {RL: 12, AP: 32, SI: 32}",
        PTH | {"plans": {"patch_size": {"RL": 10, "AP": 32, "SI": 32}}},
    ),
    "a patch that leaves one voxel": Misfit(
        genuine("2.0-ResEncUNetPlanner.pth"),
        "more than one voxel must be left at the bottleneck",
        "patch_size: {RL: 8, AP: 4, SI: 4}",
        PTH | {"plans": {"patch_size": {"RL": 4, "AP": 4, "SI": 4}}},
    ),
    "a patch that the profile's network cannot take": Misfit(
        of(demo()),
        "plans.patch_size {RL: 60, AP: 48, SI: 64} does not fit the network",
        "patch_size: {RL: 64, AP: 48, SI: 64}",
        DEMO | {"plans": {"patch_size": {"RL": 60, "AP": 48, "SI": 64}}},
    ),
    "the model's spacing, which nobody knows": Misfit(
        of(demo()),
        "plans.spacing: model, but it is not known at which spacing demo was trained",
        "spacing: dataset, or mm by axis: {RL: 1, AP: 1, SI: 1}",
        DEMO | {"plans": {"spacing": "model"}},
    ),
    # --- what the weights do not say ---
    "tensors alone": Misfit(
        of(demo()),
        "do not say on which axes they were trained",
        "their tensors fit demo: model: demo, if they are that",
    ),
    "tensors alone with a profile that has no network": Misfit(
        of(released()),
        "profile contrast-agnostic-v3 leaves its network to the weights, and weights ",
        "model: ",
        {"model": "contrast-agnostic-v3"},
    ),
    # --- names ---
    "a profile that does not exist": Misfit(
        kept,
        "no model profile contrast-agnostic-v9; known: contrast-agnostic-v2, ",
        "name a known profile, or the path of a .yaml file of your own",
        {"weights": "contrast-agnostic-v9"},
    ),
    "a model that does not exist": Misfit(
        of(demo()), "no model profile demp; known: ", "name a known profile", {"model": "demp"}
    ),
    "a profile that was not added": Misfit(
        kept,
        "no weights contrast-agnostic-v2 in ",
        "ca-hpc weights add FILE --profile contrast-agnostic-v2",
        {"weights": "contrast-agnostic-v2"},
    ),
    "a profile with an address that was not added": Misfit(
        kept,
        "no weights contrast-agnostic-v3 in ",
        "ca-hpc weights add contrast-agnostic-v3",
        {"weights": "contrast-agnostic-v3"},
    ),
    "a profile of one's own that was not added": Misfit(
        both(kept, profile(demo())),
        "no weights mine.yaml in ",
        "ca-hpc weights add FILE --profile mine.yaml",
        {"weights": "mine.yaml"},
    ),
    "a sha256 that is nowhere": Misfit(
        kept,
        f"no weights sha256:{'ab' * 32} in ",
        "ca-hpc weights add FILE",
        {"weights": f"sha256:{'ab' * 32}", **DEMO},
    ),
    "too few digits of a sha256": Misfit(
        kept,
        "sha256:000000: too short",
        "give 8 digits or more",
        {"weights": "sha256:000000", **DEMO},
    ),
    "those of an image, without an image": Misfit(
        of(demo()),
        "weights: image, but the image carries none",
        "ca-hpc image build --weights",
        {"weights": "image", **DEMO},
    ),
    "a file that does not exist": Misfit(
        lambda folder: None, "weights.pth do not exist", "give a checkpoint file", PTH | DEMO
    ),
    "an archive": Misfit(
        archive,
        "model.zip are an archive, a job needs one checkpoint",
        "model.zip, which ends with what to write here",
        {"weights": "./model.zip", **DEMO},
    ),
    "a folder": Misfit(
        both(archive, lambda folder: (folder / "nnUNetTrainer__nnUNetPlans__3d_fullres").mkdir()),
        "nnUNetTrainer__nnUNetPlans__3d_fullres are a folder, a job needs one checkpoint",
        "ca-hpc weights add ",
        {"weights": "./nnUNetTrainer__nnUNetPlans__3d_fullres", **DEMO},
    ),
    "kept weights that were changed": Misfit(
        damaged,
        "its manifest says sha256:",
        "add the weights again: ca-hpc weights add",
        {"weights": "demo"},
        code=3,
    ),
    # --- the job itself ---
    "a crop to a label that there is not": Misfit(
        of(demo()),
        "crop.to: no label sc; labels: cord",
        "ca-hpc validate",
        DEMO | {"crop": {"to": "sc"}},
    ),
    "a trainer that names other epochs": Misfit(
        of(demo()),
        "nnUNetTrainer_250epochs",
        "ca-hpc validate",
        DEMO | {"training": {"trainer": "nnUNetTrainer_250epochs"}, "arms": FINETUNE},
    ),
    "a warm-up as long as the training": Misfit(
        of(demo()),
        "arms.finetune: 5 warmup_epochs leave none of 5 epochs to train",
        "ca-hpc validate",
        DEMO | {"arms": {"finetune": {"epochs": 5, "warmup_epochs": 5}}},
    ),
    "a frozen encoder of random weights": Misfit(
        of(demo()),
        "arms.scratch freezes an encoder of random weights",
        "ca-hpc validate",
        DEMO
        | {
            "arms": {
                "scratch": {"weights": "random", "plans": "planner", "frozen_encoder_epochs": 5}
            }
        },
    ),
    "a head of random weights": Misfit(
        of(demo()),
        "head: pretrained, but its weights are random",
        "ca-hpc validate",
        DEMO | {"arms": {"scratch": {"weights": "random", "head": "pretrained"}}},
    ),
}

SUBMITTING: Final = """
import contextlib, io, json, os, sys, time
from ca_hpc import cli

def call(*arguments):
    sys.argv = ["ca-hpc", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    start = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return [code, out.getvalue(), err.getvalue(), time.process_time() - start]

told = {}
for folder in json.load(sys.stdin):
    os.chdir(folder)
    os.environ["CA_HPC_STORE"] = os.path.join(folder, "store")
    told[folder] = [call("submit", "job.yaml"), call("validate", "job.yaml")]
json.dump([told, sorted({"torch", "nnunetv2"} & set(sys.modules))], sys.stdout)
"""


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str
    seconds: float


def job_folder(folder: Path, make: Make, keys: Mapping[str, Any]) -> Path:
    folder.mkdir()
    make(folder)
    job = {key: value for key, value in (JOB | dict(keys)).items() if value is not None}
    (folder / "job.yaml").write_text(json.dumps(job, indent=1))
    return folder


def lay_data(folder: Path) -> None:
    """Two people, each with an image; and the same with two channels. Names only."""
    for person in ("01", "02"):
        for name in (
            f"bids/sub-{person}/anat/sub-{person}_T2w.nii.gz",
            f"bids/derivatives/labels/sub-{person}/anat/sub-{person}_T2w_seg.nii.gz",
            f"raw/imagesTr/p{person}_0000.nii.gz",
            f"raw/imagesTr/p{person}_0001.nii.gz",
            f"raw/labelsTr/p{person}.nii.gz",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    (folder / "raw" / "dataset.json").write_text('{"labels": {"background": 0, "cord": 1}}')


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Told, Told]]:
    """What ``submit`` and ``validate`` say to each of the jobs."""
    root = tmp_path_factory.mktemp("misfits")
    lay_data(root)
    folders = {
        name: str(job_folder(root / f"job{i}", case.make, case.job))
        for i, (name, case) in enumerate(MISFITS.items())
    }
    done = subprocess.run(
        [sys.executable, "-c", SUBMITTING],
        input=json.dumps(list(folders.values())),
        env={"PATH": str(root / "nothing"), "XDG_CACHE_HOME": str(root / "cache")},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    told, heavy = json.loads(done.stdout)
    assert heavy == []
    return {
        name: (Told(*told[folder][0]), Told(*told[folder][1])) for name, folder in folders.items()
    }


@pytest.mark.parametrize("name", MISFITS)
def test_weights_that_do_not_fit_are_refused_before_submission(
    answers: dict[str, tuple[Told, Told]], name: str
) -> None:
    case, (submitted, validated) = MISFITS[name], answers[name]
    assert submitted.code == case.code, submitted.err
    error, hint = submitted.err.rstrip("\n").rsplit("\nhint: ", 1)
    assert error.startswith("error: ")
    assert case.told in error
    assert case.way_out in hint
    assert len(submitted.err.splitlines()) <= 4
    assert "Traceback" not in submitted.err and submitted.out == ""
    assert (validated.code, validated.err) == (submitted.code, submitted.err)


def test_that_takes_less_than_a_second(answers: dict[str, tuple[Told, Told]]) -> None:
    """Two of them have the size of the released weights, 123 MB."""
    slow = {name: told[0].seconds for name, told in answers.items() if told[0].seconds >= 1}
    assert not slow


def test_nothing_is_written_for_a_job_that_is_refused(
    answers: dict[str, tuple[Told, Told]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert len(answers) >= 40
    made = [p for p in tmp_path_factory.getbasetemp().rglob("ca-hpc-runs") if p.is_dir()]
    assert not [folder for folder in made if folder.parent.name.startswith("job")]


# --- what is allowed, and told -------------------------------------------------------------------


@dataclass(frozen=True)
class Odd:
    """A job that fits, with something in it that is seldom meant."""

    told: str
    job: Mapping[str, Any]
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    network: Network = field(default_factory=demo)


AT_1MM: Final = {"spacing": {"RL": 1, "AP": 1, "SI": 1}}

ODDITIES: Final[dict[str, Odd]] = {
    "1000 epochs": Odd(
        "arms.finetune: 1000 epochs; pretrained weights have been trained already, and the "
        "transfer-learning guide asks for fewer than 1000",
        {"training": {"epochs": 1000}},
    ),
    "many epochs of one arm": Odd(
        "arms.long: 2000 epochs; ",
        {"arms": {"short": {}, "long": {"epochs": 2000}}},
    ),
    "whole images for cropped weights": Odd(
        "crop: the weights were trained on images cut to cord, these are whole; "
        "`crop: {to: cord, margin: 20mm}` cuts them",
        {},
        {"crop": {"to": "cord", "margin": "20mm"}},
    ),
    "cropped images for weights of whole ones": Odd(
        "crop: the images are cut to cord, the weights were trained on whole ones; `crop: none` "
        "leaves them whole",
        {"crop": {"to": "cord"}},
        {"crop": "none"},
    ),
    "the planner's spacing": Odd(
        "plans.spacing: the weights were trained at 1 x 1 x 1 mm (RL x AP x SI), the planner will "
        "choose by the data; `spacing: model` keeps theirs",
        {"plans": {"spacing": "dataset"}},
        AT_1MM,
    ),
    "another spacing": Odd(
        "plans.spacing: the weights were trained at 1 x 1 x 1 mm (RL x AP x SI), other than here; "
        "`spacing: model` keeps theirs",
        {"plans": {"spacing": {"RL": 1, "AP": 0.5, "SI": 1}}},
        AT_1MM,
    ),
    "another orientation": Odd(
        "the weights were trained on images in LAI, and here every image is brought to RPI: left "
        "and right are, front and back are the other way round",
        {},
        {"orientation": "LAI"},
    ),
    "axes of the recipe": Odd(
        "plans.axes: recipe leaves the axes to the planner; the weights were trained on RL, AP, "
        "SI, which no planner chooses; `axes: anatomical` keeps them",
        {"plans": {"axes": "recipe"}},
    ),
    "axes of the recipe for weights that a planner laid": Odd(
        "the weights were trained on SI, AP, RL; `axes: anatomical` keeps them",
        {"plans": {"axes": "recipe"}},
        network=dataclasses.replace(demo(), axes=("SI", "AP", "RL")),
    ),
    "a patch that the GPU does not hold": Odd(
        "plans: a patch of RL 64 x AP 192 x SI 320 and batch 1 need about 6.0 GB of GPU memory, "
        "each training has 4.0 (patch_size: auto)",
        {"plans": {"gpu_memory": "4GB"}},
        network=released(),
    ),
}


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Told]:
    """The command line in ``tmp_path/job``, with a scheduler that takes every job."""
    from ca_hpc import cli

    (tmp_path / "bin").mkdir()
    last = tmp_path / "last-job"
    last.write_text("6\n")
    count = f"read n <{last}; echo $((n + 1)) >{last}; echo Submitted batch job $((n + 1))"
    for program, line in {"sbatch": count, "squeue": ":"}.items():
        file = tmp_path / "bin" / program
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CA_HPC_STORE", str(tmp_path / "store"))

    def run(*arguments: str) -> Told:
        monkeypatch.chdir(tmp_path / "job")
        monkeypatch.setattr(sys, "argv", ["ca-hpc", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return Told(int(ended.value.code or 0), shown.out, shown.err, 0.0)

    return run


def odd_job(folder: Path, case: Odd) -> None:
    lay_data(folder)
    described = profile(case.network, trained_on=case.trained_on)
    keys = {"model": "mine.yaml", "arms": FINETUNE, **case.job}
    job_folder(folder / "job", both(of(case.network), described), keys)


@pytest.mark.parametrize("name", ODDITIES)
def test_what_is_seldom_meant_is_told_and_recorded(
    call: Callable[..., Told], tmp_path: Path, name: str
) -> None:
    odd_job(tmp_path, ODDITIES[name])
    warned = call("validate", "job.yaml")
    assert warned.code == 0, warned.err
    assert warned.err.startswith("warning: ")
    assert ODDITIES[name].told in warned.err
    assert call("submit", "-n", "job.yaml").err == warned.err
    assert not (tmp_path / "job" / "ca-hpc-runs").exists()
    submitted = call("submit", "job.yaml")
    assert (submitted.code, submitted.err) == (0, warned.err)
    pins = json.loads((tmp_path / "job" / "ca-hpc-runs" / "neck-001" / "pins.json").read_text())
    assert [f"warning: {text}" for text in pins["warnings"]] == warned.err.splitlines()


@pytest.mark.parametrize(
    ("job", "trained_on"),
    [
        ({}, {}),
        ({"plans": {"spacing": "model"}}, {**AT_1MM, "orientation": "RPI", "crop": "none"}),
        ({"plans": {"spacing": {"RL": 1, "AP": 1, "SI": 1}}}, AT_1MM),
        ({"crop": {"to": "cord"}}, {"crop": {"to": "cord", "margin": "20mm"}}),
        ({"training": {"epochs": 999}}, {}),
        # of no matter to axes that are known
        ({}, {"orientation": "PIR"}),
        # weights that are not read have nothing to warn of
        (
            {
                "arms": {"scratch": {"weights": "random", "plans": "planner", "epochs": 2000}},
                "plans": {"axes": "recipe"},
            },
            {"crop": {"to": "cord"}},
        ),
    ],
)
def test_a_job_like_the_pretraining_is_not_warned(
    call: Callable[..., Told], tmp_path: Path, job: dict[str, Any], trained_on: dict[str, Any]
) -> None:
    odd_job(tmp_path, Odd("", job, trained_on))
    shown = call("submit", "-n", "job.yaml")
    assert (shown.code, shown.err) == (0, "")


def test_several_warnings_come_at_once_before_anything_is_queued(
    call: Callable[..., Told], tmp_path: Path
) -> None:
    keys = {"crop": {"to": "cord"}, "plans": {"axes": "recipe"}, "training": {"epochs": 1000}}
    odd_job(tmp_path, Odd("", keys, {"crop": "none", "orientation": "LPI", **AT_1MM}))
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    refused = call("submit", "job.yaml")
    assert refused.code == 4
    told = [line.split(": ") for line in refused.err.splitlines()]
    about = [words[1] for words in told if words[0] == "warning"]
    assert about[0] == "arms.finetune"
    assert about[1].startswith("the weights were trained on images in LPI")
    assert about[2:] == ["crop", "plans.spacing", "plans.axes"]
    assert told[len(about)][0] == "error"
