"""Plans patched for a model: axes move together, and a patch fits the network."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc import configs
from ca_hpc.core.profile import Model
from ca_hpc.core.spec import ByAxis, PatchSize, Plans
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.plans import (
    ARRAY_AXES,
    check_patch,
    divisors,
    model_from_network,
    patch_plans,
    target_spacing,
)

orders = st.permutations(range(3))
strides = st.lists(
    st.lists(st.sampled_from([1, 2]), min_size=3, max_size=3), min_size=1, max_size=6
)


def planned(transpose_forward: list[int]) -> dict[str, Any]:
    """Plans as nnU-Net writes them: spacing (mm) and shapes along its own, transposed axes."""
    spacing, shape = (3.0, 0.5, 0.8), (30, 200, 256)  # SI, AP, RL
    return {
        "dataset_name": "Dataset501_neck",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing[i] for i in transpose_forward],
        "original_median_shape_after_transp": [shape[i] for i in transpose_forward],
        "transpose_forward": list(transpose_forward),
        "transpose_backward": [list(transpose_forward).index(i) for i in range(3)],
        "configurations": {
            "2d": {"data_identifier": "nnUNetPlans_2d"},
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "spacing": [spacing[i] for i in transpose_forward],
                "median_image_size_in_voxels": [shape[i] for i in transpose_forward],
                "patch_size": [16, 16, 16],
                "batch_size": 7,
                "architecture": {"network_class_name": "other", "arch_kwargs": {}},
                "normalization_schemes": ["ZScoreNormalization"],
            },
        },
        "label_manager": "LabelManager",
    }


def model(order: list[int], *, strides: list[list[int]] | None = None) -> Model:
    axes = tuple(ARRAY_AXES[i] for i in order)
    return Model(
        name="m",
        axes=axes,  # type: ignore[arg-type]
        patch_size=PatchSize(RL=32, AP=64, SI=128),
        batch_size=2,
        arch_kwargs={"strides": strides or [[1, 1, 1], [2, 2, 2]], "n_stages": 2},
    )


def along_array_axes(plans: dict[str, Any], values: list[Any]) -> list[Any]:
    """Values of transposed axes in the order of the array, as nnU-Net's readers undo it."""
    return [values[i] for i in plans["transpose_backward"]]


@given(orders, orders)
def test_everything_that_has_axes_moves_to_the_models_axes(
    planner: list[int], network: list[int]
) -> None:
    plans = planned(planner)
    out = patch_plans(plans, model(network), plans_name="p", request=Plans())
    assert out["transpose_forward"] == network
    # applying the transposition and undoing it leaves an array as it was
    assert [network[i] for i in out["transpose_backward"]] == [0, 1, 2]
    before, after = plans["configurations"]["3d_fullres"], out["configurations"]["3d_fullres"]
    for key in ("spacing", "median_image_size_in_voxels"):
        assert along_array_axes(out, after[key]) == along_array_axes(plans, before[key])
    for key in ("original_median_spacing_after_transp", "original_median_shape_after_transp"):
        assert along_array_axes(out, out[key]) == along_array_axes(plans, plans[key])
    assert along_array_axes(out, after["patch_size"]) == [128, 64, 32]  # SI, AP, RL


@given(orders, orders)
def test_data_are_preprocessed_again_only_when_the_axes_change(
    planner: list[int], network: list[int]
) -> None:
    out = patch_plans(planned(planner), model(network), plans_name="p", request=Plans())
    identifier = out["configurations"]["3d_fullres"]["data_identifier"]
    assert identifier == ("nnUNetPlans_3d_fullres" if planner == network else "p_3d_fullres")


@given(orders, orders)
def test_the_planners_plans_stay_as_they_are(planner: list[int], network: list[int]) -> None:
    plans = planned(planner)
    before = copy.deepcopy(plans)
    out = patch_plans(plans, model(network), plans_name="p", request=Plans())
    out["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"].clear()
    assert plans == before


def test_the_network_is_the_models_and_the_rest_the_planners() -> None:
    chosen = model([2, 1, 0])
    out = patch_plans(planned([0, 1, 2]), chosen, plans_name="ours", request=Plans())
    own = out["configurations"]["3d_fullres"]
    assert list(out["configurations"]) == ["3d_fullres"]
    assert out["plans_name"] == "ours"
    assert own["architecture"] == {
        "network_class_name": chosen.network_class_name,
        "arch_kwargs": chosen.arch_kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    assert own["batch_size"] == 2
    assert own["normalization_schemes"] == ["ZScoreNormalization"]
    assert out["label_manager"] == "LabelManager"
    json.dumps(out)


def test_patch_and_batch_size_of_the_job_count_over_the_models() -> None:
    request = Plans(patch_size=PatchSize(RL=16, AP=48, SI=96), batch_size=5)
    out = patch_plans(planned([0, 1, 2]), model([2, 1, 0]), plans_name="p", request=request)
    own = out["configurations"]["3d_fullres"]
    assert (own["patch_size"], own["batch_size"]) == ([16, 48, 96], 5)


def test_flat_images_cannot_be_fine_tuned() -> None:
    plans = planned([0, 1, 2])
    del plans["configurations"]["3d_fullres"]
    with pytest.raises(CaHpcError, match="the images are flat"):
        patch_plans(plans, model([0, 1, 2]), plans_name="p", request=Plans())


# --- patch sizes -----------------------------------------------------------------------------


@given(orders, strides, st.tuples(*[st.integers(1, 400)] * 3))
def test_an_illegal_patch_is_refused_with_one_that_is_legal(
    order: list[int], strides: list[list[int]], size: tuple[int, int, int]
) -> None:
    network = model(order, strides=strides)
    by = divisors(network)
    patch = PatchSize(*size)
    try:
        check_patch(patch, network)
    except CaHpcError as refused:
        assert refused.hint is not None
        numbers = refused.hint.removeprefix("patch_size: {").removesuffix("}").split(", ")
        legal = PatchSize(**{k: int(v) for k, v in (pair.split(": ") for pair in numbers)})
        assert legal != patch
        check_patch(legal, network)
    else:
        left = [getattr(patch, axis) / by[axis] for axis in by]
        assert all(n == int(n) and n >= 1 for n in left)
        assert math.prod(left) > 1


def test_strides_divide_along_the_models_axes() -> None:
    network = model([2, 1, 0], strides=[[1, 1, 1], [2, 2, 2], [1, 2, 4]])
    assert network.axes == ("RL", "AP", "SI")
    assert divisors(network) == {"RL": 2, "AP": 4, "SI": 8}


def test_a_patch_of_one_voxel_at_the_bottleneck_is_refused() -> None:
    network = model([2, 1, 0], strides=[[1, 1, 1], [2, 2, 2]])
    with pytest.raises(CaHpcError, match="more than one voxel") as refused:
        check_patch(PatchSize(RL=2, AP=2, SI=2), network)
    assert refused.value.hint == "patch_size: {RL: 2, AP: 2, SI: 4}"


@pytest.mark.parametrize("name", ["contrast-agnostic-v2", "demo"])
def test_the_patch_of_every_shipped_model_is_legal(name: str) -> None:
    shipped = configs.model(name, relative_to=Path())
    check_patch(shipped.patch_size, shipped)


# --- from and to nnU-Net's numbers -------------------------------------------------------------


def test_a_target_spacing_is_given_in_the_order_of_the_array() -> None:
    assert target_spacing(ByAxis(RL=0.8, AP=0.5, SI=3)) == [3.0, 0.5, 0.8]
    assert target_spacing(None) is None


@given(orders)
def test_a_checkpoints_own_plans_give_back_its_axes_patch_and_spacing(order: list[int]) -> None:
    sizes = {"SI": 128, "AP": 64, "RL": 32}
    found = model_from_network(
        name="own",
        architecture={
            "network_class_name": "net",
            "arch_kwargs": {"strides": [[1, 1, 1], [2, 2, 2]]},
            "_kw_requires_import": ["conv_op"],
        },
        patch_size=[sizes[ARRAY_AXES[i]] for i in order],
        spacing=[1.0, 2.0, 3.0],
        transpose_forward=order,
    )
    assert found.patch_size == PatchSize(RL=32, AP=64, SI=128)
    assert found.spacing is not None
    assert [getattr(found.spacing, axis) for axis in found.axes] == [1.0, 2.0, 3.0]
    out = patch_plans(planned(order), found, plans_name="p", request=Plans())
    assert out["configurations"]["3d_fullres"]["data_identifier"] == "nnUNetPlans_3d_fullres"


def test_weights_of_a_2d_network_are_refused_by_their_patch() -> None:
    with pytest.raises(CaHpcError, match=r"belong to a 2D network \(patch size \[256, 256\]\)"):
        model_from_network(
            name="flat",
            architecture={},
            patch_size=[256, 256],
            spacing=[1, 1],
            transpose_forward=[0, 1, 2],
        )
