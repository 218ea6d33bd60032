"""What people read of reruns, comparisons and archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca_hpc.actions.archive_readme import readme
from ca_hpc.store.archive import README, Archive
from ca_hpc.store.run_folder import RunFolder
from tests.command_line import Call, called
from tests.rerunnable import rerunnable


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
    assert "weights 0 kB" in first and "image 0 kB" in first and "wheels" not in first
    assert missing == "not in it: wheels, images and labels"
    made = Archive.open(tmp_path / "study.tar")
    assert f"sha256:{made.sha256} (of the manifest" in digest
    assert what_next.endswith(README)
    text = made.text(README)
    assert "but for: wheels, images and labels." in text
    assert "--data FOLDER" in text and "pip install" not in text


def test_of_a_whole_archive_nothing_else_is_asked_for() -> None:
    text = readme("study", version="0.1.0", python="3.11", machine="x86_64", left_out=())
    assert "without internet.\n" in text and "--data" not in text
    assert "pip install --no-index wheels/*.whl" in text and "python3.11 -m venv" in text


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
