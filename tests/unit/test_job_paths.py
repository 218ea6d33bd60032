"""Paths of a job: of the file from its folder, of the command line from the current one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca_hpc.actions.job_paths import absolute
from ca_hpc.core import door
from ca_hpc.core.data_spec import GitSource, SplitFile
from ca_hpc.core.spec import JobSpec

JOB = """
kind: finetune
name: neck
cluster: local
data:
  - {type: bids, path: a/b, label_suffix: _s, include: [sub-01, lists/x.yml], split: {file: s.yml}}
  - {type: git, url: URL, label_suffix: _s}
  - {type: pack, path: x.tar}
splits: {file: ../splits.yaml}
weights: w/model.pth
image: ca.sif
output: runs
"""


def absolute_job(url: str = "repo", **given: bool) -> JobSpec:
    spec = door.read(JobSpec, JOB.replace("URL", url), file="job.yaml")
    said = {"weights_given": False, "image_given": False, **given}
    return absolute(spec, base=Path("/jobs"), here=Path("/here"), **said)


def test_every_path_of_the_file_counts_from_its_folder() -> None:
    spec = absolute_job()
    bids, _, pack = spec.data
    assert bids.path == "/jobs/a/b" and pack.path == "/jobs/x.tar"  # type: ignore[union-attr]
    assert bids.include == ("sub-01", "/jobs/lists/x.yml")  # type: ignore[union-attr]
    assert bids.split == SplitFile("/jobs/s.yml")  # type: ignore[union-attr]
    assert spec.splits == SplitFile("/splits.yaml")
    assert (spec.weights, spec.image, spec.output) == (
        "/jobs/w/model.pth",
        "/jobs/ca.sif",
        "/jobs/runs",
    )


def test_what_the_command_line_says_counts_from_here() -> None:
    spec = absolute_job(weights_given=True, image_given=True)
    assert (spec.weights, spec.image) == ("/here/w/model.pth", "/here/ca.sif")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("repo", "/jobs/repo"),
        ("../repo", "/repo"),
        ("/data/repo", "/data/repo"),
        ("https://example.org/x", "https://example.org/x"),
        ("file:///data/repo", "file:///data/repo"),
        ("git@example.org:datasets/x", "git@example.org:datasets/x"),
        ("./with:colon/x", "/jobs/with:colon/x"),
    ],
)
def test_a_repository_is_a_folder_unless_its_url_names_a_host(url: str, wanted: str) -> None:
    source = absolute_job(url).data[1]
    assert isinstance(source, GitSource) and source.url == wanted
