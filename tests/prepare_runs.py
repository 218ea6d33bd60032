"""Small runs of the steps that make a data set: cases of a few voxels, without any source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ca_hpc import __version__
from ca_hpc.core.data_spec import BidsSource
from ca_hpc.core.record import Case, Cases, LabelFile, Pins
from ca_hpc.core.spec import JobSpec
from ca_hpc.steps.assemble import assemble
from ca_hpc.steps.entry import StepCall
from ca_hpc.steps.prepare import prepare
from ca_hpc.store.run_folder import RunFolder

DATASET = "Dataset501_small"
SHAPE = (8, 9, 10)
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])
Array = NDArray[Any]


def image(seed: int, shape: Sequence[int] = SHAPE) -> Array:
    """Noise: no two seeds give the same voxels."""
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def mask(value: float = 1, dtype: Any = np.uint8, shape: Sequence[int] = SHAPE) -> Array:
    """A block of ``value`` in the middle."""
    out = np.zeros(shape, dtype)
    out[tuple(slice(size // 3, 2 * size // 3) for size in shape)] = value
    return out


def save(array: Array, file: Path, affine: Array = AFFINE) -> str:
    """Write an image; its path."""
    nib.save(nib.Nifti1Image(array, affine), file)
    return str(file)


def case(name: str, images: Sequence[str], labels: str | Mapping[str, str], **given: Any) -> Case:
    """A case of a person of the same name; ``labels``: a map, or a mask by label."""
    files = {None: labels} if isinstance(labels, str) else labels
    return Case(
        id=name,
        source="s1",
        images=tuple(images),
        labels=tuple(LabelFile(path, label) for label, path in files.items()),
        **{"subject": name, "person": name, "session": None, "contrast": "T2w", **given},
    )


def pair(folder: Path, name: str, *, seed: int, shape: Sequence[int] = SHAPE, **given: Any) -> Case:
    """A good case: noise, and a cord in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = save(image(seed, shape), folder / f"{name}.nii.gz")
    return case(name, [picture], save(mask(shape=shape), folder / f"{name}_seg.nii.gz"), **given)


def run_of(
    folder: Path, cases: Sequence[Case], *, channel_names: tuple[str, ...] = (), **given: Any
) -> RunFolder:
    """A run folder whose next task is prepare; ``given``: keys of the job spec."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    source = BidsSource(type="bids", path="/nowhere", name="s1")
    spec = JobSpec(
        **{"kind": "train", "name": "small", "cluster": "local", "data": (source,), **given}
    )
    run.write_spec("spec.json", spec)
    found = Cases(
        DATASET,
        spec.label_values,
        tuple(cases),
        channel_names=channel_names,
        mask_channels=tuple(spec.mask_channels),
        regions=spec.regions,
    )
    run.write("cases.json", found)
    run.write("pins.json", Pins(__version__, token="t", created="2026", weights=None))
    return run


def call(run: RunFolder, *, shard: int = 0, cpus: int = 1) -> StepCall:
    """The next attempt of a task."""
    _, attempt = run.new_attempt("task", job="local", restart=0)
    return StepCall(run, attempt, cpus, threads=1, device="cpu", arm="", fold=0, shard=shard)


def make(run: RunFolder, *, cpus: int = 1) -> Path:
    """Prepare all shards and assemble: the data set."""
    for shard in range(run.spec.prepare.shards):
        prepare(call(run, shard=shard, cpus=cpus))
    assemble(call(run, cpus=cpus))
    return run.raw / DATASET


def contents(folder: Path, *, but: frozenset[str] = frozenset()) -> dict[str, bytes]:
    """All files below a folder, by their relative paths."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    named = ((str(file.relative_to(folder)), file) for file in files)
    return {name: file.read_bytes() for name, file in named if not but & {*Path(name).parts}}
