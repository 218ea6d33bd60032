"""Names and shapes against the networks themselves, and back from the shapes to the network."""

from __future__ import annotations

import pydoc
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures import unet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_hpc import configs
from ca_hpc.errors import CaHpcError
from ca_hpc.weights.topology import (
    HEAD,
    canonical_name,
    feature_map_size,
    parameters,
    tensor_shapes,
    topology_of,
)

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")
ISOTROPIC = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
RL_LESS = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
SI_LESS = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 1]]
THICK = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
CUBES = [[3, 3, 3]] * 4
FLAT_FIRST = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
BATCH_NORM = {"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}

Shapes = dict[str, tuple[int, ...]]


def plans(**changes: Any) -> dict[str, Any]:
    """arch_kwargs as nnU-Net's plans have them, of a small PlainConvUNet."""
    return {
        "n_stages": 4,
        "features_per_stage": [4, 8, 16, 16],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": CUBES,
        "strides": ISOTROPIC,
        "n_conv_per_stage": [2, 2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **changes,
    }


def resenc(**changes: Any) -> dict[str, Any]:
    out = plans(n_blocks_per_stage=[1, 3, 4, 6], n_conv_per_stage_decoder=[1, 1, 1])
    del out["n_conv_per_stage"]
    return {**out, **changes}


def built(
    arch_kwargs: Mapping[str, Any],
    name: str,
    *,
    channels: int = 1,
    heads: int = 2,
    deep_supervision: bool = True,
) -> torch.nn.Module:
    """The network itself, without memory for its tensors."""
    imported = {key: arch_kwargs[key] and pydoc.locate(arch_kwargs[key]) for key in IMPORTED}
    with torch.device("meta"):
        network: torch.nn.Module = getattr(unet, name.rpartition(".")[2])(
            input_channels=channels,
            num_classes=heads,
            deep_supervision=deep_supervision,
            **{**arch_kwargs, **imported},
        )
    return network


def shapes_of(network: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


NETWORKS = {
    "plain": (PLAIN, plans()),
    "plain, last stride spares RL": (PLAIN, plans(strides=RL_LESS)),
    "plain, last stride spares SI": (PLAIN, plans(strides=SI_LESS)),
    "plain, thick slices": (PLAIN, plans(strides=THICK, kernel_sizes=FLAT_FIRST)),
    "plain, no bias": (PLAIN, plans(conv_bias=False)),
    "plain, batch norm": (PLAIN, plans(**BATCH_NORM)),
    "plain, uneven": (
        PLAIN,
        plans(n_conv_per_stage=[1, 2, 3, 2], n_conv_per_stage_decoder=[3, 1, 2]),
    ),
    "residual": (RESENC, resenc()),
    "residual, thick slices": (RESENC, resenc(strides=THICK, kernel_sizes=FLAT_FIRST)),
    "residual, no bias": (RESENC, resenc(conv_bias=False)),
    "residual, batch norm": (RESENC, resenc(**BATCH_NORM)),
    "residual, wider stem": (RESENC, resenc(stem_channels=6)),
    "ResEnc M of nnU-Net": (
        RESENC,
        resenc(
            n_stages=6,
            features_per_stage=[32, 64, 128, 256, 320, 320],
            kernel_sizes=[[3, 3, 3]] * 6,
            strides=[[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]],
            n_blocks_per_stage=[1, 3, 4, 6, 6, 6],
            n_conv_per_stage_decoder=[1] * 5,
        ),
    ),
}
# what the shapes do not tell, or what plans may abbreviate
UNTOLD = {
    "dropout": (PLAIN, plans(dropout_op="torch.nn.Dropout3d", dropout_op_kwargs={"p": 0.1})),
    "residual with dropout": (
        RESENC,
        resenc(dropout_op="torch.nn.Dropout3d", dropout_op_kwargs={"p": 0.1}),
    ),
    "nonlinearity first": (PLAIN, plans(nonlin_first=True)),
    "no normalisation": (PLAIN, plans(norm_op=None, norm_op_kwargs=None)),
    "no affine": (PLAIN, plans(norm_op_kwargs={"affine": False})),
    "tracked": (PLAIN, plans(norm_op_kwargs={"affine": True, "track_running_stats": True})),
    "whole numbers": (
        PLAIN,
        plans(
            features_per_stage=8,
            kernel_sizes=3,
            strides=[1, 2, 2, 2],
            n_conv_per_stage=2,
            n_conv_per_stage_decoder=1,
        ),
    ),
    "strided at once": (PLAIN, plans(strides=[[2, 2, 2]] * 4)),
    "2D": (
        PLAIN,
        plans(
            conv_op="torch.nn.modules.conv.Conv2d",
            norm_op="torch.nn.modules.instancenorm.InstanceNorm2d",
            kernel_sizes=[[3, 3]] * 4,
            strides=[[1, 1], [2, 2], [2, 2], [2, 2]],
        ),
    ),
}


def case(name: str) -> tuple[str, dict[str, Any]]:
    return {**NETWORKS, **UNTOLD}[name]


@pytest.mark.parametrize("name", [*NETWORKS, *UNTOLD])
@pytest.mark.parametrize(("channels", "heads"), [(1, 2), (2, 1), (3, 3)])
def test_names_and_shapes_are_those_of_the_network(name: str, channels: int, heads: int) -> None:
    network, arch_kwargs = case(name)
    real = shapes_of(built(arch_kwargs, network, channels=channels, heads=heads))
    found = tensor_shapes(arch_kwargs, network_class_name=network, channels=channels, heads=heads)
    assert found is not None
    assert list(found.items()) == list(real.items())


@pytest.mark.parametrize("name", [*NETWORKS, *UNTOLD])
def test_the_network_counts_its_parameters_and_its_memory_alike(name: str) -> None:
    network, arch_kwargs = case(name)
    real = built(arch_kwargs, network, heads=3, deep_supervision=False)
    assert parameters(shapes_of(real)) == sum(p.numel() for p in real.parameters())
    for patch in ((64, 96, 160), (32, 32, 32), (80, 48, 112)):
        size = patch[: int(arch_kwargs["conv_op"][-2])]
        assert feature_map_size(
            arch_kwargs, network_class_name=network, patch=size, heads=3
        ) == real.compute_conv_feature_map_size(size)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "heads"), [(1, 2), (3, 1)])
def test_the_network_is_found_from_its_shapes(name: str, channels: int, heads: int) -> None:
    network, arch_kwargs = case(name)
    shapes = tensor_shapes(arch_kwargs, network_class_name=network, channels=channels, heads=heads)
    assert shapes is not None
    found = topology_of(shapes)
    assert found.arch_kwargs == arch_kwargs
    assert (found.network_class_name, found.requires_import) == (network, IMPORTED)
    assert (found.channels, found.heads) == (channels, heads)


@st.composite
def networks(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    stages = draw(st.integers(2, 5))
    options: dict[str, Any] = {
        "n_stages": stages,
        "features_per_stage": draw(st.lists(st.integers(1, 9), min_size=stages, max_size=stages)),
        "kernel_sizes": [draw(st.sampled_from([[3, 3, 3], [1, 3, 3]])) for _ in range(stages)],
        "strides": [
            [1, 1, 1],
            *[[draw(st.integers(1, 2)) for _ in range(3)] for _ in range(stages - 1)],
        ],
        "n_conv_per_stage_decoder": [draw(st.integers(1, 3)) for _ in range(stages - 1)],
        "conv_bias": draw(st.booleans()),
        **draw(st.sampled_from([{}, BATCH_NORM])),
    }
    blocks = [draw(st.integers(1, 3)) for _ in range(stages)]
    if draw(st.booleans()):
        return RESENC, resenc(n_blocks_per_stage=blocks, **options)
    return PLAIN, plans(n_conv_per_stage=blocks, **options)


@given(network=networks(), channels=st.integers(1, 3), heads=st.integers(1, 3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_network_of_the_two_classes_survives_the_way_there_and_back(
    network: tuple[str, dict[str, Any]], channels: int, heads: int
) -> None:
    name, arch_kwargs = network
    real = shapes_of(built(arch_kwargs, name, channels=channels, heads=heads))
    found = topology_of(real)
    assert (found.network_class_name, found.channels, found.heads) == (name, channels, heads)
    assert shapes_of(built(found.arch_kwargs, name, channels=channels, heads=heads)) == real
    patch = (32, 64, 96)
    without = built(arch_kwargs, name, heads=2, deep_supervision=False)
    assert feature_map_size(
        arch_kwargs, network_class_name=name, patch=patch
    ) == without.compute_conv_feature_map_size(patch)


def test_the_contrast_agnostic_network_has_the_numbers_of_its_checkpoint(tmp_path: Path) -> None:
    network = configs.model("contrast-agnostic-v2", relative_to=tmp_path).network
    assert network is not None
    name = network.network_class_name
    shapes = tensor_shapes(network.arch_kwargs, network_class_name=name, channels=1, heads=2)
    assert shapes is not None
    assert (len(shapes), parameters(shapes)) == (292, 30_785_994)
    found = topology_of(shapes).arch_kwargs
    assert found == network.arch_kwargs
    assert found["strides"][-1] == [1, 2, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"block": "BottleneckD", "bottleneck_channels": 4},
        {"norm_op": "torch.nn.GroupNorm"},
    ],
)
def test_an_option_that_is_not_known_is_no_guess(changes: dict[str, Any]) -> None:
    for ask in (
        tensor_shapes(resenc(**changes), network_class_name=RESENC, channels=1, heads=2),
        feature_map_size(resenc(**changes), network_class_name=RESENC, patch=(32, 32, 32)),
    ):
        assert ask is None


def test_a_class_that_is_not_known_is_no_guess() -> None:
    assert tensor_shapes(plans(), network_class_name="x.Primus", channels=1, heads=2) is None


def test_entries_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(CaHpcError, match=r"arch_kwargs\.strides has 3 entries, 4 are needed"):
        tensor_shapes(plans(strides=ISOTROPIC[:3]), network_class_name=PLAIN, channels=1, heads=2)


# --- other names of the same tensors --------------------------------------------------------------


def shapes(name: str = "plain") -> Shapes:
    network, arch_kwargs = case(name)
    found = tensor_shapes(arch_kwargs, network_class_name=network, channels=1, heads=2)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["plain", "residual", "residual with dropout"])
def test_names_of_one_tensor_have_one_canonical_name(name: str) -> None:
    network, arch_kwargs = case(name)
    real = built(arch_kwargs, network).to_empty(device="cpu").state_dict()
    by_memory, by_name = defaultdict(set), defaultdict(set)
    for alias, tensor in real.items():
        by_memory[tensor.data_ptr()].add(alias)
        by_name[canonical_name(alias)].add(alias)
    assert sorted(map(sorted, by_memory.values())) == sorted(map(sorted, by_name.values()))


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_one_name_of_each_tensor_is_enough_whichever(name: str) -> None:
    for pick in (min, max):  # safetensors keeps the first in the alphabet
        kept: dict[str, str] = {}
        for alias in shapes(name):
            canonical = canonical_name(alias)
            kept[canonical] = pick(alias, kept.get(canonical, alias))
        few = {alias: shapes(name)[alias] for alias in kept.values()}
        assert len(few) < len(shapes(name))
        assert topology_of(few) == topology_of(shapes(name))
        assert parameters(few) == parameters(shapes(name))


def test_the_head_may_be_missing() -> None:
    found = topology_of({n: s for n, s in shapes().items() if not n.startswith(HEAD)})
    assert found.heads is None
    assert found.arch_kwargs == plans()


@pytest.mark.parametrize("name", ["dropout", "residual with dropout", "nonlinearity first"])
def test_what_comes_before_the_norm_cannot_be_told(name: str) -> None:
    with pytest.raises(CaHpcError, match="cannot be told from its tensors alone") as refused:
        topology_of(shapes(name))
    assert "plans.json" in str(refused.value.hint)


# --- what is refused, and what it is called -------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["model.0.conv.unit0.conv.weight", "model.1.submodule.0.conv.weight"], "MONAI's UNet"),
        (["swinViT.patch_embed.proj.weight", "encoder1.layer.conv1.conv.weight"], "SwinUNETR"),
        (["vit.blocks.0.mlp.linear1.weight"], "UNETR"),
        (["input_block.conv1.conv.weight", "bottleneck.conv1.conv.weight"], "DynUNet"),
        (["convInit.conv.weight", "down_layers.0.1.norm1.weight"], "SegResNet"),
        (["conv_0.conv_0.conv.weight", "upcat_4.upsample.deconv.weight"], "BasicUNet"),
        (["conv3d_c1_1.weight"], "Modified3DUNet"),
        (["eva.blocks.0.attn.q_proj.weight", "down_projection.proj.weight"], "Primus"),
        (["conv_blocks_context.0.blocks.0.conv.weight"], "nnU-Net 1"),
        (["layer1.0.conv1.weight", "fc.weight"], "not the weights of a network of nnU-Net: layer1"),
    ],
)
def test_other_networks_are_called_by_their_names(names: list[str], told: str) -> None:
    with pytest.raises(CaHpcError) as refused:
        topology_of(dict.fromkeys(names, (8, 1, 3, 3, 3)))
    assert told in refused.value.message
    assert "nnU-Net 2" in str(refused.value.hint)


@pytest.mark.parametrize("prefix", ["encoder.", ""])
def test_an_encoder_alone_is_sent_to_the_route_for_it(prefix: str) -> None:
    kept = {
        prefix + name.removeprefix("encoder."): shape
        for name, shape in shapes("residual").items()
        if name.startswith("encoder.")
    }
    with pytest.raises(CaHpcError, match="an encoder without its decoder") as refused:
        topology_of(kept)
    assert "nnUNetv2_train_pretrained" in str(refused.value.hint)


@pytest.mark.parametrize("prefix", ["model.", "ema.model.", "student.net."])
def test_an_unknown_prefix_is_named(prefix: str) -> None:
    with pytest.raises(CaHpcError) as refused:
        topology_of({prefix + name: shape for name, shape in shapes().items()})
    assert f"a prefix that is not known: '{prefix}'" in refused.value.message
    assert f"name.removeprefix('{prefix}')" in str(refused.value.hint)


def test_a_2d_network_is_refused() -> None:
    with pytest.raises(CaHpcError, match="2D network"):
        topology_of(shapes("2D"))


def test_nothing_is_no_network() -> None:
    with pytest.raises(CaHpcError, match="no tensors"):
        topology_of({})


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("decoder.transpconvs.1.", "there is no decoder.transpconvs.1.weight"),
        ("encoder.stages.2.", "there is no encoder.stages.2.0.convs.0.conv.weight"),
        ("decoder.stages.1.convs.0.", "decoder.stages.1.convs.0"),
        ("decoder.stages.2.", "2 entries, 3 are needed"),
    ],
)
def test_a_part_that_is_missing_is_named(gone: str, told: str) -> None:
    kept = {n: s for n, s in shapes().items() if not canonical_name(n).startswith(gone)}
    with pytest.raises(CaHpcError) as refused:
        topology_of(kept)
    assert told in refused.value.message


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        (
            "decoder.stages.0.convs.1.conv.weight",
            (16, 99, 3, 3, 3),
            "decoder.stages.0.convs.1.conv.weight: [16, 99, 3, 3, 3], [16, 16, 3, 3, 3] expected",
        ),
        ("decoder.attention.weight", (4,), "decoder.attention.weight: [4], none expected"),
    ],
)
def test_a_changed_network_is_refused_by_its_tensors(
    name: str, shape: tuple[int, ...], told: str
) -> None:
    changed = {n: s for n, s in shapes().items() if canonical_name(n) != name} | {name: shape}
    with pytest.raises(CaHpcError) as refused:
        topology_of(changed)
    assert told in refused.value.message
