"""What the transfer-learning recipe says, what stock nnU-Net 2.8.1 makes of it, what ca-hpc does.

Each test shows a hole of the recipe with nnU-Net itself, then that ca-hpc does not fall into it.
Plans and checkpoints are nnU-Net's own work: ``tests/fixtures``.
"""

from __future__ import annotations

import copy
import json
import pickle
import pydoc
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.experiment_planning.experiment_planners.network_topology import (
    get_pool_and_conv_props,
)
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
)
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.variants.training_length import nnUNetTrainer_Xepochs
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from ca_hpc import configs
from ca_hpc.core.door import read as read_door
from ca_hpc.core.profile import Network
from ca_hpc.core.spec import PatchSize, Training
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.orientation import sct_orientation
from ca_hpc.nnunet.planning import write_plans
from ca_hpc.nnunet.plans import ARRAY_AXES, along, check_patch, patch_plans
from ca_hpc.nnunet.trainer_search import resolve_trainer
from ca_hpc.weights import describe
from ca_hpc.weights.checkpoint import read_checkpoint
from ca_hpc.weights.manifest import Source
from ca_hpc.weights.topology import tensor_shapes, topology_of

Plans = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]

FIXTURES: Final = Path(__file__).parents[2] / "fixtures"
PLANS: Final = sorted((FIXTURES / "plans").glob("*/*.json"))
CHECKPOINTS: Final = sorted((FIXTURES / "checkpoints").glob("*.pth"))
FULLRES: Final = "3d_fullres"
OLD_KEYS: Final = {"UNet_class_name", "UNet_base_num_features", "pool_op_kernel_sizes"}

# the recipe's keys, to be written "in the 3d_fullres dict"
RECIPE: Final = {
    "patch_size": [64, 192, 320],
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "n_conv_per_stage": [2, 2, 2, 2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2, 2, 2, 2],
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "kernel_sizes": [[3, 3, 3]] * 6,
}

pytestmark = pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")


# --- nnU-Net's side ------------------------------------------------------------------------------


def planned(geometry: str, *, planner: str = "ExperimentPlanner", version: str = "2.8.1") -> Plans:
    """Plans that nnU-Net made, fresh for each caller."""
    plans: Plans = json.loads(
        (FIXTURES / "plans" / version / f"{planner}-{geometry}.json").read_text()
    )
    return plans


def dataset_json(geometry: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (FIXTURES / "plans" / "2.8.1" / geometry / "dataset.json").read_text()
    )
    return content


def by_the_recipe(plans: Plans) -> Plans:
    """The recipe to the letter: its keys go flat into 3d_fullres, all else stays."""
    edited = copy.deepcopy(plans)
    edited["configurations"][FULLRES].update(copy.deepcopy(RECIPE))
    return edited


def built(plans: Plans, configuration: str = FULLRES, *, device: str = "meta") -> torch.nn.Module:
    """The network that nnU-Net makes of plans: one channel, two labels."""
    own = PlansManager(copy.deepcopy(plans)).get_configuration(configuration)
    with torch.device(device):
        network: torch.nn.Module = get_network_from_plans(
            own.network_arch_class_name,
            own.network_arch_init_kwargs,
            own.network_arch_init_kwargs_req_import,
            1,
            2,
            allow_init=False,
            deep_supervision=True,
        )
    return network


def shapes(network: torch.nn.Module | Mapping[str, torch.Tensor]) -> Shapes:
    tensors = network.state_dict() if isinstance(network, torch.nn.Module) else network
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def axes_of(plans: Plans) -> tuple[str, ...]:
    """The anatomical axis of each axis that nnU-Net's network gets to see, images being in RPI."""
    return tuple(ARRAY_AXES[i] for i in plans["transpose_forward"])


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's three folders, with a preprocessed data set that has dataset.json."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    folder = tmp_path / "preprocessed" / "Dataset501_isotropic"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset_json("isotropic")))
    return tmp_path


def stock_trainer(plans_identifier: str) -> Any:
    """What ``nnUNetv2_train Dataset501_isotropic 3d_fullres 0 -p PLANS_IDENTIFIER`` makes first."""
    return get_trainer_from_args(
        "Dataset501_isotropic",
        FULLRES,
        0,
        plans_identifier=plans_identifier,
        device=torch.device("cpu"),
    )


# --- ca-hpc's side -------------------------------------------------------------------------------


def contrast_agnostic() -> Network:
    network = configs.model("contrast-agnostic-v2", relative_to=Path()).network
    assert network is not None
    return network


def narrow(network: Network) -> Network:
    """The same strides with two features per stage, so that it runs in no time."""
    arch_kwargs = dict(network.arch_kwargs)
    arch_kwargs["features_per_stage"] = [2] * arch_kwargs["n_stages"]
    return Network(
        axes=network.axes,
        patch_size=network.patch_size,
        batch_size=network.batch_size,
        arch_kwargs=arch_kwargs,
    )


def patched(plans: Plans, network: Network | None = None, **options: Any) -> Plans:
    network = network or contrast_agnostic()
    patch = along(network.axes, network.patch_size)
    return patch_plans(plans, network, plans_name="ours", patch_size=patch, batch_size=2, **options)


def shapes_of(network: Network) -> Shapes:
    expected = tensor_shapes(
        network.arch_kwargs, network_class_name=network.network_class_name, channels=1, heads=2
    )
    assert expected is not None
    return expected


def own_network(checkpoint: Path) -> Network:
    """What ca-hpc reads from a checkpoint alone."""
    found = describe.read(checkpoint)
    source = Source(name=checkpoint.name, sha256="0" * 64)
    network = describe.manifest_of(found, sha256="0" * 64, source=source, model=None).network
    assert network is not None
    return network


# --- "modify these keys in the 3d_fullres dict" --------------------------------------------------


@pytest.mark.parametrize("geometry", ["isotropic", "thick-RL"])
def test_topology_keys_written_flat_are_ignored_but_for_the_patch(geometry: str) -> None:
    plans = planned(geometry)
    flat = by_the_recipe(plans)
    assert PlansManager(flat).get_configuration(FULLRES).patch_size == [64, 192, 320]
    assert shapes(built(flat)) == shapes(built(plans)) != shapes_of(contrast_agnostic())

    ours = patched(plans)
    assert ours["configurations"][FULLRES]["patch_size"] == [64, 192, 320]
    assert shapes(built(ours)) == shapes_of(contrast_agnostic())
    assert not (RECIPE.keys() - {"patch_size"}) & ours["configurations"][FULLRES].keys()


def test_flat_topology_keys_are_noticed_by_nobody_before_the_weights_load() -> None:
    checkpoint = FIXTURES / "checkpoints" / "2.8.1-ExperimentPlanner.pth"
    weights = own_network(checkpoint)
    plans = planned("isotropic")
    flat = copy.deepcopy(plans)
    flat["configurations"][FULLRES].update(copy.deepcopy(dict(weights.arch_kwargs)))
    network = built(flat)  # no complaint
    with pytest.raises(AssertionError, match="shape of the parameters of key"):
        load_pretrained_weights(network, str(checkpoint))

    load_pretrained_weights(built(patched(plans, weights), device="cpu"), str(checkpoint))


def test_plans_of_early_nnunet_2_have_other_keys_of_which_the_recipe_hits_one_by_accident() -> None:
    six_stages, five_stages = (planned(name, version="2.0") for name in ("fine", "isotropic"))
    for plans in (six_stages, five_stages):
        own = plans["configurations"][FULLRES]
        assert own.keys() >= OLD_KEYS and "architecture" not in own
        assert own.keys() & RECIPE.keys() == {"patch_size", "n_conv_per_stage_decoder"}
    with pytest.warns(UserWarning, match="Detected old nnU-Net plans format"):
        assert shapes(built(by_the_recipe(six_stages))) == shapes(built(six_stages))
    with pytest.raises(AssertionError, match="n_conv_per_stage_decoder must have one less"):
        built(by_the_recipe(five_stages))

    for plans in (six_stages, five_stages):
        ours = patched(plans)
        assert not OLD_KEYS & ours["configurations"][FULLRES].keys()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert shapes(built(ours)) == shapes_of(contrast_agnostic())


@pytest.mark.parametrize("version", ["2.4", "2.8.1"])
def test_the_architecture_of_later_plans_is_a_dictionary_of_its_own(version: str) -> None:
    for file in (FIXTURES / "plans" / version).glob("*.json"):
        own = json.loads(file.read_text())["configurations"][FULLRES]
        assert not OLD_KEYS & own.keys()
        assert own["architecture"].keys() == {
            "network_class_name",
            "arch_kwargs",
            "_kw_requires_import",
        }


def test_resenc_plans_count_blocks_and_cannot_take_the_recipes_keys_even_in_their_place() -> None:
    plans = planned("isotropic", planner="nnUNetPlannerResEncL")
    architecture = plans["configurations"][FULLRES]["architecture"]
    assert architecture["network_class_name"].endswith(".ResidualEncoderUNet")
    assert "n_blocks_per_stage" in architecture["arch_kwargs"]
    assert "n_conv_per_stage" not in architecture["arch_kwargs"]
    architecture["arch_kwargs"].update({k: v for k, v in RECIPE.items() if k != "patch_size"})
    with pytest.raises(TypeError, match="n_conv_per_stage"):
        built(plans)

    assert shapes(built(patched(plans))) == shapes_of(contrast_agnostic())


# --- names of plans ------------------------------------------------------------------------------


def test_a_renamed_plans_file_still_writes_over_the_results_of_the_baseline(folders: Path) -> None:
    plans = planned("isotropic")
    dataset = folders / "preprocessed" / "Dataset501_isotropic"
    for name in ("nnUNetPlans", "nnUNetPlans_contrast_agnostic"):  # the recipe's copy
        (dataset / f"{name}.json").write_text(json.dumps(plans))
    baseline = stock_trainer("nnUNetPlans").output_folder
    assert stock_trainer("nnUNetPlans_contrast_agnostic").output_folder == baseline

    write_plans(patched(plans), dataset)
    assert stock_trainer("ours").output_folder == baseline.replace("nnUNetPlans", "ours")


def test_an_ending_in_p_is_looked_for_twice(folders: Path) -> None:
    dataset = folders / "preprocessed" / "Dataset501_isotropic"
    (dataset / "nnUNetPlans_contrast_agnostic.json").write_text(json.dumps(planned("isotropic")))
    with pytest.raises(FileNotFoundError, match=r"contrast_agnostic\.json\.json"):
        stock_trainer("nnUNetPlans_contrast_agnostic.json")

    ours = patched(planned("isotropic"))
    write_plans(ours, dataset)  # the file's name and the name inside are one
    assert stock_trainer(ours["plans_name"]).plans_manager.plans_name == ours["plans_name"]


def test_patched_data_never_go_where_the_baselines_preprocessed_data_are() -> None:
    plans = planned("isotropic")
    assert (
        by_the_recipe(plans)["configurations"][FULLRES]["data_identifier"]
        == plans["configurations"][FULLRES]["data_identifier"]
    )
    assert patched(plans)["configurations"][FULLRES]["data_identifier"] == "ours_3d_fullres"


# --- orientation and axes ------------------------------------------------------------------------


def test_rpi_means_las_to_nibabel() -> None:
    stored = np.diag([-1.0, 1.0, 1.0, 1.0])  # from right to left, from posterior, from inferior
    assert nibabel.aff2axcodes(stored) == ("L", "A", "S")
    assert sct_orientation(stored) == "RPI"


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
def test_every_reader_of_nnunet_turns_an_rpi_file_into_si_ap_rl(
    reader: type[Any], tmp_path: Path
) -> None:
    right_left, posterior_anterior, inferior_superior = 3, 4, 5
    values = np.zeros((right_left, posterior_anterior, inferior_superior), dtype=np.float32)
    file = tmp_path / "case_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, 1.0, 1.0, 1.0])), file)
    array, _ = reader().read_images([str(file)])
    by_axis = {"RL": right_left, "AP": posterior_anterior, "SI": inferior_superior}
    assert array.shape[1:] == tuple(by_axis[axis] for axis in ARRAY_AXES)


STOCK_AXES: Final = {
    "isotropic": ("SI", "AP", "RL"),
    "fine": ("SI", "AP", "RL"),
    "thick-SI": ("SI", "AP", "RL"),
    "thick-RL": ("RL", "SI", "AP"),
    "thick-AP": ("AP", "SI", "RL"),
}


@pytest.mark.parametrize("file", PLANS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_no_stock_plan_has_the_axes_that_the_recipes_patch_is_written_for(file: Path) -> None:
    plans = json.loads(file.read_text())
    geometry = plans["dataset_name"].partition("_")[2]
    assert axes_of(plans) == STOCK_AXES[geometry] != ("RL", "AP", "SI")

    assert axes_of(patched(plans)) == ("RL", "AP", "SI")


def test_the_recipe_gives_320_voxels_to_rl_and_the_weights_load_all_the_same() -> None:
    recipe = patched(planned("isotropic"), axes="recipe")  # all cured but for the axes
    patch = recipe["configurations"][FULLRES]["patch_size"]
    assert dict(zip(axes_of(recipe), patch, strict=True)) == {"SI": 64, "AP": 192, "RL": 320}
    ours = patched(planned("isotropic"))
    assert dict(zip(axes_of(ours), ours["configurations"][FULLRES]["patch_size"], strict=True)) == {
        "RL": 64,
        "AP": 192,
        "SI": 320,
    }
    # every kernel is 3 x 3 x 3: no shape tells the two apart
    assert shapes(built(recipe)) == shapes(built(ours))


def test_permuting_the_strides_with_the_patch_makes_the_weights_not_fit() -> None:
    network = contrast_agnostic()
    plans = patched(planned("isotropic"), axes="recipe")
    own = plans["configurations"][FULLRES]
    own["patch_size"] = own["patch_size"][::-1]
    arch_kwargs = own["architecture"]["arch_kwargs"]
    arch_kwargs["strides"] = [stage[::-1] for stage in arch_kwargs["strides"]]
    differing = {
        name for name, shape in shapes(built(plans)).items() if shape != shapes_of(network)[name]
    }
    assert differing == {"decoder.transpconvs.0.weight"}

    assert shapes(built(patched(planned("isotropic")))) == shapes_of(network)


def test_on_the_pretrainings_axes_predictions_keep_shape_place_and_affine(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = 12.5, -7.25, 3.0
    values = rng.normal(100, 20, size=(6, 8, 10)).astype(np.float32)  # RL, AP, SI
    file = tmp_path / "case_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, affine), file)
    plans = patched(planned("isotropic"))
    manager = PlansManager(plans)
    own = manager.get_configuration(FULLRES)
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(file)], None, manager, own, dataset_json("isotropic")
    )
    assert data.shape[1:] == values.shape  # what the network sees is in RL, AP, SI
    bright = torch.from_numpy(np.asarray(data[0])) > 0  # z-scored: above the mean
    segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
        torch.stack([~bright, bright]).float(),
        manager,
        own,
        manager.get_label_manager(dataset_json("isotropic")),
        properties,
        num_threads_torch=1,
    )
    predicted = tmp_path / "case.nii.gz"
    manager.image_reader_writer_class().write_seg(segmentation, str(predicted), properties)
    written = nibabel.load(predicted)
    np.testing.assert_array_equal(written.affine, affine)
    np.testing.assert_array_equal(written.get_fdata() > 0, values > values.mean())


# --- patch and batch -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_network() -> torch.nn.Module:
    """The strides of the recipe; its axes are RL, AP, SI."""
    return built(patched(planned("isotropic"), narrow(contrast_agnostic())), device="cpu").train()


def forward(network: torch.nn.Module, patch: tuple[int, int, int]) -> None:
    with torch.no_grad():
        network(torch.zeros(1, 1, *patch))


@pytest.mark.parametrize("patch", [(16, 32, 64), (32, 32, 32), (16, 64, 32)])
def test_divisible_patches_run_that_leave_two_voxels_at_the_bottleneck(
    small_network: torch.nn.Module, patch: tuple[int, int, int]
) -> None:
    forward(small_network, patch)

    check_patch(PatchSize(*patch), contrast_agnostic())


def test_the_smallest_patch_of_the_recipe_is_divisible_and_crashes_at_the_first_forward_pass(
    small_network: torch.nn.Module,
) -> None:
    with pytest.raises(ValueError, match="Expected more than 1 spatial element"):
        forward(small_network, (16, 32, 32))

    with pytest.raises(CaHpcError, match="more than one voxel") as refused:
        check_patch(PatchSize(RL=16, AP=32, SI=32), contrast_agnostic())
    offered = [int(n) for n in re.findall(r"\d+", str(refused.value.hint))]
    forward(small_network, (offered[0], offered[1], offered[2]))


def test_a_patch_that_the_strides_do_not_divide_crashes_at_the_first_forward_pass(
    small_network: torch.nn.Module,
) -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        forward(small_network, (24, 32, 64))

    with pytest.raises(CaHpcError, match="RL by 16, AP by 32, SI by 32"):
        check_patch(PatchSize(RL=24, AP=32, SI=64), contrast_agnostic())


def test_the_recipes_patch_switches_on_dummy_2d_augmentation(folders: Path) -> None:
    dataset = folders / "preprocessed" / "Dataset501_isotropic"
    write_plans(by_the_recipe(planned("isotropic")), dataset)
    stock = stock_trainer("nnUNetPlans")
    _, dummy_2d, _, _ = stock.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert dummy_2d and ANISO_THRESHOLD < 320 / 64

    # A job may ask for a patch without it. Left on, it spares the axis RL, not the cord's own.
    network = contrast_agnostic()
    asked = patch_plans(
        planned("isotropic"), network, plans_name="ours", patch_size=[64, 192, 192], batch_size=2
    )
    write_plans(asked, dataset)
    ours = stock_trainer("ours")
    _, dummy_2d, _, _ = ours.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert not dummy_2d
    assert axes_of(patched(planned("isotropic")))[0] == "RL"
    assert axes_of(by_the_recipe(planned("isotropic")))[0] == "SI"


def test_the_batch_size_is_left_at_what_was_sized_for_another_patch() -> None:
    plans = planned("thick-SI")
    own = plans["configurations"][FULLRES]
    own["batch_size"] = 9  # as a planner does with many small images
    recipe = by_the_recipe(plans)["configurations"][FULLRES]
    assert recipe["batch_size"] == 9
    assert np.prod(recipe["patch_size"]) > 10 * np.prod(own["patch_size"])

    assert patched(plans)["configurations"][FULLRES]["batch_size"] == 2


@pytest.mark.parametrize("version", ["2.0", "2.8.1"])
def test_the_cascade_inherits_the_recipes_patch_unasked(version: str) -> None:
    plans = planned("fine", version=version)
    cascade = PlansManager(by_the_recipe(plans)).get_configuration("3d_cascade_fullres")
    assert cascade.patch_size == [64, 192, 320]

    assert list(patched(plans)["configurations"]) == [FULLRES]


# --- "nnUNetTrainer_Xepochs" ---------------------------------------------------------------------


def test_only_some_numbers_of_epochs_exist_as_stock_trainers() -> None:
    found = (
        re.fullmatch(r"nnUNetTrainer_(\d+)epochs?", name) for name in dir(nnUNetTrainer_Xepochs)
    )
    numbers = {int(match[1]) for match in found if match}
    assert numbers == {1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000}
    with pytest.raises(CaHpcError, match="no trainer nnUNetTrainer_300epochs"):
        resolve_trainer("nnUNetTrainer_300epochs")

    assert read_door(Training, "epochs: 300", file="job.yaml").epochs == 300


# --- which weights? ------------------------------------------------------------------------------


@pytest.mark.parametrize("file", CHECKPOINTS, ids=lambda file: file.stem)
def test_torchs_safe_loading_refuses_every_genuine_checkpoint(file: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(file, map_location="cpu", weights_only=True)

    checkpoint = read_checkpoint(file)  # no trust needed, and nothing of the file runs
    assert (checkpoint.family, checkpoint.left_out) == ("nnU-Net", ("optimizer_state (tensors)",))
    genuine = torch.load(file, map_location="cpu", weights_only=False)["network_weights"]
    assert checkpoint.tensors.keys() == genuine.keys()
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(tensor.array(), genuine[name].numpy())


@pytest.mark.parametrize("file", CHECKPOINTS, ids=lambda file: file.stem)
def test_the_topology_lies_in_the_checkpoint_itself_and_need_not_be_typed(file: Path) -> None:
    genuine = torch.load(file, map_location="cpu", weights_only=False)
    told = genuine["init_args"]["plans"]
    own = PlansManager(copy.deepcopy(told)).get_configuration(FULLRES)
    topology = topology_of(shapes(genuine["network_weights"]))
    for key in ("strides", "features_per_stage", "n_conv_per_stage_decoder"):
        assert own.network_arch_init_kwargs[key] == topology.arch_kwargs[key] != RECIPE[key]

    # from its plans, and without them from the shapes of its tensors
    network = own_network(file)
    for arch_kwargs, class_name in (
        (topology.arch_kwargs, topology.network_class_name),
        (network.arch_kwargs, network.network_class_name),
    ):
        plans = patched(
            planned("thick-RL"),
            Network(
                axes=network.axes,
                patch_size=network.patch_size,
                batch_size=network.batch_size,
                arch_kwargs=arch_kwargs,
                network_class_name=class_name,
            ),
        )
        assert shapes(built(plans)) == shapes(genuine["network_weights"])
        assert axes_of(plans) == axes_of(told)


def test_early_resenc_plans_lead_nnunet_to_a_module_that_is_gone() -> None:
    plans = planned("isotropic", planner="ResEncUNetPlanner", version="2.0")
    told = PlansManager(plans).get_configuration(FULLRES).network_arch_class_name
    assert told.endswith(".ResidualEncoderUNet") and pydoc.locate(told) is None

    network = own_network(FIXTURES / "checkpoints" / "2.0-ResEncUNetPlanner.pth")
    assert pydoc.locate(network.network_class_name) is ResidualEncoderUNet


def test_the_stock_loader_takes_only_a_network_of_the_same_shapes() -> None:
    plain, resenc = (
        FIXTURES / "checkpoints" / f"2.8.1-{planner}.pth"
        for planner in ("ExperimentPlanner", "nnUNetPlannerResEncL")
    )
    network = built(patched(planned("isotropic"), own_network(plain)), device="cpu")
    load_pretrained_weights(network, str(plain))
    with pytest.raises(AssertionError, match="is missing in the pretrained model weights"):
        load_pretrained_weights(network, str(resenc))

    network = built(patched(planned("isotropic"), own_network(resenc)), device="cpu")
    load_pretrained_weights(network, str(resenc))


def test_the_topology_of_v3_cannot_load_into_the_recipes_plans() -> None:
    # its plans: spacing and patch in SI, AP, RL
    spacing, patch = [1.0, 0.7, 0.8958], [160, 224, 64]
    _, strides, kernels, legal, _ = get_pool_and_conv_props(spacing, patch, 4, 999999)
    assert (list(legal), list(strides[-1])) == (patch, [2, 2, 1])
    recipe = contrast_agnostic()
    theirs = copy.deepcopy(dict(recipe.arch_kwargs))
    theirs.update(strides=[list(s) for s in strides], kernel_sizes=[list(k) for k in kernels])
    assert theirs["n_stages"] == len(strides)
    network = Network(
        axes=("SI", "AP", "RL"),
        patch_size=PatchSize(SI=160, AP=224, RL=64),
        batch_size=2,
        arch_kwargs=theirs,
    )
    weights = built(patched(planned("isotropic"), network))
    assert shapes(weights) != shapes_of(recipe)
    with pytest.raises(RuntimeError, match=r"size mismatch for decoder\.transpconvs\.0\.weight"):
        built(patched(planned("isotropic"))).load_state_dict(weights.state_dict(), assign=True)

    # the topology comes from the weights instead, and with it their own axes
    found = topology_of(shapes(weights))
    assert [list(stage) for stage in found.arch_kwargs["strides"]] == theirs["strides"]
    ours = patched(planned("thick-RL"), network)
    assert axes_of(ours) == ("SI", "AP", "RL")
    built(ours).load_state_dict(weights.state_dict(), assign=True)


# --- every stock plan ----------------------------------------------------------------------------


def networks() -> Iterator[tuple[str, Network]]:
    yield "v2", contrast_agnostic()
    for file in CHECKPOINTS:
        yield file.stem, own_network(file)


@pytest.fixture(scope="module")
def all_networks() -> dict[str, Network]:
    return dict(networks())


@pytest.mark.parametrize("file", PLANS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_any_stock_plan_takes_any_network_on_its_own_axes(
    file: Path, all_networks: dict[str, Network]
) -> None:
    plans = json.loads(file.read_text())
    before = plans["configurations"][FULLRES]

    def along_array(of: Plans, values: list[Any]) -> list[Any]:
        return [values[i] for i in of["transpose_backward"]]

    for network in all_networks.values():
        out = patched(plans, network)
        (own,) = out["configurations"].values()
        assert list(out["configurations"]) == [FULLRES]
        assert own["architecture"]["arch_kwargs"] == network.arch_kwargs
        assert (out["plans_name"], own["data_identifier"]) == ("ours", "ours_3d_fullres")
        assert axes_of(out) == network.axes
        if network.axes == ("RL", "AP", "SI"):
            assert out["transpose_forward"] == out["transpose_backward"] == [2, 1, 0]
        for key in ("spacing", "median_image_size_in_voxels"):
            assert along_array(out, own[key]) == along_array(plans, before[key])
        for key in ("original_median_spacing_after_transp", "original_median_shape_after_transp"):
            assert along_array(out, out[key]) == along_array(plans, plans[key])
        assert PlansManager(out).get_configuration(FULLRES).spacing == own["spacing"]
        assert shapes(built(json.loads(json.dumps(out)))) == shapes_of(network)
