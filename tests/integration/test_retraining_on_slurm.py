"""`kind: train` on three sources, one a git-annex repository, from raw files to a report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import HpcUser
from tests.integration.jobs import QUICK, Site, why
from tests.integration.test_finetune_on_slurm import SCT_PAIRS

BROKEN = "sub-04/anat/sub-04_T2w.nii.gz"


@pytest.fixture
def site(hpc_user: HpcUser, lab: dict[str, str], host_python: Path, work: Path) -> Site:
    return Site(hpc_user, host_python, {**lab, "CA_HPC_STORE": str(work / "store")}, work)


def test_three_sources_become_a_model_and_scores_by_contrast_and_source(
    site: Site, shared_data: Path, image: Path
) -> None:
    commit = annexed_phantoms(site, site.folder / "phantoms")
    spec = {
        "kind": "train",
        "name": "cord",
        "cluster": "lab",
        "image": str(image),
        "data": [
            {
                "name": "gm",
                "type": "bids",
                "path": str(shared_data / "gm-challenge"),
                "label_suffix": "_seg-manual",
                "person": {"pattern": r"sub-(\d+)"},
            },
            {
                "name": "phantoms",
                "type": "git",
                "url": "phantoms",
                "ref": "v1",
                "label_suffix": "_label-SC_seg",
            },
            {"name": "sct", "type": "pairs", "path": "pairs.tsv", "test_set": "other-scanners"},
        ],
        "splits": {"train": 0.5, "val": 0.25, "test": 0.25, "seed": 50},
        "prepare": {"shards": 2, "on_error": "skip"},
        **QUICK,
    }  # fmt: skip
    write_pairs(site.folder / "pairs.tsv", data=shared_data / "sct-testing")
    run = site.submit(site.write("cord", spec))
    status = site.follow(run)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
    stages = [(task["stage"], task["task"]) for task in status["tasks"]]
    assert stages == [
        ("prepare", "prepare-shard0"),
        ("prepare", "prepare-shard1"),
        ("preprocess", "assemble"),
        ("preprocess", "preprocess"),
        ("train", "train-train-fold0"),
        ("predict", "predict-train"),
        ("evaluate", "evaluate"),
        ("report", "report"),
    ]

    rows = read_table(run / "cases.tsv")
    by_split: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_split.setdefault(row["split"], []).append(row)
    (skipped,) = by_split.pop("skipped")
    assert (skipped["source"], skipped["subject"]) == (
        "phantoms",
        "sub-04",
    ) and "cannot be read" in skipped["problem"]
    assert set(by_split) == {"train", "val", "test", "other-scanners"}
    people = {name: {(r["source"], r["person"]) for r in found} for name, found in by_split.items()}
    names = list(people)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            assert not people[name] & people[other]
    assert len(by_split["other-scanners"]) == len(SCT_PAIRS)

    raw = run / "nnunet/raw/Dataset501_cord"
    seen = {r["case"] for name in ("train", "val") for r in by_split[name]}
    assert {p.name.removesuffix(".nii.gz") for p in (raw / "labelsTr").iterdir()} == seen
    record = json.loads((run / "cases.json").read_text())
    (origin,) = record["origins"]
    assert (origin["ref"], origin["commit"]) == ("v1", commit)

    scores = json.loads((run / "evaluation/scores.json").read_text())
    scored = {(s["split"], s["source"], s["contrast"]) for s in scores}
    wanted = {
        ("validation" if name == "val" else name, r["source"], r["contrast"])
        for name, found in by_split.items()
        if name != "train"
        for r in found
    }
    assert scored == wanted
    assert {s["fold"] for s in scores if s["split"] != "validation"} == {"ensemble"}
    report = (run / "report.html").read_text()
    for word in ("other-scanners", "phantoms", "MTon", "T2star", commit[:12], "sub-04"):
        assert word in report, word
    assert "other-scanners" in (run / "data.html").read_text()

    done = site.ca_hpc("export", str(run), timeout=600)
    assert done.returncode == 0, done.stderr


def annexed_phantoms(site: Site, folder: Path) -> str:
    """A git-annex data set of synthetic people with one broken image, at the tag v1: its commit."""
    code = (
        "from pathlib import Path; from ca_hpc.imaging.synthetic import write_dataset; "
        f"write_dataset(Path({str(folder)!r}), people=8, seed=3, contrasts=('T1w', 'T2w'))"
    )
    run(site, str(site.python), "-I", "-c", code)
    broken = folder / BROKEN
    assert broken.is_file(), sorted(folder.glob("sub-*/anat/*"))[:4]
    broken.write_bytes(broken.read_bytes()[:2000])
    git = ("git", "-C", str(folder), "-c", "user.name=tests", "-c", "user.email=tests@localhost")
    for arguments in (
        ("init", "--quiet"),
        ("annex", "init", "--quiet"),
        ("annex", "add", "--quiet", "."),
        ("commit", "--quiet", "-m", "phantoms"),
        ("tag", "v1"),
    ):
        run(site, *git, *arguments)
    return run(site, *git, "rev-parse", "v1").strip()


def run(site: Site, *argv: str) -> str:
    done = site.user.run(argv, env={"GIT_CONFIG_GLOBAL": "/dev/null"}, cwd=site.folder)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def write_pairs(table: Path, *, data: Path) -> None:
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(("image", "label", "subject", "contrast"))
        for subject, contrast, image, label in SCT_PAIRS:
            writer.writerow((data / f"{image}.nii.gz", data / f"{label}.nii.gz", subject, contrast))
    table.chmod(0o644)


def read_table(file: Path) -> list[dict[str, Any]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))
