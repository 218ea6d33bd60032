"""GPU and driver against the CUDA of an image."""

from __future__ import annotations

import pytest

from ca_hpc.core.failures import Evidence, Told, diagnose
from ca_hpc.core.gpu_fit import cuda_version, require_fit
from ca_hpc.core.rules import Failure
from ca_hpc.core.run_record import Gpu
from ca_hpc.errors import CaHpcError

CUDA_13 = {"torch": "2.13.0", "cuda": "13.0"}


def gpu(driver: str, *, name: str = "Tesla") -> Gpu:
    return Gpu(name, 16384, driver)


@pytest.mark.parametrize(
    ("versions", "cuda"),
    [
        (CUDA_13, "13.0"),
        ({"torch": "2.13.0+cu128"}, "12.8"),
        ({"torch": "2.4.1+cu118"}, "11.8"),
        ({"torch": "2.13.0+cpu"}, None),
        ({"torch": "2.13.0"}, None),
        ({}, None),
    ],
)
def test_which_cuda_torch_was_built_for(versions: dict[str, str], cuda: str | None) -> None:
    assert cuda_version(versions) == cuda


@pytest.mark.parametrize(
    ("driver", "capability", "cuda"),
    [
        ("580", "7.5", "13.0"),  # the limits themselves
        ("580.65.06", "9.0", "13.1"),
        ("590.44.01", None, "13.0"),
        ("525.60.13", "5.0", "12.8"),
        ("535.183.01", "9.0", "12.8"),
        ("450.80.02", "3.5", "11.8"),
        ("1", "1.0", "10.2"),  # nothing is known of so old a CUDA
        ("1000", "20.0", "99.0"),  # nor of a future one
    ],
)
def test_what_fits_goes_on(driver: str, capability: str | None, cuda: str) -> None:
    require_fit(gpu(driver), capability=capability, versions={"torch": "2", "cuda": cuda})


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [("579.99", "13.0"), ("525.60.12", "12.8"), ("99.1", "12.8"), ("450.80", "11.8")],
)
def test_a_driver_that_is_too_old_is_named(driver: str, cuda: str) -> None:
    with pytest.raises(CaHpcError) as raised:
        require_fit(gpu(driver), capability="9.0", versions={"torch": "2", "cuda": cuda})
    assert f"driver {driver} is too old for CUDA {cuda}" in raised.value.message


def test_a_gpu_that_is_too_old_is_named() -> None:
    with pytest.raises(CaHpcError) as raised:
        require_fit(gpu("590.44", name="Tesla V100"), capability="7.0", versions=CUDA_13)
    assert raised.value.message == (
        "the GPU Tesla V100 has compute capability 7.0, and CUDA 13.0 in the image needs 7.5 or "
        "later"
    )


def test_torch_without_cuda_is_refused_for_work_on_a_gpu() -> None:
    with pytest.raises(CaHpcError, match=r"2\.13\.0\+cpu in the image is built without CUDA"):
        require_fit(gpu("590.44"), capability="9.0", versions={"torch": "2.13.0+cpu"})


@pytest.mark.parametrize(
    ("driver", "capability", "versions", "failure"),
    [
        ("470.82.01", "8.0", CUDA_13, Failure.GPU),  # again, on another node
        ("590.44", "7.0", CUDA_13, Failure.GPU),
        ("590.44", "8.0", {"torch": "2.13.0+cpu"}, Failure.IMAGE),  # nowhere
    ],
)
def test_the_sentence_is_the_cause_and_has_a_class(
    driver: str, capability: str, versions: dict[str, str], failure: Failure
) -> None:
    with pytest.raises(CaHpcError) as raised:
        require_fit(gpu(driver), capability=capability, versions=versions)
    verdict = diagnose(Evidence(exit_status=2, told=Told.of(raised.value)))
    assert (verdict.failure, verdict.cause) == (failure, raised.value.message)
    assert verdict.hint == raised.value.hint
