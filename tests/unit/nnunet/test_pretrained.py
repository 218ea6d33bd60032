"""Pretrained weights fit nnU-Net's networks, are made to fit as asked, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.nnunet.pretrained import HEAD, load_into, shuffle, verified_sha256

ARCHITECTURES = {
    "PlainConvUNet": {"n_conv_per_stage": [2, 2, 2]},
    "ResidualEncoderUNet": {"n_blocks_per_stage": [1, 2, 2]},
}
STEMS = {
    "PlainConvUNet": "encoder.stages.0.0.convs.0.conv.weight",
    "ResidualEncoderUNet": "encoder.stem.convs.0.conv.weight",
}
HEADS = ("decoder.seg_layers.0.weight", "decoder.seg_layers.1.bias")


def network(
    name: str = "PlainConvUNet", *, seed: int, channels: int = 1, heads: int = 2, features: int = 4
) -> Any:
    """One of nnU-Net's networks, three stages deep, its random weights those of ``seed``."""
    torch.manual_seed(seed)
    return get_network_from_plans(
        f"dynamic_network_architectures.architectures.unet.{name}",
        {
            "n_stages": 3,
            "features_per_stage": [features, 2 * features, 4 * features],
            "conv_op": torch.nn.Conv3d,
            "kernel_sizes": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": torch.nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": torch.nn.LeakyReLU,
            **ARCHITECTURES[name],
        },
        [],
        channels,
        heads,
        allow_init=False,
        deep_supervision=False,
    )


def copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(params=list(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_all_but_the_head_is_loaded() -> None:
    source, target = network(seed=0), network(seed=1)
    before = copied(target.state_dict())
    report = load_into(target, {**source.state_dict(), "teacher.weight": torch.ones(1)})
    after = target.state_dict()
    heads = [key for key in after if HEAD in key]
    assert report.skipped == tuple(heads) and set(HEADS) <= set(heads)
    assert all(torch.equal(after[key], before[key]) for key in heads)
    assert set(report.loaded) | set(heads) == set(after)
    assert all(torch.equal(after[key], source.state_dict()[key]) for key in report.loaded)
    assert (report.unused, report.repeated) == (("teacher.weight",), None)


def test_the_head_is_taken_too_where_asked(name: str) -> None:
    source, target = network(name, seed=0, heads=3), network(name, seed=1, heads=3)
    report = load_into(target, source.state_dict(), head="pretrained")
    assert report.skipped == ()
    image = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(target(image), source(image))


def test_a_head_of_another_number_of_outputs_is_refused() -> None:
    with pytest.raises(CaHpcError) as caught:
        load_into(network(seed=0), network(seed=1, heads=1).state_dict(), head="pretrained")
    assert "(1, 8, 1, 1, 1) in the file, (2, 8, 1, 1, 1) in the network" in caught.value.message
    assert caught.value.hint is not None
    assert "They have 1 output, the data need 2" in caught.value.hint
    assert "head: new" in caught.value.hint


def test_a_file_without_a_head_has_none_to_give() -> None:
    weights = {key: of for key, of in network(seed=0).state_dict().items() if HEAD not in key}
    assert load_into(network(seed=1), weights).skipped
    with pytest.raises(CaHpcError, match=r"seg_layers\.0\.weight: missing in the file"):
        load_into(network(seed=1), weights, head="pretrained")


def test_a_misfit_names_the_first_tensor_both_shapes_and_the_count() -> None:
    target = network(seed=0)
    before = copied(target.state_dict())
    with pytest.raises(CaHpcError) as caught:
        load_into(target, network(seed=1, features=6).state_dict())
    count = sum(HEAD not in key for key in before)
    assert f"{count} of {count} tensors differ, first {STEMS['PlainConvUNet']}: " in str(
        caught.value.message
    )
    assert "(6, 1, 3, 3, 3) in the file, (4, 1, 3, 3, 3) in the network" in caught.value.message
    assert len(caught.value.message) < 300
    assert all(torch.equal(of, before[key]) for key, of in target.state_dict().items())


def test_a_missing_tensor_is_named() -> None:
    weights = copied(network(seed=0).state_dict())
    names = [key for key in weights if key.endswith("stages.1.0.convs.0.norm.weight")]
    for key in (*names, *(key.replace("norm", "all_modules.1") for key in names)):
        del weights[key]
    with pytest.raises(CaHpcError, match=r"first encoder\.stages\.1\.0\.convs\.0\.norm.*missing"):
        load_into(network(seed=1), weights)


def test_a_file_that_holds_each_parameter_under_one_name_is_enough(name: str) -> None:
    source, target = network(name, seed=0), network(name, seed=1)
    once = {key: of.detach() for key, of in source.named_parameters()}
    assert len(once) < len(source.state_dict())
    load_into(target, once, head="pretrained")
    assert all(torch.equal(of, source.state_dict()[key]) for key, of in target.state_dict().items())


@pytest.mark.parametrize(("have", "need"), [(1, 2), (1, 3), (2, 3), (2, 5)])
def test_a_repeated_stem_answers_a_repeated_image_as_before(
    name: str, have: int, need: int
) -> None:
    source, target = network(name, seed=0, channels=have), network(name, seed=1, channels=need)
    report = load_into(target, source.state_dict(), stem="repeat", head="pretrained")
    assert report.repeated == (have, need)
    image = torch.randn(1, have, 8, 8, 8)
    repeated = image[:, [channel % have for channel in range(need)]]
    assert torch.allclose(target(repeated), source(image), atol=1e-5)
    stem = target.get_parameter(STEMS[name])
    of = source.get_parameter(STEMS[name])
    assert torch.allclose(stem[:, 0] * (-(-need // have)), of[:, 0])


def test_a_stem_that_fits_is_not_repeated(name: str) -> None:
    source, target = network(name, seed=0, channels=2), network(name, seed=1, channels=2)
    assert load_into(target, source.state_dict(), stem="repeat").repeated is None
    assert torch.equal(target.get_parameter(STEMS[name]), source.get_parameter(STEMS[name]))


def test_fewer_channels_than_the_images_have_are_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(CaHpcError) as caught:
        load_into(network(name, seed=0, channels=2), network(name, seed=1).state_dict())
    assert "have 1 input channel, the images have 2" in caught.value.message
    assert f"{STEMS[name]}: (4, 1, 3, 3, 3) in the file" in caught.value.message
    assert caught.value.hint is not None and "stem: repeat" in caught.value.hint


def test_more_channels_than_the_images_have_are_always_refused(name: str) -> None:
    weights = network(name, seed=1, channels=3).state_dict()
    with pytest.raises(CaHpcError, match="expect 3 input channels, the images have 2") as caught:
        load_into(network(name, seed=0, channels=2), weights, stem="repeat")
    assert caught.value.hint is not None and "all of these channels" in caught.value.hint


def test_shuffled_weights_have_the_same_values_in_other_places(name: str) -> None:
    # wide enough that no tensor is shuffled into itself by chance
    loaded, shuffled = (network(name, seed=0, features=16) for _ in range(2))
    for tensor in (*loaded.parameters(), *shuffled.parameters()):  # norms are 1 and 0 when new
        tensor.data += torch.linspace(0, 1, tensor.numel()).reshape(tensor.shape)
    names = [key for key in loaded.state_dict() if HEAD not in key]
    shuffle(shuffled, names=names, seed=5)
    for (key, before), after in zip(loaded.named_parameters(), shuffled.parameters(), strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
        assert torch.equal(before, after) == (HEAD in key), key


def test_shuffled_weights_agree_under_all_their_names_and_follow_the_seed(name: str) -> None:
    networks = [network(name, seed=0) for _ in range(3)]
    names = tuple(networks[0].state_dict())
    for net, seed in zip(networks, (5, 5, 6), strict=True):
        shuffle(net, names=names, seed=seed)
    first, again, other = (net.state_dict() for net in networks)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[STEMS[name]], other[STEMS[name]])
    for key in first:
        assert torch.equal(first[key], first[key.replace("decoder.encoder.", "encoder.")])
        assert torch.equal(first[key], first[key.replace(".conv.", ".all_modules.0.")])


def test_shuffling_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    net = network(seed=0)
    torch.manual_seed(3)
    shuffle(net, names=net.state_dict(), seed=5)
    assert torch.equal(torch.rand(2), expected)


def test_another_file_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    found = verified_sha256(file, None)
    assert verified_sha256(file, found) == found
    with pytest.raises(DigestMismatch, match=found):
        verified_sha256(file, "0" * 64)
    with pytest.raises(CaHpcError, match="no weights at"):
        verified_sha256(tmp_path / "absent.pth", None)
