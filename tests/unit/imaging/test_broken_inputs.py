"""What is wrong with an image or a label is named with its file; no partial data set is left."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.eulerangles import euler2mat

from ca_hpc.core.data_spec import Folds, Label, Prepare
from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError
from tests.prepare_runs import AFFINE, SHAPE, Array, case, image, make, mask, pair, run_of, save

MAGIC, DIM, PIXDIM, SLOPE, UNITS, SROW = 344, 40, 76, 112, 123, 280  # in bytes (nifti1.h)


@dataclass(frozen=True)
class Broken:
    """How a good pair in a folder (``image.nii.gz``, ``cord.nii.gz``) is broken, and what is told
    of which file. ``labels``: of the run, if more than the cord.
    """

    file: str
    told: str
    break_it: Callable[[Path], object]
    labels: dict[str, Label] = field(default_factory=lambda: {"cord": Label(1)})


def pixels(array: Any, name: str = "image", affine: Any = AFFINE) -> Callable[[Path], object]:
    """Other voxels, or another affine, in a file."""
    return lambda folder: save(array, folder / f"{name}.nii.gz", affine)


def content(of: Callable[[bytes], bytes], name: str = "image") -> Callable[[Path], object]:
    """Other bytes of the compressed file."""

    def change(folder: Path) -> None:
        file = folder / f"{name}.nii.gz"
        file.write_bytes(of(file.read_bytes()))

    return change


def header(offset: int, value: Any, name: str = "image") -> Callable[[Path], object]:
    """Other bytes in the header, which nibabel would not write."""
    new = np.asarray(value).tobytes()

    def change(whole: bytes) -> bytes:
        plain = gzip.decompress(whole)
        return gzip.compress(plain[:offset] + new + plain[offset + len(new) :])

    return content(change, name)


def with_value(value: float) -> Any:
    out = image(0).astype(np.float32)
    out[0, 0, 0] = value
    return out


def wrong_sum(whole: bytes) -> bytes:
    """The CRC of the gzip, its last eight bytes but four, is another one."""
    return whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]


def shifted(mm: float) -> Any:
    out = AFFINE.copy()
    out[0, 3] += mm
    return out


def turned(angle: float) -> Any:
    """About the diagonal of the image: two of its corners stay where they are."""
    from nibabel.quaternions import angle_axis2mat

    diagonal = AFFINE[:3, :3] @ (np.array(SHAPE) - 1)
    out = AFFINE.copy()
    out[:3, :3] = angle_axis2mat(angle, diagonal) @ AFFINE[:3, :3]
    return out


def sheared(by: float) -> Any:
    skewed = np.array([[1, by, 0], [0, 1, 0], [0, 0, 1]])
    out = AFFINE.copy()
    out[:3, :3] = euler2mat(0.1, 0.2, 0.3) @ skewed @ out[:3, :3]
    return out


def both(affine: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        save(image(0), folder / "image.nii.gz", affine)
        save(mask(), folder / "cord.nii.gz", affine)

    return change


def colour() -> Any:
    return np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


def forms(qform: Any, sform: Any) -> Callable[[Path], object]:
    """The image with these in its header; None: the code 0."""

    def change(folder: Path) -> None:
        found = nib.Nifti1Image(image(0), None)
        for name, affine in (("qform", qform), ("sform", sform)):
            getattr(found, f"set_{name}")(affine, code=0 if affine is None else 1)
        nib.save(found, folder / "image.nii.gz")

    return change


LESION = {"cord": Label(1), "lesion": Label(2)}
UNREADABLE = r"cannot be read \("
CUT = UNREADABLE + "it is cut off"

BROKEN = {
    # files
    "not there": Broken(
        "image", UNREADABLE + "No such file", lambda f: (f / "image.nii.gz").unlink()
    ),
    "label not there": Broken(
        "cord", UNREADABLE + "No such", lambda f: (f / "cord.nii.gz").unlink()
    ),
    "empty": Broken("image", CUT, content(lambda whole: b"")),
    "text": Broken("image", UNREADABLE + "it is no NIfTI", content(lambda whole: b"no image here")),
    "a git-annex pointer": Broken(
        "image",
        UNREADABLE + "it is no NIfTI",
        content(lambda whole: b"/annex/objects/MD5E-s1200--0123456789abcdef.nii.gz\n"),
    ),
    "gzip of text": Broken("image", UNREADABLE, content(lambda whole: gzip.compress(b"none" * 99))),
    "nowhere": Broken("image", "does not say how it lies", forms(None, None)),
    "in two places": Broken(
        "image",
        "its qform and its sform are of different orientations",
        forms(AFFINE, AFFINE @ np.diag([-1.0, 1, 1, 1])),
    ),
    "cut in half": Broken("image", CUT, content(lambda w: w[: len(w) // 2])),
    "cut in the header": Broken("image", CUT, content(lambda w: w[:20])),
    "cut behind the voxels": Broken("image", CUT, content(lambda w: w[:-2])),
    "label cut": Broken("cord", CUT, content(lambda w: w[:-9], "cord")),
    "a byte changed": Broken("image", UNREADABLE + ".*incorrect data check", content(wrong_sum)),
    "cut before it was compressed": Broken(
        "image",
        CUT,
        content(lambda whole: gzip.compress(gzip.decompress(whole)[:-10])),
    ),
    # headers
    "voxels in another file": Broken(
        "image", UNREADABLE + "it is a header", header(MAGIC, b"ni1\0")
    ),
    "more voxels than bytes": Broken(
        "image", CUT, header(DIM, np.array([3, 32767, 32767, 32767], "<i2"))
    ),
    "no voxels": Broken(
        "image", UNREADABLE + "its shape", header(DIM, np.array([3, 0, 9, 10], "<i2"))
    ),
    "a type that nobody knows": Broken("image", UNREADABLE, header(70, np.array([9999], "<i2"))),
    "an infinite intercept": Broken(
        "image", UNREADABLE, header(SLOPE, np.array([1, np.inf], "<f4"))
    ),
    "metres": Broken("image", "its header is in metres", header(UNITS, np.uint8(1))),
    "micrometres": Broken("image", "its header is in micrometres", header(UNITS, np.uint8(3))),
    "voxels of kilometres": Broken(
        "image", "voxels of 1e", both(AFFINE * [[1e6], [1e6], [1e6], [1]])
    ),
    "voxels of nanometres": Broken(
        "image", "voxels of 1e-06", both(AFFINE * [[1e-6], [1e-6], [1e-6], [1]])
    ),
    "an axis of no length": Broken("image", "voxels of", header(SROW, np.zeros(4, "<f4"))),
    "an affine of NaN": Broken("image", "voxels of", header(SROW, np.full(4, np.nan, "<f4"))),
    "axes that coincide": Broken(
        "image",
        "two voxel axes have one direction",
        header(SROW, np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], "<f4")),
    ),
    "axes off the right angle": Broken(
        "image", "not orthonormal: axes 1.7 degrees", both(sheared(0.03))
    ),
    # what is in them
    "time series": Broken("image", "has 4 dimensions", pixels(np.stack([image(0), image(1)], -1))),
    "flat": Broken("image", "has 2 dimensions", pixels(image(0)[..., 0])),
    "a line of voxels": Broken("image", "is a line of voxels", pixels(image(0)[:1, :1])),
    "colours": Broken("image", "is a colour image", pixels(colour())),
    "complex": Broken("image", "has complex values", pixels(image(0).astype(np.complex64))),
    "NaN": Broken("image", "holds NaN or infinite values", pixels(with_value(np.nan))),
    "infinite": Broken("image", "holds NaN or infinite values", pixels(with_value(-np.inf))),
    "more than float32 holds": Broken(
        "image", "holds NaN or infinite values", pixels(with_value(0).astype(np.float64) + 1e39)
    ),
    "black": Broken("image", "every voxel is 0", pixels(np.zeros(SHAPE, np.int16))),
    # labels
    "label with NaN": Broken(
        "cord", "holds NaN or infinite values", pixels(mask(np.nan, np.float32), "cord")
    ),
    "label of another shape": Broken(
        "cord", r"shape \(8, 9, 9\) in RPI is not the image", pixels(mask()[..., :-1], "cord")
    ),
    "label beside its image": Broken(
        "cord", r"lies 1\.50 mm beside its image", pixels(mask(), "cord", shifted(1.5))
    ),
    "label turned about two of its corners": Broken(
        "cord", r"lies 0\.91 mm beside its image", pixels(mask(), "cord", turned(0.1))
    ),
    "label with another spacing": Broken(
        "cord", "mm beside its image", pixels(mask(), "cord", AFFINE * [[1.1], [1], [1], [1]])
    ),
    "a time series of labels": Broken(
        "cord", "has 4 dimensions", pixels(np.stack([mask()] * 2, -1), "cord")
    ),
    "all cord": Broken(
        "cord", "every voxel is above 0.5", pixels(np.ones(SHAPE, np.uint8), "cord")
    ),
    "soft and faint": Broken(
        "cord", "no voxel is above 0.5", pixels(mask(0.4, np.float32), "cord")
    ),
    "negative": Broken("cord", "values -1 to 0 in a mask", pixels(mask(-1, np.int16), "cord")),
    "two values in a mask": Broken(
        "cord",
        r"values 1, 2 in a mask of cord: from_values: \[1, 2\] takes both",
        pixels(mask() + mask()[::-1, ::-1, ::-1], "cord"),
        labels=LESION,
    ),
    "an image for a mask": Broken(
        "cord", "values .* in a mask of cord", pixels(image(3), "cord"), labels=LESION
    ),
    "overshoot of an interpolation": Broken(
        "cord",
        "values -0.2 to 1 in a mask of cord",
        pixels(mask(1.2, np.float32) - np.float32(0.2), "cord"),
        labels=LESION,
    ),
    "vertebrae for a cord": Broken(
        "cord",
        "values 1, 3, 4 in a mask of cord",
        pixels(mask(3) + mask()[::-1, ::-1, ::-1], "cord"),
    ),
    "no lesion where one must be": Broken(
        "lesion",
        "no voxel of lesion",
        pixels(mask(0), "lesion"),
        labels={"cord": Label(1), "lesion": Label(2, empty="fail")},
    ),
}


def broken(folder: Path, name: str) -> Case:
    """The case ``name``: a good one, and then what is wrong with it."""
    this = BROKEN[name]
    folder.mkdir(parents=True)
    picture = save(image(0), folder / "image.nii.gz")
    masks = {label: save(shape_of(label), folder / f"{label}.nii.gz") for label in this.labels}
    this.break_it(folder)
    labels = masks if len(masks) > 1 else masks["cord"]
    return case(folder.name, [picture], labels)


def shape_of(label: str) -> Array:
    """The cord; any other label is a part of it."""
    out = mask()
    if label != "cord":
        out[:, :, : out.shape[2] // 2] = 0
    return out


def good(folder: Path, labels: dict[str, Label]) -> list[Case]:
    out = []
    for index in range(2):
        one = pair(folder, f"good{index}", seed=100 + index)
        (map_,) = one.labels
        masks = {
            label: save(shape_of(label), folder / f"good{index}-{label}.nii.gz") for label in labels
        }
        out.append(case(one.id, one.images, masks if len(masks) > 1 else map_.path))
    return out


def test_there_are_enough_of_them() -> None:
    assert len(BROKEN) >= 30


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named_with_its_file_and_nothing_is_left_of_the_data_set(
    tmp_path: Path, name: str
) -> None:
    this = BROKEN[name]
    cases = [broken(tmp_path / "broken", name), *good(tmp_path / "good", this.labels)]
    run = run_of(tmp_path / "run", cases, labels=this.labels, splits=Folds(2))
    with pytest.raises(CaHpcError) as refused:
        make(run)
    first, told = refused.value.message.split("\n")
    assert first == "1 of 3 cases cannot be used"
    assert re.search(rf"broken/{this.file}\.nii\.gz: .*{this.told}", told), told
    assert not list(run.raw.glob("*")) and not run.file("cases.tsv").exists()


def test_all_of_them_are_told_at_once_or_left_out_and_told(tmp_path: Path) -> None:
    names = [name for name, this in BROKEN.items() if len(this.labels) == 1]
    cases = [broken(tmp_path / f"b{index}", name) for index, name in enumerate(names)]
    cases += good(tmp_path / "good", {"cord": Label(1)})
    refused = run_of(tmp_path / "refused", cases, splits=Folds(2))
    with pytest.raises(CaHpcError) as told:
        make(refused)
    count, *lines = told.value.message.split("\n")
    assert count == f"{len(names)} of {len(cases)} cases cannot be used"
    assert len(lines) == len(names) and not list(refused.raw.glob("*"))
    run = run_of(tmp_path / "run", cases, splits=Folds(2), prepare=Prepare(on_error="skip"))
    dataset = make(run)
    assert {file.name for file in (dataset / "labelsTr").iterdir()} == {
        "good0.nii.gz",
        "good1.nii.gz",
    }
    with run.file("cases.tsv").open() as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream, dialect="excel-tab")}
    for index, name in enumerate(names):
        row = rows[f"b{index}"]
        assert row["split"] == "skipped"
        assert re.search(BROKEN[name].told, row["problem"]), name


def test_a_label_that_is_painted_over_is_told(tmp_path: Path) -> None:
    labels = {"cord": Label(2), "lesion": Label(1)}  # the lesion lies within the cord
    run = run_of(tmp_path / "run", good(tmp_path, labels), labels=labels, splits=Folds(2))
    with pytest.raises(CaHpcError, match="all of lesion lies under labels of higher values"):
        make(run)
