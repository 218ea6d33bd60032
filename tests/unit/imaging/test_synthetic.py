"""The synthetic data set: the same twice, BIDS, and a cord that looks like one."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ca_hpc.errors import CaHpcError, ExitCode
from ca_hpc.imaging.orientation import sct_orientation, to_orientation
from ca_hpc.imaging.phantom import CONTRASTS
from ca_hpc.imaging.synthetic import Scan, main, scans_of, write_dataset

BIDS_IMAGE = re.compile(
    r"sub-(\w+)/(?:ses-(\w+)/)?anat/sub-\1(?:_ses-\2)?_(T1w|T2w|T2starw)\.nii\.gz"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_dataset(folder, people=4, seed=7)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rpi(path: Path) -> np.ndarray:
    return np.asarray(to_orientation(nib.load(path), "RPI").dataobj)


def scans(people: int) -> list[Scan]:
    return [s for i in range(people) for s in scans_of(i, contrasts=tuple(CONTRASTS))]


def test_the_same_seed_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", people=4, seed=7)
    assert contents(tmp_path / "again") == contents(dataset)


def test_another_seed_gives_other_people(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", people=1, seed=8)
    name = "sub-01/anat/sub-01_T1w.nii.gz"
    assert contents(tmp_path / "other")[name] != contents(dataset)[name]


def test_one_more_person_changes_nobody_else(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "fewer", people=2, seed=7)
    fewer, more = contents(tmp_path / "fewer"), contents(dataset)
    assert all(more[name] == fewer[name] for name in fewer if name.endswith(".nii.gz"))


def test_names_follow_bids(dataset: Path) -> None:
    raw = list(dataset.glob("sub-*/**/*.nii.gz"))
    assert raw
    for path in raw:
        name = str(path.relative_to(dataset))
        assert BIDS_IMAGE.fullmatch(name)
        label = dataset / "derivatives/labels" / name.replace(".nii", "_label-SC_seg.nii")
        assert label.is_file()
    described = json.loads((dataset / "dataset_description.json").read_text())
    derived = json.loads((dataset / "derivatives/labels/dataset_description.json").read_text())
    assert described["DatasetType"] == "raw"
    assert derived["DatasetType"] == "derivative" and derived["GeneratedBy"]
    with (dataset / "participants.tsv").open() as table:
        people = [row["participant_id"] for row in csv.DictReader(table, delimiter="\t")]
    assert people == ["sub-01", "sub-02", "sub-03", "sub-04"]


def test_the_paths_returned_are_the_files_written(tmp_path: Path) -> None:
    written = write_dataset(tmp_path / "set", people=3, seed=1, contrasts=("T2w",))
    expected = {str(path) for scan in written for path in (scan.image, scan.label)}
    assert {name for name in contents(tmp_path / "set") if name.endswith(".gz")} == expected


def test_twelve_people_have_several_contrasts_orders_and_sessions() -> None:
    all_scans = scans(12)
    assert 16 <= len(all_scans) <= 20
    assert {scan.contrast for scan in all_scans} == set(CONTRASTS)
    assert len({scan.orientation for scan in all_scans}) >= 4
    twice = {scan.person for scan in all_scans if scan.session is not None}
    assert twice == {"03", "08"}
    for person in twice:
        assert {s.session for s in all_scans if s.person == person} == {"01", "02"}


def test_two_sessions_show_one_person_lying_differently(dataset: Path) -> None:
    first, second = (
        dataset / f"sub-03/ses-{n}/anat/sub-03_ses-{n}_T2starw.nii.gz" for n in ("01", "02")
    )
    assert not np.allclose(nib.load(first).affine, nib.load(second).affine)
    areas = []
    for path in (first, second):
        name = path.relative_to(dataset).as_posix().replace(".nii", "_label-SC_seg.nii")
        areas.append(rpi(dataset / "derivatives/labels" / name).sum(axis=(0, 1)).mean() * 0.64)
    assert areas[0] == pytest.approx(areas[1], rel=0.05)  # mm2: the same cord


@pytest.mark.parametrize("scan", scans(4), ids=lambda scan: scan.stem)
def test_image_and_label_share_their_grid_and_the_cord_stands_out(
    dataset: Path, scan: Scan
) -> None:
    image, label = nib.load(dataset / scan.image), nib.load(dataset / scan.label)
    assert image.shape == label.shape
    np.testing.assert_array_equal(image.affine, label.affine)
    assert sct_orientation(image.affine) == scan.orientation
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
    spacing = to_orientation(image, "RPI").header.get_zooms()
    assert spacing == pytest.approx(CONTRASTS[scan.contrast].spacing)

    cord = rpi(dataset / scan.label) == 1
    assert cord.any(axis=(0, 1)).all(), "the cord runs through every axial slice"
    per_slice = cord.sum(axis=(0, 1)) * spacing[0] * spacing[1]
    assert per_slice.min() > 45 and per_slice.max() < 130  # mm2, the range of adult necks
    intensity = rpi(dataset / scan.image).astype(float)
    around = _dilated(cord) & ~cord
    brighter = intensity[cord].mean() > intensity[around].mean()
    assert brighter == (scan.contrast == "T1w"), "CSF is dark in T1w only"


def _dilated(mask: np.ndarray) -> np.ndarray:
    """``mask`` and its neighbours within an axial slice."""
    grown = mask.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        grown |= np.roll(mask, step, axis=axis)
    return grown


def test_the_cord_is_curved(dataset: Path) -> None:
    cord = rpi(dataset / "derivatives/labels/sub-01/anat/sub-01_T1w_label-SC_seg.nii.gz")
    rows = np.arange(cord.shape[1])[:, None]
    middle = (cord.sum(axis=0) * rows).sum(axis=0) / cord.sum(axis=(0, 1))
    height = np.arange(middle.size)
    straight = np.polyval(np.polyfit(height, middle, 1), height)
    assert np.abs(middle - straight).max() > 0.5  # voxels


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(CaHpcError, match="not empty"):
        write_dataset(tmp_path, people=1, seed=1)
    assert contents(tmp_path) == {"mine.txt": b"precious"}


@pytest.mark.parametrize(("people", "contrasts"), [(0, ("T1w",)), (1, ("FLAIR",)), (1, ())])
def test_an_impossible_wish_is_refused(
    tmp_path: Path, people: int, contrasts: tuple[str, ...]
) -> None:
    with pytest.raises(CaHpcError, match="cannot make"):
        write_dataset(tmp_path / "set", people=people, seed=1, contrasts=contrasts)
    assert not any(tmp_path.iterdir())


def test_the_command_writes_to_a_path_with_spaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my new\nfolder"
    assert main([str(folder), "--people", "1", "--seed", "3"]) == 0
    assert "2 images of 1 people" in capsys.readouterr().out
    assert (folder / "dataset_description.json").is_file()


def test_the_command_explains_a_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path)])
    assert stopped.value.code == ExitCode.USAGE
    assert "not empty" in capsys.readouterr().err
