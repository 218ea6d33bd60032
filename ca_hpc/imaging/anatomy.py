"""The anatomy of a phantom's neck: which tissue lies at a point in millimetres.

A curved cord in its CSF, vertebrae and discs in front, spinous processes, muscle and fat behind.
Each structure is an inequality in coordinates that follow the cord.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


class Tissue(IntEnum):
    MUSCLE = 0
    FAT = 1
    AIR = 2
    LIGAMENT = 3  # and cortical bone: no signal in any contrast
    MARROW = 4
    DISC = 5
    VESSEL = 6
    CSF = 7
    WHITE_MATTER = 8
    GREY_MATTER = 9


@dataclass(frozen=True)
class Anatomy:
    """One person. Lengths in mm; ``lordosis`` is how far the neck's middle bows forward."""

    lordosis: float
    sway: float
    scoliosis: float
    cord_half_width: float
    cord_half_depth: float
    enlargement: float
    enlargement_at: float
    canal_half_width: float
    canal_half_depth: float
    canal_behind: float
    pitch: float
    first_disc: float
    disc_height: float
    bulge: float
    body_half_width: float
    body_half_depth: float
    neck_depth: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Anatomy:
        """A random adult."""
        return Anatomy(
            lordosis=rng.uniform(0, 9),
            sway=rng.uniform(-3, 3),
            scoliosis=rng.uniform(-2.5, 2.5),
            cord_half_width=rng.uniform(5.4, 6.8),
            cord_half_depth=rng.uniform(3.4, 4.3),
            enlargement=rng.uniform(0.05, 0.16),
            enlargement_at=rng.uniform(-20, 10),
            canal_half_width=rng.uniform(9.5, 11.5),
            canal_half_depth=rng.uniform(6.2, 7.6),
            canal_behind=rng.uniform(-0.2, 1.2),
            pitch=rng.uniform(17, 20.5),
            first_disc=rng.uniform(0, 18),
            disc_height=rng.uniform(4.5, 6),
            bulge=rng.uniform(0, 2.2),
            body_half_width=rng.uniform(11, 14),
            body_half_depth=rng.uniform(7, 8.5),
            neck_depth=rng.uniform(26, 34),
        )


@dataclass(frozen=True)
class CordFrame:
    """Where points lie seen from the cord, mm: ``right``, ``front``, and ``up`` along the cord.

    ``disc`` is the height above the nearest middle of a disc.
    """

    right: Floats
    front: Floats
    up: Floats
    disc: Floats


def cord_frame(anatomy: Anatomy, points: Floats) -> CordFrame:
    """The curved coordinates of ``points``, an array (3, ...) of x, y, z (RAS+ mm)."""
    x, y, z = points
    height = z / 40
    square = height * height
    bow = anatomy.lordosis * (0.4 - square) + anatomy.sway * height * (square - 0.6)
    slope = (anatomy.sway * (3 * square - 0.6) - 2 * anatomy.lordosis * height) / 40
    stretch = 1 + slope**2
    up = z + slope * (y - bow) / stretch
    return CordFrame(
        right=x - anatomy.scoliosis * np.sin(z / 22),
        front=(y - bow) / np.sqrt(stretch),
        up=up,
        disc=_to_nearest(up - anatomy.first_disc, anatomy.pitch),
    )


def _to_nearest(position: Floats, period: float) -> Floats:
    """Signed distance to the nearest multiple of ``period``."""
    return position - period * np.round(position / period)


def _cord(a: Anatomy, p: CordFrame) -> Floats:
    """Below 1 inside the cord, an ellipse that is wider at the cervical enlargement."""
    wider = 1 + a.enlargement * np.exp(-(((p.up - a.enlargement_at) / 18) ** 2))
    return (p.right / (a.cord_half_width * wider)) ** 2 + (p.front / a.cord_half_depth) ** 2


def _canal(a: Anatomy, p: CordFrame, *, wall: float = 0) -> Mask:
    """Inside the dural sac: broader in front, pressed in by the discs, ``wall`` mm thicker."""
    pressed = a.bulge * np.exp(-((p.disc / 2.5) ** 2)) * (p.front > 0)
    depth = a.canal_half_depth + wall - pressed
    front = (p.front + a.canal_behind) / depth
    width = (a.canal_half_width + wall) * (1 + 0.2 * np.clip(front, -1, 1))
    inside: Mask = (p.right / width) ** 2 + front**2 < 1
    return inside


def _column(a: Anatomy, p: CordFrame, *, wall: float = 0) -> Mask:
    """Inside the stack of vertebral bodies and discs, seen from above. Bodies have a waist."""
    waist = 1 - 0.8 * np.exp(-((p.disc / (0.3 * a.pitch)) ** 2))
    centre = a.canal_half_depth - a.canal_behind + 2 + a.body_half_depth
    across = p.right / (a.body_half_width + wall - waist)
    along = (p.front - centre) / (a.body_half_depth + wall - waist)
    across, along = across * across, along * along
    inside: Mask = across * across + along * along < 1  # ** 4 would call pow for each point
    return inside


def _spinous(a: Anatomy, p: CordFrame, *, wall: float = 0) -> Mask:
    """Inside a spinous process: a plate behind each body that slopes down and ends in a knob."""
    behind = -(p.front + a.canal_half_depth + a.canal_behind + 1)
    drop = _to_nearest(p.up + 0.55 * behind - a.first_disc + 0.5 * a.pitch, a.pitch)
    knob = np.exp(-(((behind - 14) / 4) ** 2))
    plate: Mask = (np.abs(p.right) < 1.8 + 1.5 * knob + wall) & (
        np.abs(drop) < 3.2 + 1.2 * knob + wall
    )
    return plate & (behind > -wall) & (behind < 17 + wall)


def _lamina(a: Anatomy, p: CordFrame, *, wall: float = 0) -> Mask:
    """Inside the arch that closes the canal behind, at the level of each body."""
    level = _to_nearest(p.up - a.first_disc + 0.5 * a.pitch - 0.4 * p.front, a.pitch)
    ring = np.hypot(p.right / 1.35, p.front + a.canal_behind) - (a.canal_half_depth + 3)
    arch: Mask = (np.abs(ring) < 1 + wall) & (np.abs(level) < 5 + wall)
    return arch & (p.front < 3)


def _septa(a: Anatomy, p: CordFrame) -> Mask:
    """Fat between the muscles of the back: wavy sheets on either side."""
    side = np.abs(p.right)
    sheet = np.sin(0.42 * side + 0.30 * p.front + 1.2 * np.sin(0.12 * p.up + 0.2 * side))
    fat: Mask = np.abs(sheet) < 0.16
    return fat & (p.front < -4) & (side > 2.5)


def _vessels(a: Anatomy, p: CordFrame) -> Mask:
    """The vertebral arteries beside the bodies, the carotids further out and in front."""
    side = np.abs(p.right)
    vertebral: Mask = np.hypot(side - a.body_half_width - 3.5, p.front - 8) < 1.9
    carotid: Mask = np.hypot(side - 20, p.front - 22) < 3.2
    return vertebral | carotid


def _grey_matter(a: Anatomy, p: CordFrame) -> Mask:
    """The butterfly: a horn in front and behind on either side, joined in the middle."""
    side, front = np.abs(p.right) / a.cord_half_width, p.front / a.cord_half_depth
    ventral: Mask = ((side - 0.30) / 0.17) ** 2 + ((front - 0.22) / 0.36) ** 2 < 1
    dorsal: Mask = ((side - 0.36 - 0.12 * front) / 0.09) ** 2 + ((front + 0.28) / 0.52) ** 2 < 1
    commissure: Mask = (side < 0.3) & (np.abs(front) < 0.11)
    return ventral | dorsal | commissure


# Painted in this order over muscle: a later tissue covers an earlier one.
LAYERS: Final[tuple[tuple[Tissue, Callable[[Anatomy, CordFrame], Mask]], ...]] = (
    (Tissue.FAT, _septa),
    (Tissue.FAT, lambda a, p: p.front < -a.neck_depth),
    (Tissue.AIR, lambda a, p: p.front < -a.neck_depth - 7),
    (Tissue.AIR, lambda a, p: (p.right / 8) ** 2 + ((p.front - 33) / 5) ** 2 < 1),
    (Tissue.VESSEL, _vessels),
    (Tissue.LIGAMENT, lambda a, p: _column(a, p, wall=1.0)),
    (Tissue.MARROW, lambda a, p: _column(a, p) & (np.abs(p.disc) > 0.5 * a.disc_height + 0.8)),
    (Tissue.DISC, lambda a, p: _column(a, p) & (np.abs(p.disc) < 0.5 * a.disc_height)),
    (Tissue.LIGAMENT, lambda a, p: _lamina(a, p, wall=0.8)),
    (Tissue.LIGAMENT, lambda a, p: _spinous(a, p, wall=0.9)),
    (Tissue.MARROW, _lamina),
    (Tissue.MARROW, _spinous),
    (Tissue.LIGAMENT, lambda a, p: _canal(a, p, wall=1.0)),
    (Tissue.CSF, _canal),
    (Tissue.WHITE_MATTER, lambda a, p: _cord(a, p) < 1),
    (Tissue.GREY_MATTER, lambda a, p: (_cord(a, p) < 0.8) & _grey_matter(a, p)),
)


def tissues(anatomy: Anatomy, points: Floats) -> NDArray[np.uint8]:
    """The Tissue at each of ``points``, an array (3, ...) of x, y, z (RAS+ mm)."""
    frame = cord_frame(anatomy, points)
    painted = np.full(frame.up.shape, Tissue.MUSCLE, dtype=np.uint8)
    for tissue, inside in LAYERS:
        painted[inside(anatomy, frame)] = tissue
    return painted
