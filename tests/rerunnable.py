"""A finished run whose data, weights and image are there: what reruns and archives start from."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

from ca_hpc.core.model import Pin
from ca_hpc.core.record import Case, LabelFile
from ca_hpc.core.run_record import File
from ca_hpc.images.contents import content_sha256
from ca_hpc.images.record import Contents, ImageInfo, write_record
from ca_hpc.report.model import CaseScore
from ca_hpc.report.scores import write_scores
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, seal, write_seals
from tests.recorded_run import DATASET, IMAGE, finished, sha256
from tests.sif import write_sif

SUBJECTS = ("anna", "ben")
PLANS = "nnUNetPlans.json"


def rerunnable(parent: Path) -> RunFolder:
    """The run, with its files in folders beside it. One case, of carl, was left out."""
    run = finished(parent / "runs")
    cases = [lay_case(parent / "data", case) for case in run.cases.cases]
    carl = replace(cases[0], id="s1-carl-1", subject="carl", person="carl")
    remarks = ("anna and ben look alike",)
    run.write("cases.json", replace(run.cases, cases=(*cases, carl), remarks=remarks))
    with run.file("cases.tsv").open("w", newline="") as stream:
        writer = csv.writer(stream, dialect="excel-tab", lineterminator="\n")
        writer.writerow(("case", "image_sha256", "label_sha256", "problem"))
        for case in cases:
            image, label = (sha256(Path(file)) for file in case.files)
            writer.writerow((case.id, image, label, ""))
        writer.writerow((carl.id, "", "", "cannot be read"))
    ids = [case.id for case in cases]
    folds = [{"train": ids[:2], "val": ids[2:]}, {"train": ids[2:], "val": ids[:2]}]
    run.file("splits.json").write_text(json.dumps(folds, indent=1) + "\n")
    run.file("test_sets.json").write_text("{}\n")
    write_seals(run.file(SEALS), seal(run.path, ("splits.json", "test_sets.json")))
    for folder in (run.preprocessed / DATASET, run.plans):
        (folder / PLANS).write_text('{"plans_name": "nnUNetPlans"}\n')
        write_seals(folder / SEALS, seal(folder, (PLANS,)))
    _pin(run, parent)
    write_scores([_score(case) for case in cases], run.path)
    return run


def lay_case(folder: Path, case: Case) -> Case:
    """The case with files in ``folder``, whose content is its id."""
    folder.mkdir(exist_ok=True)
    image, label = folder / f"{case.id}.nii.gz", folder / f"{case.id}_seg.nii.gz"
    image.write_text(f"image of number {case.session}{len(case.person)}")
    label.write_text(f"label of number {case.session}{len(case.person)}")
    return replace(case, images=(str(image),), labels=(LabelFile(str(label)),))


def _pin(run: RunFolder, parent: Path) -> None:
    weights, image = parent / "anna's model.pth", parent / "neck.sif"
    weights.write_bytes(b"weights")
    write_sif(image)
    sif, size, content = Pin(str(image), sha256(image)), image.stat().st_size, content_sha256(image)
    held = Contents({"ca-hpc": "0.1.0"})
    write_record(ImageInfo(image, sif.sha256, size, held, content_sha256=content))
    flow = run.workflow
    run.write("workflow.json", replace(flow, runtime=replace(flow.runtime, image=sif)))
    file = File(sif.path, sif.sha256, size)
    recorded = replace(IMAGE, file=file, content_sha256=content, reference=str(image))
    pin = Pin(str(weights), sha256(weights))
    run.write("pins.json", replace(run.pins, weights=pin, image=recorded))


def _score(case: Case) -> CaseScore:
    return CaseScore(
        arm="finetune",
        fold=0,
        case=case.id,
        person=case.person,
        session=case.session,
        contrast=case.contrast,
        source=case.source,
        label="cord",
        dice=0.9,
        precision=0.9,
        sensitivity=0.9,
        relative_volume_difference=0.1,
    )
