"""The pipeline computes what torch computes: the network's axes on the image's, voxel for voxel.

A small network with random weights, its axes RL, AP, SI, is applied to images here, and by real
runs that take it as it is: zero epochs, its own head, one window, no mirroring.

nnU-Net weights the logits of a window by a Gaussian, keeps the products in half precision, divides
by the Gaussian and rounds again; resampling to the image's grid rounds once more. Three such
roundings of logits below ``LOGITS``, to which the head is scaled, change a probability by less than
``TOLERANCE``: 3 x 2**-11 x 0.13 for each of two logits, a quarter of it. Towards the corners of the
window the weights themselves leave the range of half precision: see ``tolerance``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nibabel.orientations import io_orientation, ornt_transform
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    resample_data_or_seg_to_shape,
)

from ca_hpc.store.run_folder import RunFolder
from tests.local_runs import ca_hpc

Axes = tuple[int, int, int]  # 0: RL, 1: AP, 2: SI
Millimetres = tuple[float, float, float]

TOLERANCE: Final = 1e-4  # of a probability
LOGITS: Final = 0.13
CLEARLY: Final = 1e-2  # what any other arrangement of the axes changes somewhere in an image

# --- the network ---------------------------------------------------------------------------------
NAMES: Final = ("RL", "AP", "SI")
# no two axes have the same patch or spacing, and RL is not halved as often as the others
PATCH: Final = (16, 24, 40)
SPACING: Final = (1.0, 0.75, 1.5)
TOPOLOGY: Final[Mapping[str, Any]] = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 8],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin_kwargs": {"inplace": True},
}
CLASSES: Final = {
    "conv_op": torch.nn.Conv3d,
    "norm_op": torch.nn.InstanceNorm3d,
    "nonlin": torch.nn.LeakyReLU,
}
PROFILE: Final = {
    "name": "mine",
    "trained_on": {
        "orientation": "RPI",
        "spacing": dict(zip(NAMES, SPACING, strict=True)),
        "crop": "none",
        "channels": 1,
    },
    "network": {
        "axes": list(NAMES),
        "patch_size": dict(zip(NAMES, PATCH, strict=True)),
        "batch_size": 2,
        "arch_kwargs": {
            **TOPOLOGY,
            **{name: f"{of.__module__}.{of.__name__}" for name, of in CLASSES.items()},
        },
    },
}


@pytest.fixture(scope="module")
def network() -> PlainConvUNet:
    """Every parameter random; the logits of this test's images stay below ``LOGITS``."""
    torch.manual_seed(3)
    network = PlainConvUNet(1, num_classes=2, deep_supervision=False, **TOPOLOGY, **CLASSES).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # norms would be 1 and 0, as in any new network
                parameter.uniform_(0.5, 1.5)
        head = network.decoder.seg_layers[-1]
        found = network(torch.randn(1, 1, *PATCH))[:, 1]
        scale = 0.08 / (found.max() - found.min())
        head.weight[1] *= scale
        head.bias[1] = (head.bias[1] - (found.max() + found.min()) / 2) * scale
        # the background's opposite: where both logits rose and fell together, nothing would be seen
        head.weight[0], head.bias[0] = -head.weight[1], -head.bias[1]
    return network


# --- images --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Image:
    """Random values, made in RPI: from right, from posterior, from inferior.

    Stored with the axes of ``flipped`` reversed and all of them in ``order``.
    """

    shape: Axes
    spacing: Millimetres
    seed: int
    order: Axes = (0, 1, 2)
    flipped: tuple[int, ...] = ()

    @property
    def values(self) -> np.ndarray:
        """Noise on a ramp. Nowhere zero, since nnU-Net cuts off borders of zeros."""
        noise = np.random.default_rng(self.seed).uniform(50, 150, self.shape)
        return (noise + np.arange(self.shape[2])).astype(np.float32)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """``values`` (RL, AP, SI) with the axes of the file."""
        return np.flip(values, self.flipped).transpose(self.order)

    @property
    def affine(self) -> np.ndarray:
        """From the file's voxels to mm left to right, posterior to anterior, inferior to superior.

        RPI's first axis starts at the right: it runs against the world's.
        """
        to_rpi = np.zeros((4, 4))
        to_rpi[3, 3] = 1
        for column, axis in enumerate(self.order):
            reversed_ = axis in self.flipped
            to_rpi[axis, column] = -1 if reversed_ else 1
            to_rpi[axis, 3] = self.shape[axis] - 1 if reversed_ else 0
        to_world = np.diag([-self.spacing[0], *self.spacing[1:], 1])
        to_world[:3, 3] = (30, -20, 10)
        return to_world @ to_rpi

    def save(self, folder: Path, name: str) -> None:
        """Image and label, which only has to be there: nothing is trained."""
        label = np.zeros(self.shape, np.uint8)
        label[tuple(slice(n // 4, n // 2 + 1) for n in self.shape)] = 1
        for values, ending in ((self.values, ""), (label, "_label")):
            file = folder / f"{name}{ending}.nii.gz"
            nib.save(nib.Nifti1Image(self.stored(values), self.affine), file)


FLIPS: Final = tuple(
    flipped for number in range(4) for flipped in itertools.combinations(range(3), number)
)
ARRANGEMENTS: Final = tuple(itertools.product(itertools.permutations(range(3)), FLIPS))
ORIENTATIONS: Final = {
    "".join(("-" if axis in flipped else "") + NAMES[axis] for axis in order): Image(
        PATCH, SPACING, seed, order, flipped
    )
    for seed, (order, flipped) in enumerate(ARRANGEMENTS)
}
# All others are smaller than the patch once they are resampled, and lie where the window's weights
# are well within half precision. Their distances to its borders are whole voxels.
RESAMPLED: Final = {
    "isotropic": Image((10, 12, 39), (1, 1, 1), seed=101),
    "thick-RL": Image((4, 16, 52), (2.5, 0.75, 0.75), seed=102),
    "thick-AP": Image((20, 4, 39), (0.5, 3, 1), seed=103),
    "thick-SI": Image((20, 24, 8), (0.5, 0.5, 4.5), seed=104),
}


@dataclass(frozen=True)
class Dataset:
    """Two images, and what nnU-Net plans for them.

    ``target``: the spacing to which it resamples them, the median. ``planned``: what its own plans
    put on each axis of a network; that, too, fits into one window.
    """

    images: Mapping[str, Image]
    target: Millimetres
    planned: Axes


DATASETS: Final = {
    "isotropic": Dataset(
        {
            "fine": Image((13, 21, 13), (0.75, 0.75, 0.75), seed=111),
            "coarse": Image((8, 13, 8), (1.25, 1.25, 1.25), seed=112),
        },
        target=(1, 1, 1),
        planned=(2, 1, 0),
    ),
    "thick-RL": Dataset(
        {
            "fine": Image((10, 20, 20), (4, 0.6, 0.6), seed=121),
            "coarse": Image((10, 13, 13), (4, 0.9, 0.9), seed=122),
        },
        target=(4, 0.75, 0.75),
        planned=(0, 2, 1),
    ),
    "thick-AP": Dataset(
        {
            "fine": Image((12, 10, 20), (0.6, 4, 0.6), seed=131),
            "coarse": Image((8, 10, 13), (0.9, 4, 0.9), seed=132),
        },
        target=(0.75, 4, 0.75),
        planned=(1, 2, 0),
    ),
    "thick-SI": Dataset(
        {
            "fine": Image((12, 20, 10), (0.6, 0.6, 4), seed=141),
            "coarse": Image((8, 13, 10), (0.9, 0.9, 4), seed=142),
        },
        target=(0.75, 0.75, 4),
        planned=(2, 1, 0),
    ),
}


# --- directly, in torch --------------------------------------------------------------------------
RESAMPLING: Final[Mapping[str, Any]] = {"is_seg": False, "order_z": 0, "force_separate_z": None}
OF_IMAGES: Final = {**RESAMPLING, "order": 3}
OF_LOGITS: Final = {**RESAMPLING, "order": 1}


def standardised(image: Image) -> np.ndarray:
    """Mean 0, standard deviation 1."""
    values = image.values.astype(np.float64)
    return ((values - values.mean()) / values.std()).astype(np.float32)


@torch.no_grad()
def logits(network: PlainConvUNet, values: np.ndarray) -> np.ndarray:
    """(2, *values.shape) of ``values`` in the middle of a patch of zeros."""
    spare = [n - m for n, m in zip(PATCH, values.shape, strict=True)]
    padded = np.pad(values, [(n // 2, n - n // 2) for n in spare])
    inside = tuple(slice(n // 2, n // 2 + m) for n, m in zip(spare, values.shape, strict=True))
    found = network(torch.from_numpy(padded)[None, None])[0].numpy()[(slice(None), *inside)]
    assert np.abs(found).max() < LOGITS
    return found


def foreground(logits: np.ndarray) -> np.ndarray:
    """The second one's probability."""
    return 1 / (1 + np.exp(logits[0] - logits[1]))


def computed(
    network: PlainConvUNet, image: Image, *, spacing: Millimetres, axes: Axes = (0, 1, 2)
) -> np.ndarray:
    """Probabilities (RL, AP, SI) of an image that is resampled to ``spacing`` and back.

    ``axes``: what each axis of the network gets.
    """
    shape = compute_new_shape(image.shape, image.spacing, spacing)
    values = resample_data_or_seg_to_shape(
        standardised(image)[None], shape, image.spacing, spacing, **OF_IMAGES
    )[0]
    found = logits(network, values.transpose(axes)).transpose(0, *np.argsort(axes) + 1)
    return foreground(
        resample_data_or_seg_to_shape(found, image.shape, spacing, image.spacing, **OF_LOGITS)
    )


def window_weights() -> torch.Tensor:
    """nnU-Net's, of half precision, as is what it multiplies by them."""
    return compute_gaussian(PATCH, value_scaling_factor=10, device=torch.device("cpu"))


def windowed(logits: np.ndarray) -> np.ndarray:
    """What nnU-Net keeps of the logits of a whole patch."""
    weights = window_weights()
    return ((torch.from_numpy(logits) * weights).half() / weights).float().numpy()


def tolerance() -> np.ndarray:
    """Of the probabilities of a whole patch.

    Steps of half precision are 2**-24 at least: a logit times a small weight is rounded by up to
    2**-25, which the division by the weight makes large. A quarter of that, for each of two logits,
    is the probability's part; as much again is for the other roundings.
    """
    return np.maximum(TOLERANCE, 2.0**-25 / window_weights().double().numpy())


# --- by the pipeline -----------------------------------------------------------------------------
JOB: Final = """
kind: finetune
name: {name}
cluster: local
data: [{{type: pairs, path: {name}/pairs.csv}}]
weights: known.pth
model: mine.yaml
plans: {plans}
splits: {{folds: 2}}
arms: {{as-is: {{weights: pretrained, head: pretrained, epochs: 0}}}}
validation: {{tile_step: 1.0, mirroring: false, probabilities: true}}
resources: {{preprocess: {{cpus: 1}}, train: {{cpus: 1}}}}
"""

Runs = Mapping[str, Future[RunFolder]]


@dataclass(frozen=True)
class Prediction:
    """With the axes of the image as it was given."""

    probability: np.ndarray
    mask: np.ndarray

    def difference(self, probability: np.ndarray) -> np.ndarray:
        assert self.probability.shape == self.mask.shape == probability.shape
        return np.abs(self.probability - probability)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, network: PlainConvUNet) -> Iterator[Runs]:
    """All runs, two at a time: most of their time is importing torch."""
    folder = tmp_path_factory.mktemp("equivalence")
    (folder / "mine.yaml").write_text(yaml.safe_dump(PROFILE))
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": None,
        "current_epoch": 1000,
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "init_args": {},
    }
    torch.save(checkpoint, folder / "known.pth")
    jobs = {"model": (ORIENTATIONS | RESAMPLED, "{spacing: model}")}
    for name, data in DATASETS.items():
        for axes in ("anatomical", "recipe"):
            jobs[f"{axes}-{name}"] = (data.images, f"{{spacing: dataset, axes: {axes}}}")
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {
            name: pool.submit(run_to_its_end, folder, name, images=images, plans=plans)
            for name, (images, plans) in jobs.items()
        }
        pool.shutdown(cancel_futures=True)


def run_to_its_end(
    folder: Path, name: str, *, images: Mapping[str, Image], plans: str
) -> RunFolder:
    """A run on ``images``, each of a person of its own."""
    data = folder / name
    data.mkdir()
    for person, image in images.items():
        image.save(data, person)
    rows = [f"{person}.nii.gz,{person}_label.nii.gz,{person}" for person in images]
    (data / "pairs.csv").write_text("\n".join(["image,label,subject", *rows]))
    job = folder / f"{name}.yaml"
    job.write_text(JOB.format(name=name, plans=plans))
    done = ca_hpc("submit", job, "--cluster", "local", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return RunFolder.open(folder / "ca-hpc-runs" / f"{name}-001")


def predictions(run: RunFolder, images: Mapping[str, Image]) -> dict[str, Prediction]:
    """By person; each has been in the validation of one fold."""
    people = {case.id: case.person for case in run.cases.cases}
    files = [file for _, fold in run.folds("as-is") for file in fold.glob("validation/*.npz")]
    assert sorted(people[file.stem] for file in files) == sorted(images)
    return {people[file.stem]: prediction(file, images[people[file.stem]]) for file in files}


def prediction(file: Path, image: Image) -> Prediction:
    """The pipeline keeps its files in RPI; the affines say how to get back to the image's axes."""
    mask = nib.load(file.with_suffix(".nii.gz"))
    # nnU-Net's readers reverse the order of a file's axes
    soft = nib.Nifti1Image(np.load(file)["probabilities"][1].transpose(2, 1, 0), mask.affine)
    turn = ornt_transform(io_orientation(mask.affine), io_orientation(image.affine))
    soft, mask = soft.as_reoriented(turn), mask.as_reoriented(turn)
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    return Prediction(np.asanyarray(soft.dataobj), np.asanyarray(mask.dataobj))


def assert_same(
    found: Prediction, probability: np.ndarray, *, within: np.ndarray | float = TOLERANCE
) -> None:
    """Every voxel; the mask wherever the probability is not too close to a half."""
    beside = found.difference(probability) > within
    assert not beside.any(), f"{beside.mean():.1%} of the voxels differ"
    clear = np.abs(probability - 0.5) > within
    np.testing.assert_array_equal(found.mask[clear], probability[clear] > 0.5)
    assert 0.05 < found.mask.mean() < 0.95


# --- the tests -----------------------------------------------------------------------------------
def test_the_network_tells_all_axes_and_directions_apart(network: PlainConvUNet) -> None:
    """Else no comparison below could fail."""

    @torch.no_grad()
    def applied(values: np.ndarray) -> np.ndarray:
        return foreground(network(torch.from_numpy(values.copy())[None, None])[0].numpy())

    values = np.random.default_rng(0).standard_normal(PATCH, dtype=np.float32)
    wanted = applied(values)
    for order, flipped in ARRANGEMENTS[1:]:
        turned = applied(np.flip(values, flipped).transpose(order))
        back = np.flip(turned.transpose(np.argsort(order)), flipped)
        assert np.abs(back - wanted).max() > CLEARLY, (order, flipped)


@pytest.fixture(scope="module")
def at_the_models_spacing(runs: Runs) -> dict[str, Prediction]:
    return predictions(runs["model"].result(), ORIENTATIONS | RESAMPLED)


@pytest.mark.parametrize("stored", ORIENTATIONS)
def test_one_patch_at_the_models_spacing_in_each_of_48_orientations(
    stored: str, at_the_models_spacing: Mapping[str, Prediction], network: PlainConvUNet
) -> None:
    image, found = ORIENTATIONS[stored], at_the_models_spacing[stored]
    directly = logits(network, standardised(image))
    within = tolerance()
    assert (within == TOLERANCE).mean() > 0.7
    assert_same(found, image.stored(foreground(directly)), within=image.stored(within))
    # the rest, towards the corners, is as near when half precision is reckoned with; but for what
    # the last bit of a logit sends to the other side of a step
    kept = image.stored(foreground(windowed(directly)))
    assert (found.difference(kept) > TOLERANCE).mean() < 1e-3


@pytest.mark.parametrize("name", RESAMPLED)
def test_images_resampled_to_the_models_spacing(
    name: str, at_the_models_spacing: Mapping[str, Prediction], network: PlainConvUNet
) -> None:
    wanted = computed(network, RESAMPLED[name], spacing=SPACING)
    assert_same(at_the_models_spacing[name], wanted)


@pytest.mark.parametrize("name", DATASETS)
def test_images_resampled_to_their_data_sets_spacing(
    name: str, runs: Runs, network: PlainConvUNet
) -> None:
    data, run = DATASETS[name], runs[f"anatomical-{name}"].result()
    for person, found in predictions(run, data.images).items():
        assert_same(found, computed(network, data.images[person], spacing=data.target))


@pytest.mark.parametrize("name", DATASETS)
def test_the_recipe_agrees_for_no_arrangement(
    name: str, runs: Runs, network: PlainConvUNet
) -> None:
    """It computes something else: the network with the planner's axes, which are never its own."""
    data, run = DATASETS[name], runs[f"recipe-{name}"].result()
    for person, found in predictions(run, data.images).items():
        image = data.images[person]
        assert found.difference(computed(network, image, spacing=data.target)).max() > CLEARLY
        assert_same(found, computed(network, image, spacing=data.target, axes=data.planned))


@pytest.mark.parametrize("name", ["anatomical-isotropic", "recipe-thick-SI", "model"])
def test_the_plans_resample_as_this_test_does(name: str, runs: Runs) -> None:
    (_, fold), *_ = runs[name].result().folds("as-is")
    plans = json.loads((fold.parent / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert plans["resampling_fn_data_kwargs"] == OF_IMAGES
    assert plans["resampling_fn_probabilities_kwargs"] == OF_LOGITS
