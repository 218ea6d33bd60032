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
from ca_hpc.core.profile import Network
from ca_hpc.core.spec import ByAxis, PatchSize
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.plans import (
    ARRAY_AXES,
    along,
    check_patch,
    patch_plans,
    planned_patch,
    share_preprocessed,
    target_spacing,
)
from ca_hpc.weights.patch import divisors

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


def network(order: list[int], *, strides: list[list[int]] | None = None) -> Network:
    axes = tuple(ARRAY_AXES[i] for i in order)
    return Network(
        axes=axes,  # type: ignore[arg-type]
        patch_size=PatchSize(RL=32, AP=64, SI=128),
        batch_size=2,
        arch_kwargs={"strides": strides or [[1, 1, 1], [2, 2, 2]], "n_stages": 2},
    )


def patched(plans: dict[str, Any], into: Network, **settings: Any) -> dict[str, Any]:
    given = {"plans_name": "p", "patch_size": along(into.axes, into.patch_size), "batch_size": 2}
    return patch_plans(plans, into, **{**given, **settings})


def along_array_axes(plans: dict[str, Any], values: list[Any]) -> list[Any]:
    """Values of transposed axes in the order of the array, as nnU-Net's readers undo it."""
    return [values[i] for i in plans["transpose_backward"]]


@given(orders, orders)
def test_everything_that_has_axes_moves_to_the_networks_axes(
    planner: list[int], wanted: list[int]
) -> None:
    plans = planned(planner)
    out = patched(plans, network(wanted))
    assert out["transpose_forward"] == wanted
    # applying the transposition and undoing it leaves an array as it was
    assert [wanted[i] for i in out["transpose_backward"]] == [0, 1, 2]
    before, after = plans["configurations"]["3d_fullres"], out["configurations"]["3d_fullres"]
    for key in ("spacing", "median_image_size_in_voxels"):
        assert along_array_axes(out, after[key]) == along_array_axes(plans, before[key])
    for key in ("original_median_spacing_after_transp", "original_median_shape_after_transp"):
        assert along_array_axes(out, out[key]) == along_array_axes(plans, plans[key])
    assert along_array_axes(out, after["patch_size"]) == [128, 64, 32]  # SI, AP, RL


@given(orders, orders)
def test_the_recipe_leaves_the_planners_axes_and_puts_the_patch_on_them_as_it_stands(
    planner: list[int], wanted: list[int]
) -> None:
    plans, into = planned(planner), network(wanted)
    out = patched(plans, into, axes="recipe")
    own = out["configurations"]["3d_fullres"]
    assert out["transpose_forward"] == planner
    assert own["spacing"] == plans["configurations"]["3d_fullres"]["spacing"]
    assert own["patch_size"] == [getattr(into.patch_size, axis) for axis in into.axes]


@given(orders, orders)
def test_data_are_preprocessed_again_only_when_the_axes_change(
    planner: list[int], wanted: list[int]
) -> None:
    plans = planned(planner)
    plans["plans_name"] = "nnUNetPlans"
    out = patched(plans, network(wanted))
    by = share_preprocessed([plans, out])
    identifier = out["configurations"]["3d_fullres"]["data_identifier"]
    same = planner == wanted
    assert identifier == ("nnUNetPlans_3d_fullres" if same else "p_3d_fullres")
    assert by == ["nnUNetPlans", "nnUNetPlans" if same else "p"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spacing", [1.0, 1.0, 1.0]),
        ("normalization_schemes", ["CTNormalization"]),
        ("resampling_fn_data_kwargs", {"order": 1}),
    ],
)
def test_data_are_preprocessed_again_when_they_would_come_out_otherwise(
    key: str, value: object
) -> None:
    plans = planned([0, 1, 2])
    other = patched(plans, network([0, 1, 2]))
    other["configurations"]["3d_fullres"][key] = value
    assert share_preprocessed([plans, other]) == ["nnUNetPlans", "p"]
    assert other["configurations"]["3d_fullres"]["data_identifier"] == "p_3d_fullres"


@given(orders, orders)
def test_the_planners_plans_stay_as_they_are(planner: list[int], wanted: list[int]) -> None:
    plans = planned(planner)
    before = copy.deepcopy(plans)
    out = patched(plans, network(wanted))
    out["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"].clear()
    assert plans == before


def test_the_network_is_the_models_and_the_rest_the_planners() -> None:
    chosen = network([2, 1, 0])
    out = patched(planned([0, 1, 2]), chosen, plans_name="ours", batch_size=5)
    own = out["configurations"]["3d_fullres"]
    assert list(out["configurations"]) == ["3d_fullres"]
    assert out["plans_name"] == "ours"
    assert own["architecture"] == {
        "network_class_name": chosen.network_class_name,
        "arch_kwargs": chosen.arch_kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    assert own["batch_size"] == 5
    assert own["normalization_schemes"] == ["ZScoreNormalization"]
    assert out["label_manager"] == "LabelManager"
    json.dumps(out)


@given(orders, orders)
def test_the_planners_patch_is_read_by_the_networks_axes(
    planner: list[int], wanted: list[int]
) -> None:
    plans = planned(planner)
    sizes = {"SI": 64, "AP": 160, "RL": 96}
    plans["configurations"]["3d_fullres"]["patch_size"] = [sizes[ARRAY_AXES[i]] for i in planner]
    into = network(wanted)
    assert planned_patch(plans, into) == [sizes[axis] for axis in into.axes]


def test_flat_images_cannot_be_fine_tuned() -> None:
    plans = planned([0, 1, 2])
    del plans["configurations"]["3d_fullres"]
    with pytest.raises(CaHpcError, match="the images are flat"):
        patched(plans, network([0, 1, 2]))


# --- patch sizes -----------------------------------------------------------------------------


@given(orders, strides, st.tuples(*[st.integers(1, 400)] * 3))
def test_an_illegal_patch_is_refused_with_one_that_is_legal(
    order: list[int], strides: list[list[int]], size: tuple[int, int, int]
) -> None:
    into = network(order, strides=strides)
    by = dict(zip(into.axes, divisors(into.arch_kwargs), strict=True))
    patch = PatchSize(*size)
    try:
        check_patch(patch, into)
    except CaHpcError as refused:
        assert refused.hint is not None
        numbers = refused.hint.removeprefix("patch_size: {").removesuffix("}").split(", ")
        legal = PatchSize(**{k: int(v) for k, v in (pair.split(": ") for pair in numbers)})
        assert legal != patch
        check_patch(legal, into)
    else:
        left = [getattr(patch, axis) / by[axis] for axis in by]
        assert all(n == int(n) and n >= 1 for n in left)
        assert math.prod(left) > 1


def test_a_patch_of_one_voxel_at_the_bottleneck_is_refused() -> None:
    into = network([2, 1, 0], strides=[[1, 1, 1], [2, 2, 2]])
    with pytest.raises(CaHpcError, match="more than one voxel") as refused:
        check_patch(PatchSize(RL=2, AP=2, SI=2), into)
    assert refused.value.hint is not None
    assert "4" in refused.value.hint


@pytest.mark.parametrize("name", ["contrast-agnostic-v2", "demo"])
def test_the_patch_of_every_shipped_network_is_legal(name: str) -> None:
    shipped = configs.model(name, relative_to=Path()).network
    assert shipped is not None
    check_patch(shipped.patch_size, shipped)


# --- from and to nnU-Net's numbers -------------------------------------------------------------


def test_a_target_spacing_is_given_in_the_order_of_the_array() -> None:
    assert target_spacing(ByAxis(RL=0.8, AP=0.5, SI=3)) == [3.0, 0.5, 0.8]
    assert target_spacing(None) is None
