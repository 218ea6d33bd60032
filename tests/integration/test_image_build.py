"""What a build gives: the same contents twice, and an image that says what it holds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from ca_hpc.images.building import recipes
from ca_hpc.images.record import ImageInfo, read_image
from ca_hpc.store.sif import system_partition
from tests.kept_venv import kept_venv
from tests.lab.image import image_build_argv
from tests.lab.machine import must, run
from tests.lab.places import CHECKOUT, cache_root

HOSTILE = {"TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}


@pytest.fixture(scope="module")
def recorded(image: Path) -> ImageInfo:
    return read_image(image)


def test_two_builds_of_one_commit_hold_the_same(
    image: Path, recorded: ImageInfo, weights: Path, work: Path
) -> None:
    again = work / "again.sif"
    before = os.umask(0o077)
    try:
        argv = image_build_argv(again, bases=cache_root() / "images", weights=weights)
        made = json.loads(must((*argv, "--json"), env=HOSTILE, timeout=1800))
    finally:
        os.umask(before)
    assert made["sha256"] != recorded.sha256
    assert made["content_sha256"] == recorded.content_sha256
    for sif in (image, again):
        assert dumped_sha256(sif) == recorded.content_sha256


def dumped_sha256(sif: Path) -> str:
    """What Apptainer itself takes for the file system."""
    rows = must(("apptainer", "sif", "list", sif)).splitlines()
    (number,) = [row.partition("|")[0].strip() for row in rows if "Squashfs" in row]
    argv = ("apptainer", "sif", "dump", number, str(sif))
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as dump:
        assert dump.stdout is not None
        digest = hashlib.sha256()
        while chunk := dump.stdout.read(1 << 20):
            digest.update(chunk)
    assert dump.returncode == 0
    return digest.hexdigest()


def test_the_image_says_what_it_holds(image: Path, recorded: ImageInfo, work: Path) -> None:
    inside = ("apptainer", "exec", "--containall", "--no-home", image, "cat")
    file = work / "sbom.cdx.json"
    file.write_text(must((*inside, "/opt/ca-hpc/sbom.cdx.json")))
    lists = ("containers/requirements-sbom.txt", "requirements/sbom.txt")
    tools = kept_venv("sbom", *(CHECKOUT / name for name in lists))
    must((tools, "-I", CHECKOUT / "tests/sbom_check.py", file))

    bill = json.loads(file.read_text())
    contents = recorded.contents
    assert {(part["name"], part["version"]) for part in bill["components"]} == {
        *contents.debian_packages.items(),
        *contents.python_packages.items(),
    }
    hashed = {part["name"] for part in bill["components"] if part.get("hashes")}
    assert hashed == contents.python_packages.keys() - {"ca-hpc"}
    assert {"ca-hpc", "torch", "nnunetv2"} <= contents.python_packages.keys()
    bare = json.loads(must((*inside, "/opt/ca-hpc/licences.json")))["python"]
    assert {label.partition(" ")[0] for label, files in bare.items() if not files} == {
        *("argparse", "linecache2", "traceback2", "unittest2")
    }


def test_whoever_builds_dev_is_empty(image: Path) -> None:
    start = str(system_partition(image).offset)
    listed = must(("unsquashfs", "-offset", start, "-l", image, "dev")).splitlines()
    assert [row for row in listed if "squashfs-root/dev" in row] == ["squashfs-root/dev"]


def test_what_it_was_made_from_is_known_without_its_record(image: Path, work: Path) -> None:
    alone = work / "alone.sif"
    alone.symlink_to(image)
    contents = read_image(alone).contents
    assert contents.recipe_sha256 == recipes.package().sha256
    assert contents.base_content_sha256 is not None


def test_labels_name_versions_commit_and_weights_but_no_mirror_and_no_time(
    image: Path, recorded: ImageInfo
) -> None:
    shown = json.loads(must(("apptainer", "inspect", "--json", image)))
    labels = shown["data"]["attributes"]["labels"]
    assert labels["version.torch"] == recorded.contents.versions["torch"]
    assert labels["org.opencontainers.image.revision"] == recorded.contents.commit
    (carried,) = recorded.weights
    assert labels[f"weights.{carried.name}"] == carried.sha256
    assert labels["org.label-schema.build-date"] == "2020-01-01T00:00:00Z"
    assert not [value for value in labels.values() if "://" in value]


def test_what_wrote_the_bill_is_gone_and_nothing_is_writable_for_others(image: Path) -> None:
    inside = ("apptainer", "exec", "--containall", "--no-home", image)
    assert run((*inside, "test", "-e", "/opt/ca-hpc/sbom")).returncode == 1
    loose = must((*inside, "find", "/opt", "-perm", "/022", "!", "-type", "l"))
    assert loose == ""
    unreadable = must((*inside, "find", "/opt", "!", "-perm", "-444"))
    assert unreadable == ""
