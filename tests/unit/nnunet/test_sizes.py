"""Patch and batch of the patched plans: what the network takes, the data offer, the GPU holds."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.profile import Network
from ca_hpc.core.spec import PatchSize, Plans
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.sizes import check_memory, memory_gib, patch_and_batch
from ca_hpc.weights.patch import divisors, is_legal
from tests.checkpoints import network_of

RELEASED: Final = network_of("contrast-agnostic-v2")  # 64 x 192 x 320, batch 2
OWN: Final = [64, 192, 320]
GB: Final = 1024
PLANS: Final = Path(__file__).parents[2] / "fixtures" / "plans" / "2.8.1"
PLAIN: Final = Plans()
AUTO: Final = Plans(patch_size="auto")


def planned(
    patch: tuple[int, int, int] = (160, 160, 64),
    *,
    median: tuple[float, float, float] = (320, 192, 64),
    transpose_forward: tuple[int, int, int] = (0, 1, 2),
) -> dict[str, Any]:
    """A planner's plans; patch and median by its axes, of which 0 is SI, 1 AP and 2 RL."""
    own = {"patch_size": list(patch), "median_image_size_in_voxels": list(median)}
    return {
        "transpose_forward": list(transpose_forward),
        "configurations": {"3d_fullres": own},
    }


def sizes(
    request: Plans = PLAIN,
    *,
    network: Network = RELEASED,
    plans: dict[str, Any] | None = None,
    cases: int = 1000,
    memory_gb: float | None = 80,
) -> tuple[list[int], int]:
    return patch_and_batch(
        plans or planned(),
        network,
        request,
        cases=cases,
        memory_mib=None if memory_gb is None else round(memory_gb * GB),
    )


# --- patch ---------------------------------------------------------------------------------------


def test_the_patch_is_that_of_the_pretraining_unless_another_is_wanted() -> None:
    assert sizes()[0] == OWN
    wanted = Plans(patch_size=PatchSize(RL=32, AP=64, SI=96))
    assert sizes(wanted)[0] == [32, 64, 96]


def test_patch_and_request_are_by_the_networks_axes() -> None:
    network = dataclasses.replace(RELEASED, axes=("SI", "AP", "RL"))
    assert sizes(network=network)[0] == [320, 192, 64]
    wanted = Plans(patch_size=PatchSize(RL=32, AP=64, SI=96))
    assert sizes(wanted, network=network)[0] == [96, 64, 32]


@pytest.mark.parametrize("forward", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_auto_is_near_the_planners_patch_whatever_its_axes(
    forward: tuple[int, int, int],
) -> None:
    by_array_axis = (161, 97, 40)  # SI, AP, RL
    patch = tuple(by_array_axis[axis] for axis in forward)
    plans = planned(patch, transpose_forward=forward)  # type: ignore[arg-type]
    # 40 lies between 32 and 48, 97 between 96 and 128, 161 between 160 and 192
    assert sizes(AUTO, plans=plans)[0] == [48, 96, 160]


@pytest.mark.parametrize(
    ("batch", "memory_gb", "patch"),
    [
        (None, 80, [64, 192, 320]),
        (None, 12, [64, 192, 288]),
        (None, 8, [48, 160, 320]),
        (1, 8, [64, 192, 320]),
        (4, 8, [48, 128, 192]),
        (None, 4, [48, 128, 192]),
    ],
)
def test_auto_shrinks_to_what_the_gpu_holds_at_the_batch(
    batch: int | None, memory_gb: float, patch: list[int]
) -> None:
    request = dataclasses.replace(AUTO, batch_size=batch)
    plans = planned((320, 192, 64))
    found, _ = sizes(request, plans=plans, memory_gb=memory_gb)
    assert memory_gib(RELEASED, found, batch_size=batch or 2) <= memory_gb
    assert found == patch


@given(
    patch=st.tuples(*[st.integers(16, 400)] * 3),
    memory_gb=st.sampled_from([2, 4, 8, 11, 24, None]),
)
def test_auto_is_always_legal_and_fits(
    patch: tuple[int, int, int], memory_gb: float | None
) -> None:
    found, batch = sizes(AUTO, plans=planned(patch), memory_gb=memory_gb)
    assert is_legal(found, divisors(RELEASED.arch_kwargs))
    assert batch >= 2
    # a GPU of which nothing is known is taken for the planner's own, of 8 GB
    assert memory_gib(RELEASED, found, batch_size=2) <= (memory_gb or 8)


def test_auto_without_room_for_the_smallest_patch_is_refused() -> None:
    with pytest.raises(CaHpcError, match="no patch fits") as refused:
        sizes(AUTO, memory_gb=0.02)
    assert "a GPU with more memory" in (refused.value.hint or "")


# --- batch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "batch"),
    [
        ({"RL": 64, "AP": 192, "SI": 320}, 2),
        ({"RL": 64, "AP": 96, "SI": 320}, 4),
        ({"RL": 32, "AP": 96, "SI": 160}, 16),
        ({"RL": 48, "AP": 192, "SI": 320}, 2),
        ({"RL": 128, "AP": 192, "SI": 320}, 2),  # never less than 2, if they fit
    ],
)
def test_a_step_sees_as_many_voxels_as_in_the_pretraining(
    patch: dict[str, int], batch: int
) -> None:
    assert sizes(Plans(patch_size=PatchSize(**patch)))[1] == batch


@pytest.mark.parametrize(
    ("cases", "batch"),
    [(1, 2), (40, 2), (60, 3), (100, 5), (320, 16), (10_000, 16)],
)
def test_a_batch_holds_at_most_a_twentieth_of_the_data(cases: int, batch: int) -> None:
    """As in nnU-Net's planner: cases of one patch each."""
    request = Plans(patch_size=PatchSize(RL=32, AP=96, SI=160))
    plans = planned(median=(160, 96, 32))
    assert sizes(request, plans=plans, cases=cases)[1] == batch


@pytest.mark.parametrize(("memory_gb", "batch"), [(80, 16), (8, 10), (4, 5), (2, 2), (1, 1)])
def test_a_batch_shrinks_to_what_the_gpu_holds(memory_gb: float, batch: int) -> None:
    request = Plans(patch_size=PatchSize(RL=32, AP=96, SI=160))
    _, found = sizes(request, memory_gb=memory_gb)
    need = memory_gib(RELEASED, [32, 96, 160], batch_size=found)
    more = memory_gib(RELEASED, [32, 96, 160], batch_size=found + 1)
    assert need <= memory_gb and (more > memory_gb or found == 16)
    assert found == batch


def test_a_batch_on_a_gpu_of_which_nothing_is_known_is_not_made_smaller() -> None:
    request = Plans(patch_size=PatchSize(RL=32, AP=96, SI=160))
    assert sizes(request, memory_gb=None)[1] == 16


def test_a_batch_that_is_wanted_is_taken_as_it_is() -> None:
    assert sizes(Plans(batch_size=7), memory_gb=1, cases=1) == (OWN, 7)


def test_a_patch_that_does_not_fit_alone_is_refused_with_the_way_out() -> None:
    with pytest.raises(CaHpcError) as refused:
        sizes(memory_gb=4)
    assert refused.value.message == (
        "a patch of 64 x 192 x 320 (RL, AP, SI) needs about 6.0 GB of GPU memory at batch 1, "
        "there are 4"
    )
    assert refused.value.hint == "plans.patch_size: auto, or batch_size to insist"


# --- memory --------------------------------------------------------------------------------------


def test_memory_is_in_proportion_to_patch_and_batch() -> None:
    one = memory_gib(RELEASED, OWN, batch_size=1)
    assert one == pytest.approx(6.0, abs=0.1)
    assert memory_gib(RELEASED, OWN, batch_size=4) == pytest.approx(4 * one)
    half = [32, 192, 320]
    assert memory_gib(RELEASED, half, batch_size=2) == pytest.approx(one, rel=0.01)


@pytest.mark.parametrize(
    ("planner", "most"), [("ExperimentPlanner", 8), ("nnUNetPlannerResEncL", 24)]
)
def test_what_a_planner_of_nnunet_has_made_needs_about_the_memory_that_it_plans_for(
    planner: str, most: float
) -> None:
    """Large images, so that it is memory that limits the patch."""
    plans = json.loads((PLANS / f"{planner}-fine.json").read_text())
    own = plans["configurations"]["3d_fullres"]
    network = dataclasses.replace(
        RELEASED,
        arch_kwargs=own["architecture"]["arch_kwargs"],
        network_class_name=own["architecture"]["network_class_name"],
    )
    need = memory_gib(network, own["patch_size"], batch_size=own["batch_size"])
    assert 0.8 * most < need < 1.1 * most


def test_of_a_network_that_is_not_known_nothing_is_said() -> None:
    network = dataclasses.replace(RELEASED, network_class_name="my.own.Network")
    assert memory_gib(network, OWN, batch_size=2) == 0
    assert list(check_memory(network, PLAIN, memory_mib=1)) == []
    assert sizes(network=network, memory_gb=0.001) == (OWN, 2)


@pytest.mark.parametrize(
    ("request_", "memory_gb", "told"),
    [
        (PLAIN, None, None),
        (PLAIN, 8, None),
        (PLAIN, 4, "a patch of RL 64 x AP 192 x SI 320 and batch 1 need about 6.0 GB"),
        (Plans(batch_size=2), 8, "and batch 2 need about 12.1 GB of GPU memory, each training"),
        (AUTO, 1, None),
        (Plans(patch_size=PatchSize(RL=32, AP=64, SI=64)), 1, None),
    ],
)
def test_a_patch_that_is_too_large_is_told_before_submission(
    request_: Plans, memory_gb: float | None, told: str | None
) -> None:
    memory = None if memory_gb is None else math.floor(memory_gb * GB)
    said = list(check_memory(RELEASED, request_, memory_mib=memory))
    if told is None:
        assert said == []
    else:
        (text,) = said
        assert told in text
        assert text.endswith("(patch_size: auto)")
