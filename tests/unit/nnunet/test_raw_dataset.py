"""An assembled data set is one to nnU-Net itself, and its reader sees it where we say it lies."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.affines import apply_affine
from nibabel.eulerangles import euler2mat
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from ca_hpc.core.data_spec import Folds, Label
from ca_hpc.core.record import Case
from tests.prepare_runs import case, image, make, mask, run_of

TILTED = np.diag([-0.5, 0.7, 2.0, 1.0])
TILTED[:3, :3] = euler2mat(0.3, -0.2, 0.1) @ TILTED[:3, :3]
TILTED[:3, 3] = (12.5, -80.25, 301.125)
# off the right angle by more than ITK takes, and less than any voxel moves by
OFF = TILTED.copy()
OFF[:3, 0] += 4e-4 * TILTED[:3, 1]


def stored(folder: Path, index: int, name: str, array: object, *, turned: str) -> str:
    """A file of case ``index``, its axes in another order than it was made in."""
    made = nib.Nifti1Image(array, OFF if index else TILTED)
    out = made.as_reoriented(nib.orientations.axcodes2ornt(tuple(turned)))
    nib.save(out, file := folder / f"{index}-{name}.nii.gz")
    return str(file)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    folder = tmp_path / "data"
    folder.mkdir()
    lesion = mask(0)
    lesion[3, 4, 4] = 1
    return [
        case(
            f"c{index}",
            [stored(folder, index, "image", image(index), turned=turned)],
            {
                "cord": stored(folder, index, "cord", mask(), turned="SRP"),
                "lesion": stored(folder, index, "lesion", lesion * index, turned="LAS"),
            },
            masks=(stored(folder, index, "canal", mask(255), turned="PIR"),),
        )
        for index, turned in enumerate(("RAS", "ASL", "SPR"))
    ]


@pytest.mark.parametrize(
    "regions", [{}, {"cord": (1, 2), "lesion": (2,)}], ids=["labels", "regions"]
)
def test_nnunet_finds_nothing_wrong_with_it(
    tmp_path: Path, cases: list[Case], regions: dict[str, tuple[int, ...]]
) -> None:
    dataset = make(
        run_of(
            tmp_path / "run",
            cases,
            splits=Folds(2),
            labels={"cord": Label(1), "lesion": Label(2)},
            regions=regions,
            mask_channels={"canal": "_canal"},
        )
    )
    verify_dataset_integrity(str(dataset), num_processes=1)


def test_its_reader_sees_each_voxel_where_it_was(tmp_path: Path, cases: list[Case]) -> None:
    run = run_of(
        tmp_path / "run",
        cases,
        splits=Folds(2),
        labels={"cord": Label(1), "lesion": Label(2)},
        mask_channels={"canal": "_canal"},
    )
    dataset = make(run)
    for one in cases:
        before = nib.load(one.images[0])
        values = np.asanyarray(before.dataobj)
        found = SimpleITK.ReadImage(str(dataset / f"imagesTr/{one.id}_0000.nii.gz"))
        lps = np.array([-1, -1, 1])  # ITK's world is turned by half a turn
        for voxel in np.argwhere(values > 900):
            there = apply_affine(before.affine, voxel) * lps
            index = found.TransformPhysicalPointToIndex(there.tolist())
            assert found[index] == values[tuple(voxel)]
            place = found.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(place, there, atol=0.01)
        label = SimpleITK.ReadImage(str(dataset / f"labelsTr/{one.id}.nii.gz"))
        assert label.GetDirection() == found.GetDirection()
        assert label.GetOrigin() == found.GetOrigin()
        assert label.GetSpacing() == found.GetSpacing()
