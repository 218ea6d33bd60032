"""The main job on real images, real SLURM, real Apptainer, real nnU-Net, as an ordinary user."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import HpcUser
from tests.integration.jobs import QUICK, Site, why

FOLDS, ARMS = 5, ("finetune", "scratch")

# subject, contrast, image, label: all pairs of sct-testing, stored in LPI, AIL and RPI. Nothing
# says that its images are of several people, so they count as one; the template is nobody's.
SCT_PAIRS = (
    ("sct-person", "T1w", "t1/t1w", "t1/t1w_seg-manual"),
    ("sct-person", "T2w", "t2/t2", "t2/t2_seg-manual"),
    ("sct-person", "T2w", "t2/t2_fake_lesion", "t2/t2_fake_lesion_sc_seg"),
    ("sct-person", "T2star", "t2s/t2s", "t2s/t2s_seg"),
    ("sct-person", "MToff", "mt/mt0", "mt/mt0_seg"),
    ("sct-person", "MTon", "mt/mt1", "mt/mt1_seg"),
    ("PAM50", "T2w", "template/template/PAM50_small_t2", "template/template/PAM50_small_cord"),
)


@pytest.fixture
def site(hpc_user: HpcUser, lab: dict[str, str], host_python: Path, work: Path) -> Site:
    return Site(hpc_user, host_python, {**lab, "CA_HPC_STORE": str(work / "store")}, work)


def real_job(site: Site, *, data: Path, image: Path, name: str) -> dict[str, Any]:
    table = site.folder / "pairs.tsv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(("image", "label", "subject", "contrast"))
        root = data / "sct-testing"
        for subject, contrast, picture, label in SCT_PAIRS:
            writer.writerow(
                (root / f"{picture}.nii.gz", root / f"{label}.nii.gz", subject, contrast)
            )
    table.chmod(0o644)
    gm = {
        "name": "gm",
        "type": "bids",
        "path": str(data / "gm-challenge"),
        "label_suffix": "_seg-manual",
        # sessions are part of the subject label: sub-9709Ses1, sub-9709Ses2
        "person": {"pattern": r"sub-(\d+)"},
    }
    return {
        "kind": "finetune",
        "name": name,
        "cluster": "lab",
        "image": str(image),
        "data": [gm, {"name": "sct", "type": "pairs", "path": "pairs.tsv"}],
        "weights": "image",
        "model": "contrast-agnostic-v2",
        **QUICK,
    }


def test_ten_folds_of_two_arms_run_through_the_image_on_four_nodes(
    site: Site, shared_data: Path, image: Path
) -> None:
    job = site.write("real", real_job(site, data=shared_data, image=image, name="real"))
    run = site.submit(job)
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
    trainings = [task for task in status["tasks"] if task["stage"] == "train"]
    assert len(trainings) == FOLDS * len(ARMS)
    assert len({task["node"] for task in trainings}) == 4
    assert {task["attempts"] for task in status["tasks"]} == {1}

    people = {row["case"]: row["person"] for row in read_table(run / "cases.tsv")}
    assert len(people) == 15 and len(set(people.values())) == 8
    splits = json.loads((run / "splits.json").read_text())
    for split in splits:
        assert not {people[c] for c in split["train"]} & {people[c] for c in split["val"]}
    assert sorted(c for split in splits for c in split["val"]) == sorted(people)
    preprocessed = run / "nnunet/preprocessed/Dataset501_real"
    assert json.loads((preprocessed / "splits_final.json").read_text()) == splits

    for arm, plans in zip(ARMS, ("nnUNetPlans_contrast_agnostic_v2", "nnUNetPlans"), strict=True):
        model = run / "results" / arm / "Dataset501_real" / f"nnUNetTrainer__{plans}__3d_fullres"
        for fold, split in enumerate(splits):
            predicted = {p.name for p in (model / f"fold_{fold}/validation").glob("*.nii.gz")}
            assert predicted == {f"{case}.nii.gz" for case in split["val"]}
    assert weights_were_loaded(run) == {"finetune": {True}, "scratch": {False}}

    recorded = json.loads((run / "workflow.json").read_text())["runtime"]["image"]
    for task in status["tasks"]:
        attempt = next((run / "tasks" / task["task"] / "attempts").iterdir())
        argv = json.loads((attempt / "attempt.json").read_text())["argv"]
        guard, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
        assert guard[2:4] == ["-m", "ca_hpc.guard"]
        assert command[:2] == ["apptainer", "exec"] and recorded["path"] in command
        assert json.loads((attempt / "result.json").read_text())["image_mount"] == "namespace"

    rows = json.loads((run / "evaluation/scores.json").read_text())
    assert {(r["arm"], r["case"]) for r in rows} == {(a, c) for a in ARMS for c in people}
    report = (run / "report.html").read_text()
    assert all(person in report for person in people.values())
    for arm in ARMS:  # its pictures: among others of the worst and the best case
        ranked = sorted((r["dice"], r["case"]) for r in rows if r["arm"] == arm)
        assert ranked[0][1] in report and ranked[-1][1] in report

    done = site.ca_hpc("export", str(run), "--arm", "finetune", "--folds", "0,1", timeout=600)
    assert done.returncode == 0, done.stderr
    (archive,) = (run / "exports").glob("*.zip")
    inside = zipfile.ZipFile(archive).namelist()
    plans = "nnUNetTrainer__nnUNetPlans_contrast_agnostic_v2__3d_fullres"
    for fold in (0, 1):
        assert f"Dataset501_real/{plans}/fold_{fold}/checkpoint_final.pth" in inside


def test_two_tasks_packed_in_an_element_have_attempts_and_results_of_their_own(
    site: Site, shared_data: Path, image: Path, weights: Path
) -> None:
    spec = real_job(site, data=shared_data, image=image, name="packed")
    # the weights come from the user's store, by name: the image's are of the same profile, unnamed
    name = "contrast-agnostic-v2"
    added = site.ca_hpc("weights", "add", str(weights), "--profile", name)
    assert added.returncode == 0, added.stderr
    del spec["model"]
    spec["weights"] = name
    spec["resources"] = {"train": {"pack": 2, "cpus": 2, "memory": "5GB"}}
    run = site.submit(site.write("packed", spec))
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
    trainings = [task for task in status["tasks"] if task["stage"] == "train"]
    elements: dict[str, list[dict[str, Any]]] = {}
    for task in trainings:
        elements.setdefault(task["element"], []).append(task)
    assert sorted(map(len, elements.values())) == [2] * FOLDS
    for pair in elements.values():
        assert len({task["job"] for task in pair}) == 1
        results = [
            json.loads(next((run / "tasks" / t["task"]).glob("attempts/*/result.json")).read_text())
            for t in pair
        ]
        # at the same time: each began before the other ended
        assert max(r["started"] for r in results) < min(r["ended"] for r in results)
    assert sum(1 for _ in run.glob("results/*/*/*/fold_*/checkpoint_final.pth")) == 10


def read_table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def weights_were_loaded(run: Path) -> Mapping[str, set[bool]]:
    """By arm, whether the trainings' logs of progress name the pretrained weights."""
    pins = json.loads((run / "pins.json").read_text())
    out: dict[str, set[bool]] = {arm: set() for arm in ARMS}
    for progress in run.glob("tasks/train-*/attempts/*/progress.jsonl"):
        start = json.loads(progress.read_text().splitlines()[0])
        assert start["event"] == "start"
        arm = progress.parents[2].name.split("-")[1]
        out[arm].add(start["pretrained_sha256"] == pins["weights"]["sha256"])
    return out
