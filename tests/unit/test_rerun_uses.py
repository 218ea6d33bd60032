"""What a dry run of a rerun leaves in the store of images: the image, and no word of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ca_hpc.images.shelf import Shelf
from tests.command_line import called
from tests.rerunnable import rerunnable

DESCRIBES = """#!/bin/sh
echo '{"versions": {"ca-hpc": "0.1.0"}, "weights": [], "commit": null}'
"""


def test_a_dry_run_keeps_no_image_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, place in (("HOME", "home"), ("CA_HPC_STORE", "store"), ("XDG_CACHE_HOME", "cache")):
        monkeypatch.setenv(name, str(tmp_path / place))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apptainer").write_text(DESCRIBES)
    (tmp_path / "bin/apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    study, ours = str(tmp_path / "study.tar"), str(tmp_path / "ours.yaml")
    Path(ours).write_text("name: ours\n")
    packing = ("archive", str(rerunnable(tmp_path).path), "-o", study, "--with-images")
    for words in (
        (*packing, "--without", "wheels"),
        ("rerun", study, "--cluster", ours, "--dry-run"),
    ):
        shown = called(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert "is no checkpoint" in shown.err  # the weights come after the image
    (entry,) = Shelf(tmp_path / "store").entries()
    assert list(entry.uses.iterdir()) == []
