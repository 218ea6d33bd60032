"""What a node is made of. ``nvidia-smi`` is a script that says what the real one does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ca_hpc.core.run_record import Gpu
from ca_hpc.worker.machine import Device, devices, machine

H100 = "0, GPU-6a5d1c2e, NVIDIA H100 80GB HBM3, 81559, 580.65.06, 9.0"
A100 = "1, GPU-77f0b1aa, NVIDIA A100-SXM4-40GB, 40960, 580.65.06, 8.0"
OLD_ANSWER = 'Field "compute_cap" is not a valid field to query.'


def nvidia_smi(folder: Path, script: str) -> dict[str, str]:
    """An environment in which nvidia-smi is this shell script."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def says(*lines: str) -> str:
    return "\n".join(f"echo '{line}'" for line in lines)


def test_this_node_has_a_processor_memory_and_a_kernel() -> None:
    found = machine("node1")
    assert found.host == "node1"
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.memory_mib == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert found.kernel == os.uname().release
    assert found.cpu and not found.gpus


def test_the_processor_is_called_by_its_model_or_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 9654: 96\n")
    (tmp_path / "meminfo").write_text("MemTotal:       131072 kB\nMemFree: 1 kB\n")
    found = machine("n", proc=tmp_path)
    assert (found.cpu, found.memory_mib) == ("AMD EPYC 9654: 96", 128)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU part\t: 0xd4f\n")
    (tmp_path / "meminfo").unlink()
    found = machine("n", proc=tmp_path)
    assert (found.cpu, found.memory_mib) == (os.uname().machine, 0)


def test_gpus_are_told_with_driver_and_capability(tmp_path: Path) -> None:
    environment = nvidia_smi(tmp_path, says(H100, A100))
    assert devices(("0", "1"), environment=environment) == (
        Device("0", "GPU-6a5d1c2e", Gpu("NVIDIA H100 80GB HBM3", 81559, "580.65.06"), "9.0"),
        Device("1", "GPU-77f0b1aa", Gpu("NVIDIA A100-SXM4-40GB", 40960, "580.65.06"), "8.0"),
    )


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (("1",), ["1"]),
        (("GPU-6a5d1c2e",), ["0"]),
        (("GPU-77",), ["1"]),
        ((), ["0", "1"]),  # the site confines the job without naming them
        (("MIG-3f1c",), ["0", "1"]),
    ],
)
def test_only_the_jobs_own_gpus_count(
    tmp_path: Path, visible: tuple[str, ...], indices: list[str]
) -> None:
    environment = nvidia_smi(tmp_path, says(H100, A100))
    assert [device.index for device in devices(visible, environment=environment)] == indices


def test_a_driver_that_does_not_know_the_capability_is_asked_for_the_rest(tmp_path: Path) -> None:
    answer = says("0, GPU-1, Tesla K80, 11441, 450.51.06")
    script = f"case $1 in *compute_cap*) {says(OLD_ANSWER)}; exit 2;; esac\n{answer}"
    (found,) = devices(("0",), environment=nvidia_smi(tmp_path, script))
    assert (found.gpu.driver, found.capability) == ("450.51.06", None)


def test_what_the_driver_cannot_tell_is_not_known(tmp_path: Path) -> None:
    line = "0, GPU-1, NVIDIA GB10, [N/A], 580.95.05, [Not Supported]"
    (found,) = devices((), environment=nvidia_smi(tmp_path, says(line)))
    assert (found.gpu.memory_mib, found.capability) == (0, None)


def test_without_nvidia_smi_or_when_it_fails_nothing_is_known(tmp_path: Path) -> None:
    assert devices(("0",), environment={"PATH": str(tmp_path)}) == ()
    assert devices((), environment=nvidia_smi(tmp_path, says("No devices were found"))) == ()
    (tmp_path / "nvidia-smi").write_text("neither a script nor a program")
    assert devices((), environment={"PATH": str(tmp_path)}) == ()
    failing = "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"
    assert devices(("0",), environment=nvidia_smi(tmp_path, failing)) == ()
