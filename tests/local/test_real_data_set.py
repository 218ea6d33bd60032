"""Real pairs in four orientations and six contrasts become one data set, and nothing moves.

The images lie beside the checkout or where CA_HPC_SHARED_DATA says; without them the tests say so,
and fail where every test is required.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from ca_hpc.core import door
from ca_hpc.core.record import Case
from ca_hpc.core.spec import JobSpec, completed
from ca_hpc.imaging.orientation import sct_orientation
from ca_hpc.sources.scan import scan
from ca_hpc.steps.assemble import assemble
from ca_hpc.steps.entry import StepCall
from ca_hpc.steps.prepare import prepare
from ca_hpc.store.run_folder import RunFolder
from tests.lab.places import CHECKOUT

# subject, contrast, image, mask of the cord
SCT_PAIRS = (
    ("one", "T1w", "t1/t1w", "t1/t1w_seg-manual"),
    ("one", "T2w", "t2/t2", "t2/t2_seg-manual"),
    ("one", "T2star", "t2s/t2s", "t2s/t2s_seg"),
    ("one", "MToff", "mt/mt0", "mt/mt0_seg"),
    ("one", "MTon", "mt/mt1", "mt/mt1_seg"),
    ("two", "T2w", "t2/t2_fake_lesion", "t2/t2_fake_lesion_sc_seg"),
    ("template", "T2w", "template/template/PAM50_small_t2", "template/template/PAM50_small_cord"),
)


@pytest.fixture(scope="module")
def images() -> Path:
    folder = Path(os.environ.get("CA_HPC_SHARED_DATA") or CHECKOUT.parent / "shared/data")
    if not (folder / "gm-challenge").is_dir():
        reason = f"no images in {folder}; CA_HPC_SHARED_DATA names another folder"
        (pytest.fail if os.environ.get("CA_HPC_TEST_REQUIRE_ALL") else pytest.skip)(reason)
    return folder


def made(text: str, folder: Path) -> RunFolder:
    """The data set of a job, by the steps of the stages."""
    spec, document = door.parse(JobSpec, text, file="job.yaml")
    door.refuse(document.problems, file="job.yaml")
    assert spec is not None
    spec = completed(spec)
    run = RunFolder(folder)
    run.write_spec("spec.json", spec)
    run.write("cases.json", scan(spec))
    for shard in range(spec.prepare.shards):
        prepare(call(run, f"prepare-shard{shard}", shard=shard))
    assemble(call(run, "assemble"))
    return run


def call(run: RunFolder, task: str, *, shard: int = 0) -> StepCall:
    _, attempt = run.new_attempt(task, job="local", restart=0)
    return StepCall(run, attempt, cpus=2, threads=1, device="cpu", arm="", fold=0, shard=shard)


@pytest.fixture(scope="module")
def everything(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("everything")
    rows = ["image\tlabel\tsubject\tcontrast"]
    for subject, contrast, image, label in SCT_PAIRS:
        files = (images / "sct-testing" / f"{name}.nii.gz" for name in (image, label))
        rows.append("\t".join([*map(str, files), subject, contrast]))
    (folder / "pairs.tsv").write_text("\n".join(rows) + "\n")
    job = f"""
kind: train
name: real
cluster: local
data:
  - type: bids
    name: gm
    path: {images / "gm-challenge"}
    label_suffix: _seg-manual
    person: {{pattern: 'sub-(\\d+)'}}
  - {{type: pairs, name: sct, path: {folder / "pairs.tsv"}}}
splits: {{folds: 5}}
prepare: {{shards: 3}}
"""
    return made(job, folder / "run")


def rows_of(run: RunFolder) -> dict[str, dict[str, str]]:
    with run.file("cases.tsv").open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream, dialect="excel-tab")}


def pairs(run: RunFolder) -> Iterator[tuple[str, Path, Path]]:
    """Source file and file of the data set, of every image and label."""
    raw = run.raw / run.cases.dataset
    for case in run.cases.cases:
        yield "image", Path(case.images[0]), raw / "imagesTr" / f"{case.id}_0000.nii.gz"
        yield "label", Path(case.labels[0].path), raw / "labelsTr" / f"{case.id}.nii.gz"


def test_every_voxel_is_found_again_at_the_same_place_in_the_world(everything: RunFolder) -> None:
    stored = {row["orientation"] for row in rows_of(everything).values()}
    assert stored == {"RPI", "RAI", "LPI", "AIL"}
    worst_mm, voxels = 0.0, 0
    for kind, before, after in pairs(everything):
        source, result = nib.load(before), nib.load(after)
        wanted = np.asanyarray(source.dataobj)
        if kind == "label":
            wanted = wanted > 0.5
        assert sct_orientation(result.affine) == "RPI"
        # every voxel of the source goes to the world, and from there into the result
        grid = np.indices(wanted.shape).reshape(3, -1).T
        world = apply_affine(source.affine, grid)
        exact = apply_affine(np.linalg.inv(result.affine), world)
        there = np.rint(exact).astype(int)
        worst_mm = max(
            worst_mm,
            float(np.abs(apply_affine(result.affine, there) - world).max()),
        )
        assert len(np.unique(there, axis=0)) == len(grid) == np.prod(result.shape)
        found = np.asanyarray(result.dataobj)[tuple(there.T)]
        np.testing.assert_array_equal(found, wanted.reshape(-1))
        voxels += len(grid)
    print(f"{voxels} voxels; at most {worst_mm:.2g} mm from where they were")
    assert worst_mm < 1e-3


def test_nnunets_own_check_passes(everything: RunFolder) -> None:
    verify_dataset_integrity(str(everything.raw / everything.cases.dataset), num_processes=2)


def test_two_sessions_of_one_person_are_in_one_fold(everything: RunFolder) -> None:
    rows = rows_of(everything)
    twice = {"10062": [], "9709": []}  # type: dict[str, list[str]]
    for case, row in rows.items():
        if row["person"] in twice:
            twice[row["person"]].append(case)
    assert [len(found) for found in twice.values()] == [2, 2]
    folds = json.loads(everything.file("splits.json").read_text())
    for cases in twice.values():
        assert len({rows[case]["fold"] for case in cases}) == 1
        for fold in folds:
            assert len({case in fold["val"] for case in cases}) == 1


def test_cord_and_lesion_masks_become_a_region_based_case(images: Path, tmp_path: Path) -> None:
    """Beside it two images without a lesion, whose mask of one is empty: valid negatives."""
    folder = images / "sct-testing"
    image = folder / "t2/t2_fake_lesion.nii.gz"
    cord, lesion = (folder / f"t2/t2_fake_lesion_{name}_seg.nii.gz" for name in ("sc", "lesion"))
    rows = [f"{image},{cord},{lesion},a"]
    for subject, name in (("b", "t1/t1w"), ("c", "t2/t2")):
        mask = nib.load(folder / f"{name}_seg-manual.nii.gz")
        nothing = np.zeros(mask.shape, np.uint8)
        nib.save(nib.Nifti1Image(nothing, mask.affine), tmp_path / f"{subject}.nii.gz")
        rows.append(
            f"{folder / name}.nii.gz,{folder / name}_seg-manual.nii.gz,{subject}.nii.gz,{subject}"
        )
    header = "image,label_cord,label_lesion,subject"
    (tmp_path / "pairs.csv").write_text("\n".join([header, *rows]) + "\n")
    run = made(
        f"""
kind: train
name: lesion
cluster: local
data: [{{type: pairs, path: {tmp_path / "pairs.csv"}}}]
labels: {{cord: {{value: 1, empty: fail}}, lesion: {{value: 2, empty: allow}}}}
regions: {{lesion: [2], cord: [1, 2]}}
splits: {{folds: 3}}
""",
        tmp_path / "run",
    )
    raw = run.raw / run.cases.dataset
    verify_dataset_integrity(str(raw), num_processes=2)
    content = json.loads((raw / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "cord": [1, 2], "lesion": 2}
    manager = LabelManager(content["labels"], content["regions_class_order"])
    assert manager.has_regions and manager.num_segmentation_heads == 2
    (case,) = (c for c in run.cases.cases if c.subject == "a")
    found = np.asanyarray(nib.load(raw / "labelsTr" / f"{case.id}.nii.gz").dataobj)
    wanted = {name: in_rpi(file) for name, file in (("cord", cord), ("lesion", lesion))}
    np.testing.assert_array_equal(found == 2, wanted["lesion"])
    np.testing.assert_array_equal(found > 0, wanted["cord"] | wanted["lesion"])
    voxels = voxels_of(rows_of(run)[case.id])
    assert voxels["lesion"] == wanted["lesion"].sum() > 0
    negatives = [voxels_of(rows_of(run)[c.id]) for c in others(run, case)]
    assert all(row["lesion"] == 0 and row["cord"] > 0 for row in negatives)


def in_rpi(file: Path) -> np.ndarray:
    image = nib.load(file)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(("L", "A", "S"))
        )
    )
    return np.asanyarray(turned.dataobj) > 0.5


def voxels_of(row: dict[str, str]) -> dict[str, int]:
    return {
        n: int(v) for n, _, v in (part.partition(":") for part in row["label_voxels"].split(","))
    }


def others(run: RunFolder, case: Case) -> list[Case]:
    return [other for other in run.cases.cases if other.id != case.id]
