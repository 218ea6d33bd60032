"""Images as large as the patch asks for. What they show does not matter to speed."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

RPI = np.diag([-1.0, 1.0, 1.0, 1.0])  # SCT's code; 1 mm


def write_images(folder: Path, *, people: int, shape: tuple[int, int, int]) -> None:
    """A BIDS data set: noise, and a brighter cord through all of it. ``shape``: RL, AP, SI."""
    for person in range(1, people + 1):
        rng = np.random.default_rng(person)
        x, y, _ = np.indices((*shape[:2], 1))
        cord = np.hypot(x - shape[0] / 2, y - shape[1] / 2) < rng.uniform(4, 6)
        label = np.broadcast_to(cord, shape)
        name = f"sub-{person:02d}"
        anat = Path(name, "anat")
        _save(rng.normal(100, 15, shape) + 60 * label, folder / anat / f"{name}_T2w.nii.gz")
        labels = folder / "derivatives/labels" / anat
        _save(label, labels / f"{name}_T2w_label-SC_seg.nii.gz")


def _save(values: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.int16), RPI), file)
