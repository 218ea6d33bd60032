"""One label map of a case, whether it was stored as a map or as a mask for each label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ca_hpc.core.data_spec import Label
from ca_hpc.imaging.bad_case import BadCase

Mask = NDArray[np.bool_]
Map = NDArray[np.uint8]
TOLD: Final = 5  # values in a message
ROUNDING: Final = 1e-3  # of a mask's ends; soft masks are often 1.0000001


class Stored(NamedTuple):
    """A label file's values; ``label`` None: of a map of all labels."""

    label: str | None
    values: NDArray[Any]
    path: Path


def merged(files: Iterable[Stored], labels: Mapping[str, Label]) -> Map:
    """The label map of a case: the files' values, on one grid, as values of ``labels``.

    Masks are painted in ascending order of their labels' values, so that a lesion (2) lies over the
    cord (1). Raises BadCase for values that are not expected and for a label without a file.
    """
    understood = [(file.path, *_understood(file, labels)) for file in files]
    masks = {name: mask for _, name, mask in understood if name is not None}
    maps = [label_map for _, name, label_map in understood if name is None]
    missing = [name for name in labels if name not in masks]
    if missing and not maps:
        told = ", ".join(str(path) for path, _, _ in understood)
        raise BadCase(f"{told}: no file of label {' and '.join(missing)}", hint="give one")
    out = maps[0] if maps else np.zeros_like(masks[next(iter(masks))], np.uint8)
    for name in sorted(masks, key=lambda name: labels[name].value):
        np.copyto(out, np.uint8(labels[name].value), where=masks[name])
    for path, label, mask in understood:
        if label is not None and mask.any() and not (out == labels[label].value).any():
            raise BadCase(
                f"{path}: all of {label} lies under labels of higher values",
                hint="give the higher value to what lies inside: cord 1, lesion 2",
            )
    return out


def _understood(file: Stored, labels: Mapping[str, Label]) -> tuple[str | None, NDArray[Any]]:
    """A label's name and its mask; or None and a map of all labels."""
    if file.label is not None:
        taken = labels[file.label].from_values
        return file.label, mask_of(file.values, file.path, name=file.label, from_values=taken)
    if len(labels) > 1:
        return None, _expected(file.values, file.path, labels)
    ((name, rule),) = labels.items()
    return name, mask_of(file.values, file.path, name=name, from_values=rule.from_values)


def mask_of(
    values: NDArray[Any], path: Path, *, name: str, from_values: Sequence[int] = ()
) -> Mask:
    """Where a mask file says ``name``: above a half of a soft or 0/1 mask, or of 0 and a constant.

    Raises BadCase for other values, unless ``from_values`` says which of them count.
    """
    if from_values:
        return _equal(values, from_values)
    least, most = values.min(), values.max()
    if least >= -ROUNDING and most <= 1 + ROUNDING:
        return _above_half(values, path)
    if least == 0 and ((values == 0) | (values == most)).all():
        return np.asarray(values == most)
    found = np.unique(values)
    found = found[found != 0]
    if least >= 0 and len(found) <= TOLD and (found == np.round(found)).all():
        whole = [int(value) for value in found]
        raise BadCase(
            f"{path}: values {', '.join(map(str, whole))} in a mask of {name}: "
            f"from_values: {whole} takes {'both' if len(whole) == 2 else 'all'}",
            hint="say in from_values which of them count",
        )
    raise BadCase(
        f"{path}: values {least:g} to {most:g} in a mask of {name}",
        hint="a mask has values 0 to 1, or 0 and one other; from_values names what counts",
    )


def _equal(values: NDArray[Any], wanted: Sequence[int]) -> Mask:
    return np.asarray(np.isin(values, np.asarray(wanted)))


def _above_half(values: NDArray[Any], path: Path) -> Mask:
    inside = np.asarray(values > 0.5)
    if inside.all() or (not inside.any() and values.any()):
        told = "every" if inside.all() else "no"
        raise BadCase(
            f"{path}: {told} voxel is above 0.5 (values {values.min():g} to {values.max():g})",
            hint="is it a mask? Name the file that is one, or rescale it to 0 to 1",
        )
    return inside


def _expected(values: NDArray[Any], path: Path, labels: Mapping[str, Label]) -> Map:
    out = np.zeros_like(values, np.uint8)
    known = np.asarray(values == 0)
    for rule in labels.values():
        inside = np.asarray(values == rule.value)
        np.copyto(out, np.uint8(rule.value), where=inside)
        known |= inside
    if not known.all():
        strange = [float(value) for value in np.unique(values[~known])[:TOLD]]
        expected = {name: rule.value for name, rule in labels.items()}
        raise BadCase(
            f"{path}: values {strange} are not among {expected}",
            hint="name them under `labels:`, or repair the file",
        )
    return out
