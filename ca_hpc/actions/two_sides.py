"""The two sides of a run, submitting host and image: what each is, and that they fit together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ca_hpc import __version__, processes
from ca_hpc.core.model import Pin
from ca_hpc.core.run_record import File, Image, Software
from ca_hpc.errors import CaHpcError
from ca_hpc.images.record import ImageInfo, read_image
from ca_hpc.processes import Run
from ca_hpc.store.software import commit_here, installed

TIMEOUT_S: Final = 20.0
#: programs of the submitting host, and how they are asked; a site may have them on its nodes only
PROGRAMS: Final = {"slurm": ("sbatch", "--version"), "apptainer": ("apptainer", "--version")}
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+\S*")
_REGISTRY: Final = "oras://"
_CUDA_RUNTIME: Final = "nvidia-cuda-runtime"  # -cu12, and none behind it since CUDA 13


def host_software(*, run: Run = processes.run) -> Software:
    """What this Python has installed, and the versions of SLURM and Apptainer where they are."""
    found = installed(commit=commit_here(run=run))
    return Software({**found.versions, **dict(_programs(run))}, found.commit)


def _programs(run: Run) -> Iterator[tuple[str, str]]:
    for name, argv in PROGRAMS.items():
        try:
            done = run(argv, timeout_s=TIMEOUT_S)
        except CaHpcError:
            continue
        said = _VERSION.search(done.stdout)
        if done.returncode == 0 and said is not None:
            yield name, said[0]


def refuse_other_version(image: ImageInfo) -> None:
    """Raises CaHpcError for an image with another version of this package than the submitting
    host's, whose steps take other arguments, and for one without, which has no steps."""
    theirs = image.contents.versions.get("ca-hpc")
    if theirs is None:
        raise CaHpcError(
            f"image {image.path} holds no ca-hpc: it is a base, on which images are built",
            hint=f"ca-hpc image build --base {shlex.quote(str(image.path))} FILE.sif",
        )
    if theirs != __version__:
        raise CaHpcError(
            f"image {image.path} holds ca-hpc {theirs}, and this is ca-hpc {__version__}: a run "
            "needs the same version on both sides",
            hint=f"build an image of this version: ca-hpc image build, or install ca-hpc {theirs}",
        )


def described_image(pin: Pin, *, named: str | None) -> Image:
    """The image that a run is pinned to, as its record describes it. ``named``: by the job.

    Raises CaHpcError for an image that does not say what it holds.
    """
    info = read_image(Path(pin.path))
    return Image(
        File(pin.path, pin.sha256, info.size_bytes),
        content_sha256=info.content_sha256,
        recipe_sha256=info.contents.recipe_sha256,
        reference=named if named and named.startswith(_REGISTRY) else None,
        versions={**_cuda(info.contents.python_packages), **info.contents.versions},
    )


def _cuda(packages: Mapping[str, str]) -> Mapping[str, str]:
    """The CUDA that torch brings along; torch's own version tells it in some builds only."""
    found = [version for name, version in packages.items() if name.startswith(_CUDA_RUNTIME)]
    return {"cuda": ".".join(found[0].split(".")[:2])} if found else {}
