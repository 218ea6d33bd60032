"""Host and image of a run: what is written down of each, and that they are of one version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc import __version__
from ca_hpc.actions.two_sides import described_image, host_software, refuse_other_version
from ca_hpc.core.gpu_fit import cuda_version
from ca_hpc.core.model import Pin
from ca_hpc.errors import CaHpcError
from ca_hpc.images.record import Contents, ImageInfo, Origin, read_image, write_record
from ca_hpc.processes import Finished, ProgramMissing


def image(
    folder: Path,
    *,
    version: str,
    recorded: bool = True,
    packages: Mapping[str, str] | None = None,
) -> Pin:
    file = folder / "neck.sif"
    file.write_bytes(b"sif")
    versions = {"ca-hpc": version, "torch": "2.13.0"}
    origin = Origin("34" * 32, None, "2025-01-01T00:00:00")
    recipe = "12" * 32 if recorded else None
    contents = Contents(versions, recipe_sha256=recipe, python_packages=packages or {})
    write_record(ImageInfo(file, "ab" * 32, 3, contents, origin, "cd" * 32))
    return Pin(str(file), "ab" * 32)


def test_the_image_is_taken_down_as_its_record_has_it(tmp_path: Path) -> None:
    pin = image(tmp_path, version=__version__)
    found = described_image(pin, named=pin.path)
    assert (found.file.path, found.file.sha256, found.file.size_bytes) == (*_of(pin), 3)
    assert (found.recipe_sha256, found.content_sha256) == ("12" * 32, "cd" * 32)
    assert found.reference is None
    assert found.versions == {"ca-hpc": __version__, "torch": "2.13.0"}


def _of(pin: Pin) -> tuple[str, str]:
    return pin.path, pin.sha256


def test_an_address_of_a_registry_is_kept(tmp_path: Path) -> None:
    pin = image(tmp_path, version=__version__, recorded=False)
    named = f"oras://registry.example.org/neck@sha256:{'ef' * 32}"
    found = described_image(pin, named=named)
    assert (found.reference, found.recipe_sha256) == (named, None)


@pytest.mark.parametrize(
    ("packages", "cuda"),
    [
        ({"nvidia-cuda-runtime": "13.0.96", "nvidia-cublas": "13.1.1.3"}, "13.0"),
        ({"nvidia-cuda-runtime-cu12": "12.8.90"}, "12.8"),
        ({"numpy": "2.4.6"}, None),
    ],
)
def test_the_cuda_in_the_image_is_known_by_what_torch_brings_along(
    tmp_path: Path, packages: dict[str, str], cuda: str | None
) -> None:
    found = described_image(image(tmp_path, version=__version__, packages=packages), named=None)
    assert cuda_version(found.versions) == cuda


def test_another_version_in_the_image_is_refused_and_both_are_named(tmp_path: Path) -> None:
    pin = image(tmp_path, version="0.0.9")
    with pytest.raises(CaHpcError) as raised:
        refuse_other_version(read_image(Path(pin.path)))
    assert f"holds ca-hpc 0.0.9, and this is ca-hpc {__version__}" in raised.value.message
    assert raised.value.exit_code == 2
    assert "install ca-hpc 0.0.9" in (raised.value.hint or "")


def test_a_base_runs_no_job(tmp_path: Path) -> None:
    info = read_image(Path(image(tmp_path, version=__version__).path))
    refuse_other_version(info)
    base = replace(info, contents=Contents({"torch": "2.13.0"}))
    with pytest.raises(CaHpcError, match="holds no ca-hpc: it is a base") as raised:
        refuse_other_version(base)
    assert f"--base {info.path}" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("said", "versions"),
    [
        (
            {"sbatch": (0, "slurm 22.05.8\n"), "apptainer": (0, "apptainer version 1.4.5-1\n")},
            {"slurm": "22.05.8", "apptainer": "1.4.5-1"},
        ),
        ({"apptainer": (0, "apptainer version 1.4.5\n")}, {"apptainer": "1.4.5"}),
        ({"sbatch": (1, "slurm 22.05.8"), "apptainer": (0, "what?")}, {}),
    ],
)
def test_programs_of_the_host_are_told_where_they_are(
    said: dict[str, tuple[int, str]], versions: dict[str, str]
) -> None:
    def run(
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        timeout_s: float | None = None,
    ) -> Finished:
        if argv[0] not in said:
            raise ProgramMissing(f"{argv[0]}: No such file or directory")
        status, text = said[argv[0]]
        return Finished(status, text)

    found = host_software(run=run).versions
    assert {name: found[name] for name in ("slurm", "apptainer") if name in found} == versions
    assert found["ca-hpc"] == __version__
