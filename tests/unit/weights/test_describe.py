"""What is learnt from a file of weights: genuine checkpoints, bare tensors, and files that lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ca_hpc.core.data_spec import Crop
from ca_hpc.core.profile import Model, Network, TrainedOn
from ca_hpc.core.spec import ByAxis, PatchSize
from ca_hpc.errors import CaHpcError
from ca_hpc.weights import describe
from ca_hpc.weights import manifest as manifests
from ca_hpc.weights.manifest import Manifest, Source
from tests.checkpoints import network_of
from tests.torch_files import lightning, network, nnunet, saved

FIXTURES = Path(__file__).parents[2] / "fixtures"
GENUINE = sorted(file.name for file in (FIXTURES / "checkpoints").glob("*.pth"))
KERNELS = [[3, 3, 3], [3, 3, 3]]


def plans(**changes: Any) -> dict[str, Any]:
    """Plans of the network of ``tests.torch_files``, as nnU-Net since 2.4 writes them."""
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": KERNELS,
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True, "negative_slope": 0.25},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "patch_size": [16, 24, 32],
        "batch_size": 3,
        "spacing": [3.0, 0.75, 0.5],
        "architecture": architecture,
    }
    return {
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration | changes},
    }


def file_with(
    folder: Path,
    plans: Any = None,
    *,
    dataset_json: Any = None,
    configuration: str = "3d_fullres",
) -> Path:
    arguments = {"plans": plans, "configuration": configuration, "dataset_json": dataset_json}
    return saved(nnunet() | {"init_args": arguments}, folder / "checkpoint_final.pth")


def manifest(file: Path, *, model: Model | None = None, **beside: Any) -> Manifest:
    """As stored and read back: what could not be read back would make a store useless."""
    found = describe.read(file, **beside)
    source = Source(name=file.name, sha256="1" * 64)
    made = describe.manifest_of(found, sha256="2" * 64, source=source, model=model)
    again = manifests.load(manifests.dump(made), place="here")
    assert again == made
    return again


# --- genuine checkpoints of nnU-Net --------------------------------------------------------------


@pytest.mark.parametrize("name", GENUINE)
def test_a_checkpoint_of_nnunet_tells_its_network(name: str) -> None:
    found = manifest(FIXTURES / "checkpoints" / name)
    residual = "ResEnc" in name
    assert (found.family, found.trainer, found.channels, found.heads) == (
        ("nnU-Net", "nnUNetTrainer", 1, 2)
    )
    assert found.network is not None
    assert found.network.network_class_name == (
        "dynamic_network_architectures.architectures.unet."
        + ("ResidualEncoderUNet" if residual else "PlainConvUNet")
    )
    assert found.network.axes == ("SI", "AP", "RL")
    assert found.network.patch_size == PatchSize(RL=16, AP=16, SI=16)
    assert found.network.batch_size == 2
    kwargs = found.network.arch_kwargs
    assert kwargs["features_per_stage"] == [2, 4, 4]
    assert kwargs["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    assert kwargs["n_blocks_per_stage" if residual else "n_conv_per_stage"] == (
        [1, 2, 2] if residual else [2, 2, 2]
    )
    assert found.trained_on == TrainedOn(spacing=ByAxis(RL=1, AP=1, SI=1), channels=1)
    assert found.left_out == ("optimizer_state (tensors)",)


@pytest.mark.parametrize("planner", ["ExperimentPlanner", "ResEncUNetPlanner"])
@pytest.mark.parametrize(
    ("geometry", "axes", "spacing"),
    [
        ("isotropic", ("SI", "AP", "RL"), (1, 1, 1)),
        ("thick-SI", ("SI", "AP", "RL"), (0.5, 0.5, 4)),
        ("thick-RL", ("RL", "SI", "AP"), (3.3, 0.6, 0.6)),
        ("thick-AP", ("AP", "SI", "RL"), (0.6, 3.3, 0.6)),
    ],
)
def test_plans_beside_a_file_tell_axes_and_spacing(
    planner: str, geometry: str, axes: tuple[str, ...], spacing: tuple[float, ...]
) -> None:
    """By nnU-Net 2.0, whose plans have no architecture: its tensors have."""
    folder = FIXTURES / "plans" / "2.0"
    beside = json.loads((folder / f"{planner}-{geometry}.json").read_text())
    file = FIXTURES / "checkpoints" / f"2.0-{planner}.pth"
    checkpoint = describe.read(file).checkpoint
    bare = describe.Found(
        file=file,
        checkpoint=checkpoint,
        topology=describe.read(file).topology,
        plans=beside,
        configuration="3d_fullres",
        dataset_json=json.loads((folder / geometry / "dataset.json").read_text()),
    )
    found = describe.manifest_of(bare, sha256="", source=Source(file.name, ""), model=None)
    assert found.network is not None
    assert found.network.axes == axes
    assert found.network.arch_kwargs["features_per_stage"] == [2, 4, 4]
    by_axis = beside["configurations"]["3d_fullres"]["patch_size"]
    assert [getattr(found.network.patch_size, axis) for axis in axes] == by_axis
    assert found.trained_on.spacing is not None
    told = [getattr(found.trained_on.spacing, axis) for axis in ("RL", "AP", "SI")]
    assert told == pytest.approx(spacing)


def test_plans_in_the_file_go_before_those_beside_it(tmp_path: Path) -> None:
    file = file_with(tmp_path, plans())
    found = manifest(file, plans=plans(batch_size=9), configuration="3d_lowres")
    assert found.network is not None and found.network.batch_size == 3


def test_a_configuration_inherits_what_it_does_not_say(tmp_path: Path) -> None:
    given = plans()
    given["configurations"]["3d_lowres"] = given["configurations"].pop("3d_fullres")
    given["configurations"]["3d_fullres"] = {
        "inherits_from": "3d_lowres",
        "spacing": [1.0, 1.0, 2.0],
        "batch_size": 5,
    }
    found = manifest(file_with(tmp_path, given))
    assert found.network is not None
    assert (found.network.batch_size, found.network.patch_size.SI) == (5, 16)
    assert found.trained_on.spacing == ByAxis(RL=2, AP=1, SI=1)


def test_configurations_that_inherit_from_each_other_end(tmp_path: Path) -> None:
    given = plans(inherits_from="3d_lowres")
    given["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres"}
    assert manifest(file_with(tmp_path, given)).network is not None


# --- plans that lie, or are not there ------------------------------------------------------------


def architecture(**changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = plans()["configurations"]["3d_fullres"]["architecture"]
    told["arch_kwargs"] |= changes
    return told


def test_what_no_tensor_shows_is_taken_from_the_plans(tmp_path: Path) -> None:
    found = manifest(file_with(tmp_path, plans()))
    assert found.network is not None
    assert found.network.arch_kwargs["nonlin_kwargs"] == {"inplace": True, "negative_slope": 0.25}


@pytest.mark.parametrize(
    "lie",
    [
        {"architecture": architecture(features_per_stage=[4, 16])},
        {"architecture": architecture(strides=[[1, 1, 1], [1, 2, 2]])},
        {"architecture": architecture(n_stages=3)},
        {"architecture": architecture(kernel_sizes=[[1, 3, 3], [3, 3, 3]])},
        {"architecture": architecture(conv_bias=False)},
        {"architecture": architecture() | {"network_class_name": "unet.ResidualEncoderUNet"}},
        {"architecture": {"network_class_name": "PlainConvUNet"}},
        {"architecture": {"network_class_name": 3, "arch_kwargs": []}},
        {"architecture": architecture(conv_op=None)},
        {"architecture": architecture(features_per_stage=4.5)},
        {"architecture": "PlainConvUNet"},
        {"architecture": None},
    ],
)
def test_plans_that_contradict_the_tensors_are_overruled_by_them(
    tmp_path: Path, lie: dict[str, Any]
) -> None:
    found = manifest(file_with(tmp_path, plans(**lie)))
    assert found.network is not None
    kwargs = found.network.arch_kwargs
    assert found.network.network_class_name.endswith("PlainConvUNet")
    assert (kwargs["n_stages"], kwargs["features_per_stage"]) == (2, [4, 8])
    assert (kwargs["strides"], kwargs["kernel_sizes"]) == ([[1, 1, 1], [2, 2, 2]], KERNELS)
    assert kwargs["conv_bias"] is True
    # what is no matter of tensors counts all the same
    assert found.network.patch_size == PatchSize(SI=16, AP=24, RL=32)


def test_flat_keys_as_the_guide_edits_them_mean_nothing(tmp_path: Path) -> None:
    flat = {"n_stages": 6, "features_per_stage": [32] * 6, "strides": [[1, 1, 1]] * 6}
    found, without = (manifest(file_with(tmp_path, plans(**p))) for p in (flat, {}))
    assert found.network == without.network


@pytest.mark.parametrize(
    "given",
    [
        {},
        [],
        None,
        {"configurations": []},
        {"configurations": {"3d_fullres": []}},
        plans() | {"transpose_forward": [0, 0, 1]},
        plans() | {"transpose_forward": [0, 1]},
        plans() | {"transpose_forward": "012"},
        plans() | {"transpose_forward": None},
        plans(patch_size=[16, 24]),
        plans(patch_size=[16, 24, 0]),
        plans(patch_size="16"),
        plans(batch_size=0),
        plans(batch_size=None),
    ],
)
def test_plans_without_axes_patch_or_batch_give_no_network(tmp_path: Path, given: Any) -> None:
    found = manifest(file_with(tmp_path, given))
    assert found.network is None
    assert (found.channels, found.heads) == (1, 2)


@pytest.mark.parametrize("spacing", [None, [], [1, 1], [1, 1, 0], [1, 1, -1], "1", [1, 1, "a"]])
def test_a_spacing_that_is_none_is_not_known(tmp_path: Path, spacing: Any) -> None:
    found = manifest(file_with(tmp_path, plans(spacing=spacing)))
    assert found.trained_on.spacing is None
    assert found.network is not None


# --- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "forward", "axes"),
    [
        (None, [0, 1, 2], ("SI", "AP", "RL")),
        ("RPI", [2, 1, 0], ("RL", "AP", "SI")),
        ("LAS", [1, 0, 2], ("AP", "SI", "RL")),
        ("AIL", [0, 1, 2], ("RL", "SI", "AP")),  # arrays are (x, y, z) of the file in reverse
        ("PSR", [2, 0, 1], ("AP", "RL", "SI")),
    ],
)
def test_axes_follow_from_the_orientation_and_the_transposition(
    tmp_path: Path, orientation: str | None, forward: list[int], axes: tuple[str, ...]
) -> None:
    given = plans() | {"transpose_forward": forward}
    found = manifest(file_with(tmp_path, given, dataset_json={"image_orientation": orientation}))
    assert found.network is not None
    assert found.network.axes == axes
    assert [getattr(found.network.patch_size, axis) for axis in axes] == [16, 24, 32]
    assert found.trained_on.spacing is not None
    assert [getattr(found.trained_on.spacing, axis) for axis in axes] == [3.0, 0.75, 0.5]


def test_the_reader_that_reorients_has_its_own_order(tmp_path: Path) -> None:
    given = plans() | {"image_reader_writer": "NibabelIOWithReorient"}
    found = manifest(file_with(tmp_path, given, dataset_json={"image_orientation": "AIL"}))
    assert found.network is not None and found.network.axes == ("SI", "AP", "RL")


def test_axes_by_the_profiles_orientation_where_the_file_has_none(tmp_path: Path) -> None:
    model = Model(name="mine", trained_on=TrainedOn(orientation="AIL"))
    found = manifest(file_with(tmp_path, plans()), model=model)
    assert found.network is not None and found.network.axes == ("RL", "SI", "AP")


# --- dataset.json --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "crop"),
    [
        ({"crop": {"to": "cord", "margin_mm": 30.0}}, Crop("cord", 30.0)),
        ({"crop": {"to": "cord", "margin_mm": 12.5}}, Crop("cord", 12.5)),
        ({"crop": "none"}, "none"),
        ({}, None),
        ({"crop": "some"}, None),
        ({"crop": {"margin_mm": 30}}, None),
        ({"crop": {"to": "cord", "margin_mm": "wide"}}, None),
        ({"crop": {"to": "cord", "margin_mm": -1}}, None),
        ({"crop": {"to": ["cord"], "margin_mm": 1}}, None),
    ],
)
def test_the_crop_is_that_of_our_own_exports(
    tmp_path: Path, said: dict[str, Any], crop: Any
) -> None:
    given = {"image_orientation": "RPI", **said}
    found = manifest(file_with(tmp_path, plans(), dataset_json=given))
    assert found.trained_on == TrainedOn(
        orientation="RPI", spacing=ByAxis(SI=3.0, AP=0.75, RL=0.5), crop=crop, channels=1
    )


@pytest.mark.parametrize("orientation", ["rpi", "RPX", "RLA", "", 3, ["R", "P", "I"]])
def test_an_orientation_that_is_none_is_not_known(tmp_path: Path, orientation: object) -> None:
    given = {"image_orientation": orientation, "crop": "none"}
    found = manifest(file_with(tmp_path, plans(), dataset_json=given))
    assert (found.trained_on.orientation, found.trained_on.crop) == (None, "none")


def test_dataset_json_beside_the_file_counts_where_it_has_none(tmp_path: Path) -> None:
    beside = {"image_orientation": "LPI"}
    found = manifest(file_with(tmp_path, plans()), dataset_json=beside)
    assert found.trained_on.orientation == "LPI"


# --- other programs' files -----------------------------------------------------------------------


def test_a_checkpoint_of_lightning_does_not_tell_its_axes(tmp_path: Path) -> None:
    found = manifest(saved(lightning(), tmp_path / "last.ckpt"))
    assert (found.family, found.epochs, found.prefix) == ("Lightning", 9, "net.")
    assert found.network is None
    assert found.trained_on == TrainedOn(channels=1)
    assert "loss_function.weight (outside of net.)" in found.left_out
    assert not any(name.startswith("net.") for name in found.tensors)


def test_a_bare_state_dict_does_not_either_unless_plans_lie_beside_it(tmp_path: Path) -> None:
    file = saved(network().state_dict(), tmp_path / "weights.pth")
    assert manifest(file).network is None
    assert manifest(file).family == "state dict"
    beside = manifest(file, plans=plans())
    assert beside.network is not None and beside.network.axes == ("SI", "AP", "RL")


def test_a_file_without_a_head_has_no_outputs(tmp_path: Path) -> None:
    tensors = {k: v for k, v in network().state_dict().items() if ".seg_layers." not in k}
    found = manifest(saved(tensors, tmp_path / "body.pth"), plans=plans())
    assert found.heads is None
    assert found.network is not None
    assert found.network.arch_kwargs["nonlin_kwargs"]["negative_slope"] == 0.25


def test_tensors_under_one_name_each_are_enough(tmp_path: Path) -> None:
    whole = network().state_dict()
    names = [n for n in whole if not n.startswith("decoder.encoder.") and "all_modules" not in n]
    found = manifest(saved({n: whole[n] for n in names}, tmp_path / "a.pth"), plans=plans())
    assert found.network is not None
    assert found.network.arch_kwargs["nonlin_kwargs"]["negative_slope"] == 0.25


def test_shared_tensors_are_named_as_such_and_counted_once(tmp_path: Path) -> None:
    made = network()
    found = manifest(saved(made.state_dict(), tmp_path / "weights.pth"))
    entry = found.tensors["decoder.encoder.stages.0.0.convs.0.conv.weight"]
    assert entry.same_as == "encoder.stages.0.0.convs.0.conv.weight"
    assert found.parameters == sum(p.numel() for p in made.parameters())
    assert found.shapes == {k: tuple(v.shape) for k, v in made.state_dict().items()}


@pytest.mark.parametrize("epoch", [None, True, 1.5, "9"])
def test_an_epoch_that_is_no_number_is_not_known(tmp_path: Path, epoch: object) -> None:
    file = saved(nnunet() | {"current_epoch": epoch, "trainer_name": 3}, tmp_path / "a.pth")
    found = manifest(file)
    assert (found.epochs, found.trainer) == (None, None)


# --- profiles ------------------------------------------------------------------------------------


def test_what_the_profile_says_counts_over_what_the_file_says(tmp_path: Path) -> None:
    own = network_of("demo")
    said = TrainedOn(orientation="LPI", spacing=ByAxis(RL=9, AP=9, SI=9), crop="none")
    given: Mapping[str, Any] = {"image_orientation": "RPI", "crop": {"to": "cord", "margin_mm": 1}}
    file = file_with(tmp_path, plans(), dataset_json=given)
    found = manifest(file, model=Model(name="mine", network=own, trained_on=said))
    assert (found.profile, found.network) == ("mine", own)
    assert found.trained_on == TrainedOn("LPI", ByAxis(RL=9, AP=9, SI=9), "none", 1)


def test_what_the_profile_leaves_open_is_filled_from_the_file(tmp_path: Path) -> None:
    model = Model(name="mine", trained_on=TrainedOn(crop=Crop("cord", 30.0)))
    given = {"image_orientation": "RPI", "crop": "none"}
    found = manifest(file_with(tmp_path, plans(), dataset_json=given), model=model)
    assert isinstance(found.network, Network)
    assert found.trained_on == TrainedOn(
        "RPI", ByAxis(SI=3.0, AP=0.75, RL=0.5), Crop("cord", 30.0), 1
    )


# --- what nnU-Net cannot start from ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"model.0.conv.unit0.conv.weight": torch.zeros(2, 1, 3, 3, 3)}, "MONAI's UNet"),
        (network(dimensions=2).state_dict(), "2D network"),
    ],
    ids=["MONAI", "2D"],
)
def test_a_network_of_another_kind_is_refused_with_the_files_name(
    tmp_path: Path, tensors: Mapping[str, Any], told: str
) -> None:
    file = saved(tensors, tmp_path / "a.pth")
    with pytest.raises(CaHpcError) as refused:
        describe.read(file)
    assert refused.value.message.startswith(f"{file}: ")
    assert told in refused.value.message


def test_a_profile_with_other_axes_than_the_files_own_is_a_doubt(tmp_path: Path) -> None:
    file = file_with(tmp_path, plans())  # whose transpose_forward means SI, AP, RL
    model = Model(name="mine", network=network_of("demo"))
    assert model.network is not None and model.network.axes == ("RL", "AP", "SI")
    found = manifest(file, model=model)
    assert found.network == model.network
    (doubt,) = found.doubts
    assert "profile mine says RL, AP, SI, and counts" in doubt
    assert "own plans say SI, AP, RL" in doubt
    # a spacing by those axes would be one by the wrong ones
    assert found.trained_on.spacing is None
