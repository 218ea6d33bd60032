"""Quality control pictures: a reference and a prediction outlined on their image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.crop import crop_box
from ca_hpc.imaging.orientation import to_orientation

Mask = NDArray[np.bool_]

# name, colour, dash. Told apart by hue and dash: for any colour vision, and in grey print
OUTLINES: Final = (
    ("reference", "#56B4E9", "solid"),
    ("prediction", "#E69F00", (0, (2.5, 2))),
)
MARGIN_MM: Final = 16.0
HEIGHT_INCHES: Final = 3.4
DPI: Final = 110
TEXT_SIZE: Final = 11
LETTER: Final = {"color": "white", "fontsize": 9, "ha": "center", "va": "center"}


@dataclass(frozen=True)
class View:
    """A direction to look at an RPI array from: the ``axis`` across the plane, and the letters at
    the picture's left, right, top and bottom."""

    name: str
    axis: int
    flip: bool  # columns from right to left: RPI runs to the front, which is shown on the left
    edges: tuple[str, str, str, str]


SAGITTAL: Final = View("sagittal", axis=0, flip=True, edges=("A", "P", "S", "I"))
AXIAL: Final = View("axial", axis=2, flip=False, edges=("R", "L", "A", "P"))


@dataclass(frozen=True)
class Plane:
    """One slice as it is shown: arrays (rows from the bottom, columns from the left), pixel size
    ``step`` (across, upwards) in mm."""

    view: View
    index: int
    values: NDArray[np.float32]
    reference: Mask
    prediction: Mask
    step: tuple[float, float]


def overlay_png(
    image: nib.Nifti1Image,
    reference: nib.Nifti1Image,
    prediction: nib.Nifti1Image,
    *,
    label: int | None = None,
) -> bytes:
    """PNG of a sagittal and an axial slice, cropped around the cord, with both outlines.

    Takes 3D images of any orientation on one grid. The sagittal slice is where most of the
    reference lies, the axial one where the two disagree most. ``label`` is the value to outline;
    without it any value above 0. Raises CaHpcError if the grids differ.
    """
    if not image.shape == reference.shape == prediction.shape or len(image.shape) != 3:
        shapes = f"{image.shape}, {reference.shape} and {prediction.shape}"
        raise CaHpcError(
            f"image, reference and prediction have the shapes {shapes}",
            hint="all three must be 3D and on one grid",
        )
    oriented = to_orientation(image, "RPI")
    spacing = tuple(float(step) for step in oriented.header.get_zooms())
    values = np.asarray(oriented.dataobj, dtype=np.float32)
    masks = _mask(reference, label), _mask(prediction, label)
    box = crop_box(masks[0] | masks[1], spacing, margin_mm=MARGIN_MM)
    planes = [
        _plane((values, *masks), view, index=index, box=box, spacing=spacing)
        for view, index in zip((SAGITTAL, AXIAL), slice_indices(*masks), strict=True)
    ]
    low, high = np.percentile(values[box], (0.5, 99.5))
    return _draw(planes, window=(float(low), float(high)))


def _mask(volume: nib.Nifti1Image, label: int | None) -> Mask:
    """The voxels of ``label``, axes RL, AP, SI."""
    values = np.asarray(to_orientation(volume, "RPI").dataobj)
    return np.asarray(values > 0.5 if label is None else values == label)


def slice_indices(reference: Mask, prediction: Mask) -> tuple[int, int]:
    """Which sagittal and which axial slice (RL, AP, SI axes) to show."""
    shown = reference if reference.any() else prediction
    if not shown.any():
        return shown.shape[0] // 2, shown.shape[2] // 2
    sagittal = int(shown.sum(axis=(1, 2)).argmax())
    wrong = (reference ^ prediction).sum(axis=(0, 1))
    filled = np.flatnonzero(shown.any(axis=(0, 1)))
    axial = int(wrong.argmax()) if wrong.any() else int(filled[filled.size // 2])
    return sagittal, axial


def _plane(
    volumes: tuple[NDArray[np.float32], Mask, Mask],
    view: View,
    *,
    index: int,
    box: tuple[slice, ...],
    spacing: tuple[float, ...],
) -> Plane:
    """Slice ``index`` of image, reference and prediction (RL, AP, SI), within ``box``."""
    window = list(box)
    window[view.axis] = slice(index, index + 1)

    def cut(volume: NDArray[Any]) -> NDArray[Any]:
        plane = volume[tuple(window)].squeeze(axis=view.axis).T
        return plane[:, ::-1] if view.flip else plane

    values, reference, prediction = map(cut, volumes)
    across, upwards = (mm for axis, mm in enumerate(spacing) if axis != view.axis)
    return Plane(view, index, values, reference, prediction, step=(across, upwards))


def _extent(plane: Plane) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in mm."""
    rows, columns = plane.values.shape
    return 0, columns * plane.step[0], 0, rows * plane.step[1]


def _draw(planes: Sequence[Plane], *, window: tuple[float, float]) -> bytes:
    """The planes side by side, equally high, over a legend."""
    from matplotlib.figure import Figure

    widths = [right / top for _, right, _, top in map(_extent, planes)]
    size = (HEIGHT_INCHES * sum(widths) + 0.2, HEIGHT_INCHES + 0.7)
    figure = Figure(figsize=size, dpi=DPI, facecolor="black")
    panels = figure.subplots(1, len(planes), width_ratios=widths)
    for axes, plane in zip(panels, planes, strict=True):
        _draw_plane(axes, plane, window=window)
    _legend(figure)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.1, wspace=0.03)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=colour, linestyle=dash, linewidth=2, label=name)
        for name, colour, dash in OUTLINES
    ]
    figure.legend(
        handles=lines,
        loc="lower center",
        ncols=len(lines),
        frameon=False,
        labelcolor="white",
        fontsize=TEXT_SIZE,
        borderaxespad=0.1,
    )


def _draw_plane(axes: Any, plane: Plane, *, window: tuple[float, float]) -> None:
    low, high = window
    axes.imshow(
        plane.values,
        cmap="gray",
        vmin=low,
        vmax=high,
        origin="lower",
        extent=_extent(plane),
        interpolation="nearest",
    )
    for mask, (_, colour, dash) in zip((plane.reference, plane.prediction), OUTLINES, strict=True):
        if mask.any():
            _outline(axes, mask, step=plane.step, colour=colour, dash=dash)
    axes.set_axis_off()
    axes.set_title(f"{plane.view.name}, slice {plane.index}", color="white", fontsize=TEXT_SIZE)
    for letter, x, y in zip(
        plane.view.edges, (0.03, 0.97, 0.5, 0.5), (0.5, 0.5, 0.97, 0.03), strict=True
    ):
        axes.text(x, y, letter, transform=axes.transAxes, **LETTER)


def _outline(axes: Any, mask: Mask, *, step: tuple[float, float], colour: str, dash: Any) -> None:
    """The edge of ``mask``; the rim of zeros closes it where it runs out of the picture."""
    rimmed = np.pad(mask, 1).astype(float)
    y, x = ((np.arange(size) - 0.5) * mm for size, mm in zip(rimmed.shape, step[::-1], strict=True))
    axes.contour(x, y, rimmed, levels=[0.5], colors=[colour], linestyles=[dash], linewidths=1.6)
