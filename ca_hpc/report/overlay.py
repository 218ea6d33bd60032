"""Quality control pictures: labels, and what was predicted of them, outlined on their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

# Colours of a target's reference and of its prediction, which is dashed: told apart by hue and
# dash, for any colour vision, and in grey print. Okabe and Ito's, brighter where black needs it.
PAIRS: Final = (("#56B4E9", "#E69F00"), ("#2EE6A8", "#FF7AC6"), ("#F0E442", "#FF8A5C"))
DASHED: Final = (0, (2.5, 2))
MARGIN_MM: Final = 16.0
HEIGHT_INCHES: Final = 3.4
TITLE_INCHES: Final = 0.33
PANEL_INCHES: Final = 1.75  # width that a title of TEXT_SIZE, "sagittal, slice 1024", needs
LEGEND_INCHES: Final = 0.27  # of a row
COLUMNS: Final = 2  # of the legend
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
class Outline:
    """A mask (axes RL, AP, SI) that is drawn, and how."""

    name: str
    mask: Mask
    colour: str
    dash: Any = "solid"


@dataclass(frozen=True)
class Plane:
    """One slice as it is shown: arrays (rows from the bottom, columns from the left), pixel size
    ``step`` (across, upwards) in mm. ``masks`` in the order of the outlines."""

    view: View
    index: int
    values: NDArray[np.float32]
    masks: tuple[Mask, ...]
    step: tuple[float, float]


def overlay_png(
    image: nib.Nifti1Image,
    reference: nib.Nifti1Image,
    prediction: nib.Nifti1Image | None = None,
    *,
    targets: Mapping[str, tuple[int, ...]],
    focus: str | None = None,
    height: float = HEIGHT_INCHES,
) -> bytes:
    """PNG of a sagittal and an axial slice, cropped around the cord, with the outlines of labels.

    Takes 3D images of any orientation on one grid. ``targets``: values of the label map that
    belong to each; those that the colours suffice for are drawn, or else ``focus`` (None: the
    first) alone. The sagittal slice is where most of the focus lies, the axial one where its
    reference and prediction disagree most. ``height``: of the slices, inches.

    Raises CaHpcError if the grids differ.
    """
    maps = [reference] if prediction is None else [reference, prediction]
    if len(image.shape) != 3 or any(labels.shape != image.shape for labels in maps):
        shapes = ", ".join(str(volume.shape) for volume in (image, *maps))
        raise CaHpcError(
            f"image, reference and prediction have the shapes {shapes}",
            hint="all must be 3D and on one grid",
        )
    oriented = to_orientation(image, "RPI")
    spacing = tuple(float(step) for step in oriented.header.get_zooms())
    values = np.asarray(oriented.dataobj, dtype=np.float32)
    arrays = [np.asarray(to_orientation(labels, "RPI").dataobj) for labels in maps]
    focus = focus or next(iter(targets))
    outlines = _outlines(arrays, targets if len(targets) <= len(PAIRS) else {focus: targets[focus]})
    everything = np.logical_or.reduce([outline.mask for outline in outlines])
    looked_at = [np.isin(array, targets[focus]) for array in arrays]
    if not any(mask.any() for mask in looked_at):
        looked_at = [everything]
    box = crop_box(everything, spacing, margin_mm=MARGIN_MM)
    planes = [
        _plane(values, outlines, view, index=index, box=box, spacing=spacing)
        for view, index in zip(
            (SAGITTAL, AXIAL), slice_indices(looked_at[0], looked_at[-1]), strict=True
        )
    ]
    low, high = np.percentile(values[box], (0.5, 99.5))
    return _draw(planes, outlines, window=(float(low), float(high)), height=height)


def _outlines(
    maps: Sequence[NDArray[Any]], targets: Mapping[str, tuple[int, ...]]
) -> tuple[Outline, ...]:
    """The reference of each target and, if ``maps`` hold it, the prediction."""
    out = []
    for (name, values), colours in zip(targets.items(), PAIRS, strict=False):
        masks = [np.isin(array, values) for array in maps]
        names = [name, f"{name}, predicted"]
        if len(masks) > 1 and len(targets) == 1:
            names = ["reference", "prediction"]
        for mask, title, colour, dash in zip(
            masks, names, colours, ("solid", DASHED), strict=False
        ):
            out.append(Outline(title, mask, colour, dash))
    return tuple(out)


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
    values: NDArray[np.float32],
    outlines: Sequence[Outline],
    view: View,
    *,
    index: int,
    box: tuple[slice, ...],
    spacing: tuple[float, ...],
) -> Plane:
    """Slice ``index`` of the image and the outlines' masks (RL, AP, SI), within ``box``."""
    window = list(box)
    window[view.axis] = slice(index, index + 1)

    def cut(volume: NDArray[Any]) -> NDArray[Any]:
        plane = volume[tuple(window)].squeeze(axis=view.axis).T
        return plane[:, ::-1] if view.flip else plane

    across, upwards = (mm for axis, mm in enumerate(spacing) if axis != view.axis)
    masks = tuple(cut(outline.mask) for outline in outlines)
    return Plane(view, index, cut(values), masks, step=(across, upwards))


def _extent(plane: Plane) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in mm."""
    rows, columns = plane.values.shape
    return 0, columns * plane.step[0], 0, rows * plane.step[1]


def _draw(
    planes: Sequence[Plane],
    outlines: Sequence[Outline],
    *,
    window: tuple[float, float],
    height: float,
) -> bytes:
    """The planes side by side, equally high, over a legend."""
    from matplotlib.figure import Figure

    widths = [max(height * right / top, PANEL_INCHES) for _, right, _, top in map(_extent, planes)]
    below = LEGEND_INCHES * -(-len(outlines) // COLUMNS) + 0.14
    whole = TITLE_INCHES + height + below
    size = (sum(widths) + 0.2, whole)
    figure = Figure(figsize=size, dpi=DPI, facecolor="black")
    panels = figure.subplots(1, len(planes), width_ratios=widths)
    for axes, plane in zip(panels, planes, strict=True):
        _draw_plane(axes, plane, outlines, window=window)
    _legend(figure, outlines)
    figure.subplots_adjust(
        left=0.01, right=0.99, top=1 - TITLE_INCHES / whole, bottom=below / whole, wspace=0.03
    )
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _legend(figure: Any, outlines: Sequence[Outline]) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=o.colour, linestyle=o.dash, linewidth=2, label=o.name)
        for o in outlines
    ]
    figure.legend(
        handles=lines,
        loc="lower center",
        ncols=min(COLUMNS, len(lines)),
        frameon=False,
        labelcolor="white",
        fontsize=TEXT_SIZE,
        borderaxespad=0.1,
    )


def _draw_plane(
    axes: Any, plane: Plane, outlines: Sequence[Outline], *, window: tuple[float, float]
) -> None:
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
    for mask, outline in zip(plane.masks, outlines, strict=True):
        if mask.any():
            _draw_outline(axes, mask, step=plane.step, colour=outline.colour, dash=outline.dash)
    axes.set_axis_off()
    axes.set_title(f"{plane.view.name}, slice {plane.index}", color="white", fontsize=TEXT_SIZE)
    for letter, x, y in zip(
        plane.view.edges, (0.03, 0.97, 0.5, 0.5), (0.5, 0.5, 0.97, 0.03), strict=True
    ):
        axes.text(x, y, letter, transform=axes.transAxes, **LETTER)


def _draw_outline(
    axes: Any, mask: Mask, *, step: tuple[float, float], colour: str, dash: Any
) -> None:
    """The edge of ``mask``; the rim of zeros closes it where it runs out of the picture."""
    rimmed = np.pad(mask, 1).astype(float)
    y, x = ((np.arange(size) - 0.5) * mm for size, mm in zip(rimmed.shape, step[::-1], strict=True))
    axes.contour(x, y, rimmed, levels=[0.5], colors=[colour], linestyles=[dash], linewidths=1.6)
