"""Whether files are there: of git-annex only their names may be."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc.core.record import Origin
from ca_hpc.sources.files import missing_files
from ca_hpc.sources.git import Checkout
from tests.unit.sources.scanning import BIDS, LABELS, problems, scanned

Put = Callable[..., None]

FILES = ["bids/sub-01/anat/sub-01_T2w", f"{LABELS}/sub-01/anat/sub-01_T2w_seg"]
POINTER = "/annex/objects/SHA256E-s34800--20d914.nii.gz\n"
GIT = "{type: git, name: g, url: 'https://x', label_suffix: _seg}"


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_git_annex_has_not_fetched_is_told_and_not_left_out(
    tmp_path: Path, put_bids: Put, file: str
) -> None:
    put_bids("sub-01_T2w", "sub-02_T2w")
    link = tmp_path / f"{file}.nii.gz"
    link.unlink()
    link.symlink_to(".git/annex/objects/none")
    assert problems(tmp_path, BIDS) == [f"{link} is a link to nothing: fetch it"]


@pytest.mark.parametrize("text", [POINTER, "version https://git-lfs.github.com/spec/v1\noid …"])
def test_a_file_that_only_points_to_its_contents_is_told(
    tmp_path: Path, put_bids: Put, text: str
) -> None:
    put_bids("sub-01_T2w")
    file = tmp_path / f"{FILES[1]}.nii.gz"
    file.write_text(text)
    assert problems(tmp_path, BIDS) == [f"{file} only points to its contents: fetch it"]


def test_in_a_checkout_such_files_are_found_and_told_when_asked_for(
    tmp_path: Path, put_bids: Put
) -> None:
    put_bids("sub-01_T2w", "sub-02_T2w")
    image, label = (tmp_path / f"{file}.nii.gz" for file in FILES)
    image.unlink()
    image.symlink_to(".git/annex/objects/none")
    label.write_text(POINTER)
    origin = Origin("g", "https://x", "HEAD", "0" * 40)
    checkout = Checkout(tmp_path / "bids", origin, remarks=("HEAD has moved",))
    found = scanned(tmp_path, GIT, checkouts={"g": checkout})
    assert [case.id for case in found.cases] == ["g-sub-01-T2w", "g-sub-02-T2w"]
    assert (found.origins, found.remarks) == ((origin,), ("HEAD has moved",))
    assert missing_files(found) == [str(image), str(label)]
    packed = replace(found, cases=tuple(replace(c, archive="x.tar") for c in found.cases))
    assert missing_files(packed) == []


def test_a_repository_that_is_not_checked_out_is_told(tmp_path: Path) -> None:
    assert problems(tmp_path, GIT) == ["data[0]: https://x is not fetched"]


def test_a_folder_named_as_an_image_is_told_in_a_checkout_too(tmp_path: Path, put: Put) -> None:
    put(f"{LABELS}/sub-01/anat/sub-01_T2w_seg.nii.gz")
    image = tmp_path / "bids/sub-01/anat/sub-01_T2w.nii.gz"
    image.mkdir(parents=True)
    assert problems(tmp_path, BIDS) == [f"{image} is no file"]


def test_a_pipe_named_as_an_image_is_told_and_not_waited_for(tmp_path: Path, put_bids: Put) -> None:
    put_bids("sub-01_T2w")
    image = tmp_path / "bids/sub-01/anat/sub-01_T2w.nii.gz"
    image.unlink()
    os.mkfifo(image)
    assert problems(tmp_path, BIDS) == [f"{image} is no file"]
