"""What people read of reruns, comparisons and archives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc import configs
from ca_hpc.actions.archive_readme import readme
from ca_hpc.report.scores import read_scores, scores_text
from ca_hpc.store.archive import README, Archive
from ca_hpc.store.run_folder import RunFolder
from tests.command_line import Call, called
from tests.rerunnable import rerunnable
from tests.unit.test_archive import forged


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return rerunnable(tmp_path)


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    for name, place in (("HOME", "home"), ("CA_HPC_STORE", "store"), ("XDG_CACHE_HOME", "cache")):
        monkeypatch.setenv(name, str(tmp_path / place))
    return lambda *words: called(*map(str, words), monkeypatch=monkeypatch, capsys=capsys)


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a text, by their first word."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return {first: rest for first, *rest in lines}


def test_an_archive_tells_its_parts_and_what_is_missing(
    call: Call, run: RunFolder, tmp_path: Path
) -> None:
    shown = call("archive", run.path, "-o", tmp_path / "study.tar", "--without", "wheels")
    assert shown.code == 0, shown.err
    first, missing, digest, what_next = shown.out.splitlines()
    assert first.startswith(f"{tmp_path / 'study.tar'}: ") and "record " in first
    assert "weights 0 kB" in first and "image 46 kB" in first and "wheels" not in first
    assert missing == "not in it: wheels, images and labels"
    made = Archive.open(tmp_path / "study.tar")
    assert f"sha256:{made.sha256} (of the manifest" in digest
    assert what_next.endswith(README)
    text = made.text(README)
    assert "but for: wheels, images and labels." in text
    assert "--data FOLDER" in text and "pip install" not in text


def test_of_a_whole_archive_nothing_else_is_asked_for() -> None:
    text = told(imaged=True)
    assert "without internet.\n" in text and "--data" not in text
    assert "pip install --no-index wheels/*.whl" in text and "python3.11 -m venv" in text
    assert "40 images of 20 people" in text and "725 MB" in text


def test_what_is_not_in_an_archive_is_named_by_an_option() -> None:
    text = told(imaged=True, left_out=("image", "weights", "images"))
    assert text.count("--image IMAGE --weights FILE --data FOLDER") == 2
    meant = {line.split()[0] for line in text.splitlines() if line[8:9] == " " and line[:1] != " "}
    assert {"ARCHIVE", "IMAGE", "FILE", "FOLDER", "RUN"} <= meant


def told(*, imaged: bool, left_out: tuple[str, ...] = ()) -> str:
    return readme(
        "study",
        version="0.1.0",
        python="3.11",
        machine="x86_64",
        imaged=imaged,
        images=40,
        people=20,
        size_bytes=725_000_000,
        left_out=left_out,
    )


def test_the_profile_that_an_archive_proposes_runs_tasks_in_an_image(tmp_path: Path) -> None:
    text = told(imaged=True)
    assert "Apptainer" in text
    lines = re.findall(r"^ {11}(\w+: .*)", text, re.MULTILINE)
    assert len(lines) == 6
    for name, count in (("without", 3), ("with a GPU", 6)):
        (tmp_path / "here.yaml").write_text("\n".join(lines[:count]))
        found = configs.cluster("here.yaml", relative_to=tmp_path)
        assert (found.executor, found.runtime) == ("local", "apptainer")
        assert (found.node.gpus, found.gpu) == ((0, None) if name == "without" else (1, "card"))


def test_the_folder_of_profiles_that_an_archive_names_is_there() -> None:
    (code,) = re.findall(r'python -c "(.*)"', told(imaged=True))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "generic.yaml").is_file()


def test_of_a_run_without_an_image_no_apptainer_is_asked_for() -> None:
    assert "Apptainer" not in told(imaged=False) and "CLUSTER  local" in told(imaged=False)


def test_an_archive_is_named_after_its_run_and_overwrites_none_unasked(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("archive", run.path, "--without", "wheels")
    assert call(*options).code == 0
    first = (tmp_path / f"{run.path.name}.tar").read_bytes()
    refused = call(*options, "--keep-names")
    assert refused.code == 2 and "is there already" in refused.err and "--replace" in refused.err
    assert (tmp_path / f"{run.path.name}.tar").read_bytes() == first
    assert call(*options, "--keep-names", "--replace").code == 0
    assert (tmp_path / f"{run.path.name}.tar").read_bytes() != first


def test_what_an_archive_says_obeys_no_terminal(call: Call, run: RunFolder, tmp_path: Path) -> None:
    study = tmp_path / "study.tar"
    call("archive", run.path, "-o", study, "--without", "wheels")
    name = "\x1b]0;pwned\x07\nerror: fake"
    scores = scores_text([replace(one, label=name) for one in read_scores(run.path)])
    bad = forged(study, tmp_path / "bad.tar", **{"evaluation/scores.json": scores})
    shown = call("compare", bad, run.path)
    assert "\x1b" not in shown.out and "pwned" in shown.out
    assert not [line for line in shown.out.splitlines() if line.startswith("error")]
    other = forged(study, tmp_path / "other.tar", manifest={"format": 9, "ca_hpc": name})
    refused = call("compare", other, run.path)
    assert refused.code == 2 and "of format 9" in refused.err
    assert "\x1b" not in refused.err and "\nerror: fake" not in refused.err


def test_what_an_archive_is_refused_for_obeys_no_terminal(
    call: Call, run: RunFolder, tmp_path: Path
) -> None:
    study = tmp_path / "study.tar"
    call("archive", run.path, "-o", study, "--without", "wheels")
    key = "\\u001b]0;pwned\\u0007"
    bad = forged(study, tmp_path / "bad.tar", **{"cluster.json": f'{{"{key}": 1, "{key}2": 2}}'})
    (tmp_path / "ours.yaml").write_text("name: ours\n")
    for words in (("compare", bad, run.path), ("rerun", bad, "--cluster", tmp_path / "ours.yaml")):
        refused = call(*words)
        assert refused.code == 2 and "bad.tar cannot be read" in refused.err
        assert "\x1b" not in refused.err and "\x07" not in refused.err
        error, hint = refused.err.splitlines()  # and not a line for each key
        assert error.startswith("error: ") and hint.startswith("hint: ")


UNSIGNED = """#!/bin/sh
echo 'FATAL: container: integrity: signature not found for object group 1' >&2
exit 255
"""


def test_an_image_that_the_site_does_not_trust_is_to_be_taken_out_and_signed(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.tar"
    call("archive", run.path, "-o", study, "--without", "wheels", "--with-images")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apptainer").write_text(UNSIGNED)
    (tmp_path / "bin/apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "lab.pem").write_text("key")
    (tmp_path / "ours.yaml").write_text(
        f"name: ours\nimages: {{signatures: {{keys: [{tmp_path}/lab.pem]}}}}\n"
    )
    refused = call("rerun", study, "--cluster", tmp_path / "ours.yaml", "--dry-run")
    assert refused.code == 3
    error, hint = refused.err.splitlines()[-2:]
    assert error.startswith(f"error: image in {study} is not signed; it must be signed with")
    assert f"tar -xf {study} image.sif" in hint and "--image ./image.sif" in hint
    assert ".incoming" not in refused.err


def test_a_comparison_tells_what_differs_and_names_the_rest(
    call: Call, run: RunFolder, tmp_path: Path
) -> None:
    study = tmp_path / "study.tar"
    call("archive", run.path, "-o", study, "--without", "wheels", "--keep-names")
    shown = call("compare", study, run.path)
    assert shown.code == 0, shown.err
    found = rows(shown.out)
    assert found["folder"] == [str(study), str(run.path), "expected"]
    assert found["drift:"] == ["none"]
    assert {"image,", "weights,", "plans.finetune,"} <= set(found["the"])
    assert "image" not in found
    assert shown.out.splitlines()[-1] == f"all are within 0 of those of {study}"
