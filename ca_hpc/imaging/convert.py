"""A case as nnU-Net wants it: image and label in SCT's RPI, on one grid, labels as integers.

If wanted, both are cut to the surroundings of one label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from ca_hpc.core.data_spec import Label
from ca_hpc.core.record import Case
from ca_hpc.imaging.bad_case import BadCase
from ca_hpc.imaging.conversion import Conversion, Targets
from ca_hpc.imaging.crop import Box, Surroundings, crop_box
from ca_hpc.imaging.grid import in_rpi, onto_grid, orthonormal
from ca_hpc.imaging.label_map import Map, Stored, mask_of, merged
from ca_hpc.imaging.orientation import sct_orientation
from ca_hpc.imaging.volume import Volume, not_finite, read_volume, write_volume

__all__ = ["BadCase", "Conversion", "Converted", "convert_case"]


@dataclass(frozen=True, slots=True)
class Converted:
    """What was found about a case: orientation, spacing (mm) and shape as stored, its labels' size.

    ``label_voxels``, ``label_voxels_lost`` (how many of them were cut off), ``volume_mm3``: by
    target. ``crop``: start and stop, by axis (RL, AP, SI), of the voxels kept of the image in RPI;
    None if it is whole. ``content_sha256``: of the images' values in RPI before any crop, as
    float32; the same for an image that is only stored otherwise. ``left_out``: why the case is not
    to be used though nothing is wrong with it; nothing was written then, nor all read.
    """

    case: str
    orientation: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    label_voxels: Mapping[str, int]
    volume_mm3: Mapping[str, float]
    image_sha256: tuple[str, ...]
    label_sha256: tuple[str, ...]
    content_sha256: str = ""
    crop: tuple[tuple[int, int], ...] | None = None
    label_voxels_lost: Mapping[str, int] = field(default_factory=dict)
    left_out: str | None = None

    @property
    def cropped(self) -> bool:
        """Whether the image was cut to the surroundings of a label."""
        return self.crop is not None


def convert_case(case: Case, conversion: Conversion, *, images: Path, labels: Path) -> Converted:
    """Write ``images/CASE_0000.nii.gz …`` and ``labels/CASE.nii.gz``, all in RPI.

    Masks follow the images as further channels. All files get the affine of the first image, to the
    bit: nnU-Net refuses headers that differ by 1e-10. Raises BadCase.
    """
    if len(case.masks) != len(conversion.masks):
        raise BadCase(
            f"{case.images[0]}: {len(case.masks)} of the masks {', '.join(conversion.masks)}",
            hint="give every image all masks",
        )
    tolerance = conversion.tolerance_mm
    stored = read_volume(Path(case.images[0]))
    grid = in_rpi(stored)
    first = replace(grid, affine=orthonormal(grid, tolerance_mm=tolerance))

    def on_grid(path: str) -> Volume:
        volume = onto_grid(grid, read_volume(Path(path)), tolerance_mm=tolerance)
        return replace(volume, affine=first.affine)

    label, label_sha256 = _label_map(case, conversion.labels, read=on_grid)
    voxels = _counted(label, conversion.targets)
    converted = Converted(
        case=case.id,
        orientation=sct_orientation(stored.affine),
        spacing_mm=_rounded(voxel_sizes(stored.affine)),
        shape=stored.shape,
        label_voxels=voxels,
        volume_mm3={name: _mm3(count, first.affine) for name, count in voxels.items()},
        image_sha256=(stored.sha256,),
        label_sha256=label_sha256,
        left_out=_left_out(label, case, conversion.labels),
    )
    if converted.left_out:
        return converted
    box = _box(label, conversion.keep, first.affine)
    content = hashlib.sha256()
    digests = []
    channels = _channels(case, conversion, first, read=on_grid, content=content.update)
    for number, channel in enumerate(channels):
        write_volume(images / f"{case.id}_{number:04d}.nii.gz", channel, box)
        digests.append(channel.sha256)
    write_volume(labels / f"{case.id}.nii.gz", _of_values(first, label), box)
    kept = _counted(label[box], conversion.targets)
    return replace(
        converted,
        image_sha256=tuple(digests),
        content_sha256=content.hexdigest(),
        crop=tuple((side.start, side.stop) for side in box) if box else None,
        label_voxels_lost={name: count - kept[name] for name, count in voxels.items()},
    )


def _channels(
    case: Case,
    conversion: Conversion,
    first: Volume,
    *,
    read: Callable[[str], Volume],
    content: Callable[[bytes | memoryview], None],
) -> Iterator[Volume]:
    """Images, then masks, one at a time; ``content`` is told the images' values."""
    for path in case.images:
        image = first if path == case.images[0] else read(path)
        _examine(image, content)
        yield image
    for path, name in zip(case.masks, conversion.masks, strict=True):
        mask = read(path)
        yield _of_values(mask, mask_of(mask.values(), mask.path, name=name).view(np.uint8))


def _of_values(volume: Volume, values: NDArray[np.uint8]) -> Volume:
    """``volume`` with other voxels."""
    return replace(volume, voxels=values, slope=1.0, intercept=0.0)


def _label_map(
    case: Case, labels: Mapping[str, Label], *, read: Callable[[str], Volume]
) -> tuple[Map, tuple[str, ...]]:
    """The label map, in RPI, and the sha256 of each of its files."""
    digests: list[str] = []

    def stored() -> Iterator[Stored]:  # one at a time in memory
        for file in case.labels:
            volume = read(file.path)
            digests.append(volume.sha256)
            yield Stored(file.label, volume.values(), volume.path)

    return merged(stored(), labels), tuple(digests)


def _examine(image: Volume, update: Callable[[bytes | memoryview], None]) -> None:
    """Tell a digest the values; raise BadCase where they are not finite or all the same."""
    update(repr(image.shape).encode())
    least, most = [], []
    for slab in image.slabs():
        least.append(slab.min())
        most.append(slab.max())
        update((slab.astype("<f4", copy=False) + np.float32(0)).data)  # -0.0 is 0.0
    if not np.isfinite([*least, *most]).all():  # min and max hand NaN on
        raise not_finite(image.path)
    if min(least) == max(most):
        raise BadCase(
            f"{image.path}: every voxel is {least[0]:g}", hint="fetch it again, or exclude it"
        )


def _left_out(label: Map, case: Case, labels: Mapping[str, Label]) -> str | None:
    """Why the case is to be left out, if a label is empty that must not be."""
    for name, rule in labels.items():
        if rule.empty in (None, "allow") or (label == rule.value).any():
            continue
        files = [file.path for file in case.labels if file.label in (name, None)]
        told = f"{', '.join(files)}: no voxel of {name}"
        if rule.empty == "skip":
            return told
        raise BadCase(told, hint="`empty: allow` or `skip` of this label takes or leaves it")
    return None


def _box(label: Map, keep: Surroundings | None, affine: NDArray[Any]) -> Box:
    """What is kept: () stands for the whole image."""
    if keep is None or not (inside := np.isin(label, keep.values)).any():
        return ()
    return crop_box(inside, voxel_sizes(affine), margin_mm=keep.margin_mm)


def _counted(label: Map, targets: Targets) -> dict[str, int]:
    wanted = sorted({value for values in targets.values() for value in values})
    sizes = {value: int(np.count_nonzero(label == value)) for value in wanted}
    return {name: sum(sizes[value] for value in values) for name, values in targets.items()}


def _mm3(voxels: int, affine: NDArray[Any]) -> float:
    return round(voxels * abs(float(np.linalg.det(affine[:3, :3]))), 1)


def _rounded(sizes: NDArray[Any]) -> tuple[float, float, float]:
    x, y, z = (round(float(size), 4) for size in sizes)
    return x, y, z
