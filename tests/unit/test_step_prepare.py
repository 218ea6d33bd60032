"""Stage prepare on phantoms: what the crop leaves in the raw data set and in ``cases.tsv``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ca_hpc.core.data_spec import BidsSource, Crop
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.orientation import to_orientation
from ca_hpc.imaging.sources import scan
from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.steps.entry import StepCall
from ca_hpc.steps.prepare import prepare
from ca_hpc.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "bids"
    write_dataset(folder, people=5, seed=1)
    return folder


def prepared(data: Path, folder: Path, *, crop: Any) -> RunFolder:
    spec = JobSpec(
        kind="finetune",
        name="cut",
        cluster="local",
        data=(BidsSource(type="bids", path=str(data), label_suffix="_label-SC_seg"),),
        weights=None,
        crop=crop,
    )
    run = RunFolder(folder)
    run.write_spec("spec.json", spec)
    run.write("cases.json", scan(spec))
    _, attempt = run.new_attempt("prepare", job="local", restart=0)
    prepare(StepCall(run, attempt, cpus=2, threads=1, device="cpu", arm="", fold=0))
    return run


def table(run: RunFolder) -> list[dict[str, str]]:
    with run.file("cases.tsv").open() as stream:
        return list(csv.DictReader(stream, dialect="excel-tab"))


def dataset_json(run: RunFolder) -> dict[str, Any]:
    (file,) = run.raw.glob("*/dataset.json")
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def test_what_was_cut_can_be_put_back(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prepared(data, tmp_path, crop=Crop(to="cord", margin=5.0))
    assert dataset_json(run)["crop"] == {"to": "cord", "margin_mm": 5.0}
    (raw,) = run.raw.iterdir()
    rows = {row["case"]: row for row in table(run)}
    assert len(rows) == len(run.cases.cases)
    sizes = []
    for case in run.cases.cases:
        whole = to_orientation(nib.load(case.label), "RPI")
        cut = nib.load(raw / "labelsTr" / f"{case.id}.nii.gz")
        box = tuple(
            slice(*map(int, side.split(":"))) for side in rows[case.id]["crop_rpi"].split(",")
        )
        back = np.zeros(whole.shape, dtype=np.uint8)
        back[box] = np.asanyarray(cut.dataobj)
        np.testing.assert_array_equal(back, np.asanyarray(whole.dataobj) > 0.5)
        image = nib.load(raw / "imagesTr" / f"{case.id}_0000.nii.gz")
        np.testing.assert_array_equal(image.affine, cut.affine)
        sizes.append(np.prod(cut.shape) / np.prod(whole.shape))
    assert max(sizes) < 1
    said = capsys.readouterr().out
    assert f"{len(rows)} of them cut to cord and 5 mm on each side\n" in said


def test_without_a_crop_images_stay_whole(data: Path, tmp_path: Path) -> None:
    run = prepared(data, tmp_path, crop="none")
    assert dataset_json(run)["crop"] == "none"
    assert {(row["crop_rpi"], row["label_voxels_lost"]) for row in table(run)} == {("", "0")}


def test_a_label_that_the_data_do_not_have_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match=r"crop\.to: the data have no label lesion") as refused:
        prepared(data, tmp_path, crop=Crop(to="lesion", margin=5.0))
    assert refused.value.hint == "one of cord"
