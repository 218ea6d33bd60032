"""Legal patch sizes: against every size one by one, and against the network itself."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
    residual_encoder_unet_planners as residual,
)

from ca_hpc.errors import CaHpcError
from ca_hpc.weights.patch import divisors, is_legal, nearest_legal, training_memory_gib

SEEDS = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
THREE = st.tuples(*[st.integers(1, 70)] * 3)
STEPS = st.tuples(*[st.sampled_from([1, 2, 3, 4, 8, 16, 32])] * 3)

Three = tuple[int, int, int]


@pytest.mark.parametrize(
    ("strides", "by"),
    [
        (SEEDS, (16, 32, 32)),
        ([[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 1]], (8, 8, 4)),
        ([1, 2, 2], (4, 4, 4)),
        ([1, 2, [1, 2, 2]], (2, 4, 4)),
    ],
)
def test_divisors_are_the_products_of_the_strides(strides: list[object], by: Three) -> None:
    assert divisors({"strides": strides}) == by


@pytest.mark.parametrize(
    ("patch", "legal"),
    [
        ((64, 192, 320), True),
        ((16, 32, 64), True),
        ((32, 32, 32), True),
        ((16, 32, 32), False),  # the seeds list it; the first forward pass fails
        ((24, 192, 320), False),
    ],
)
def test_the_network_itself_agrees_on_what_is_legal(patch: Three, legal: bool) -> None:
    assert is_legal(patch, divisors({"strides": SEEDS})) is legal
    network = PlainConvUNet(
        1, 6, 2, torch.nn.Conv3d, 3, SEEDS, 1, 2, 1,
        norm_op=torch.nn.InstanceNorm3d, nonlin=torch.nn.LeakyReLU,
    )  # fmt: skip
    with nullcontext() if legal else pytest.raises((ValueError, RuntimeError)):
        assert network(torch.zeros(1, 1, *patch)).shape[2:] == patch


@given(patch=THREE, by=STEPS, most=st.integers(0, 40_000))
@settings(max_examples=300, deadline=None)
def test_no_legal_size_that_fits_is_closer(patch: Three, by: Three, most: int) -> None:
    def distance(size: tuple[int, ...]) -> float:
        return sum(math.log(a / b) ** 2 for a, b in zip(size, patch, strict=True))

    def fits(size: tuple[int, ...]) -> bool:
        return math.prod(size) <= most

    multiples = [
        range(step, size + 2 * step + 1, step) for size, step in zip(patch, by, strict=True)
    ]
    allowed = [size for size in product(*multiples) if is_legal(size, by) and fits(size)]
    if not allowed:
        with pytest.raises(CaHpcError, match="no patch fits"):
            nearest_legal(patch, by, fits=fits)
        return
    found = nearest_legal(patch, by, fits=fits)
    assert found in allowed
    assert distance(found) == pytest.approx(min(map(distance, allowed)), abs=1e-9)


@given(patch=THREE, by=STEPS)
def test_a_legal_size_is_its_own_nearest(patch: Three, by: Three) -> None:
    found = nearest_legal(patch, by)
    assert is_legal(found, by)
    assert nearest_legal(found, by) == found


@pytest.mark.parametrize(
    ("patch", "nearest"),
    [
        ((60, 200, 310), (64, 192, 320)),
        ((16, 32, 32), (16, 32, 64)),
        ((1, 1, 1), (32, 32, 32)),
        ((50_000, 50_000, 50_000), (50_000, 50_016, 50_016)),
    ],
)
def test_near_is_by_ratio(patch: Three, nearest: Three) -> None:
    assert nearest_legal(patch, (16, 32, 32)) == nearest


@pytest.mark.parametrize(
    "planner",
    [
        residual.nnUNetPlannerResEncM,
        residual.nnUNetPlannerResEncL,
        residual.nnUNetPlannerResEncXL,
    ],
)
def test_memory_is_that_of_nnunets_own_planners(
    planner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of the planner's __init__ only its numbers are wanted, and those need no data set
    monkeypatch.setattr(residual.ExperimentPlanner, "__init__", lambda self, *_, **__: None)
    numbers = planner("Dataset001_x")
    found = training_memory_gib(
        numbers.UNet_reference_val_3d, 2, network_class_name="a.b.ResidualEncoderUNet"
    )
    assert found == pytest.approx(numbers.UNet_reference_val_corresp_GB, rel=0.07)


def test_memory_grows_with_the_batch() -> None:
    one, two = (
        training_memory_gib(560_000_000, batch, network_class_name="PlainConvUNet")
        for batch in (1, 2)
    )
    assert (one, two) == (4, 8)
