"""What an image says about itself: bill of materials, licences, and the test that reads both.

The programs of ``containers/`` run here as they do in a build, on a root that holds this Python's
packages and two of Debian's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.kept_venv import kept_venv
from tests.lab.places import CHECKOUT

CONTAINERS = CHECKOUT / "containers"
DEBIAN = {"base-files": "12.4+deb12u12", "zlib1g": "1:1.2.13.dfsg-1"}
STATUS = """\
Package: base-files
Status: install ok installed
Version: 12.4+deb12u12
Architecture: amd64
Description: Debian base system miscellaneous files

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: all
Description: removed, but for its settings

Package: zlib1g
Status: install ok installed
Source: zlib (1.2.13)
Version: 1:1.2.13.dfsg-1
Architecture: amd64
Description: compression library - runtime
 More about it.
"""
MACHINE_READABLE = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 1995-2013 Jean-loup Gailly and Mark Adler
License: Zlib
"""


@pytest.fixture(scope="module")
def tools() -> Path:
    """A Python as the base has one to write the bill, with what checks it."""
    lists = (CONTAINERS / "requirements-sbom.txt", CHECKOUT / "requirements/sbom.txt")
    return kept_venv("sbom", *lists)


@pytest.fixture
def root(tmp_path: Path, tools: Path) -> Path:
    """An image as its recipe leaves it."""
    root = tmp_path / "root"
    home, doc = root / "opt/ca-hpc", root / "usr/share/doc"
    packages = home / "venv/lib/python3.11/site-packages"
    packages.parent.mkdir(parents=True)
    packages.symlink_to(sysconfig.get_path("purelib"))
    for name, text in {"base-files": "in words", "zlib1g": MACHINE_READABLE}.items():
        (doc / name).mkdir(parents=True)
        (doc / name / "copyright").write_text(text)
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(STATUS)
    shutil.copytree(
        CONTAINERS,
        home / "requirements",
        ignore=lambda _, names: [n for n in names if n[-3:] != "txt"],
    )
    shutil.copy(CONTAINERS / "selftest.py", home)
    (home / "weights").mkdir()
    written = ("--json", str(home / "image.json"), "--labels", str(tmp_path / "labels"))
    call(
        *(sys.executable, "-I", str(CONTAINERS / "describe.py")),
        *("--weights", str(home / "weights"), "--commit", "c0ffee", *written),
        given="".join(f"{name} {version}\n" for name, version in DEBIAN.items()),
    )
    write_bill(tools, root)
    call(
        *(sys.executable, "-I", str(CONTAINERS / "licences.py")),
        *("--root", str(root), str(home / "licences.json")),
    )
    return root


def call(*argv: str, given: str = "", **environment: str) -> str:
    done = subprocess.run(
        argv, input=given, capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_bill(tools: Path, root: Path, **environment: str) -> Path:
    file = root / "opt/ca-hpc/sbom.cdx.json"
    # without -I, which would hide the environment that must not matter
    argv = (str(tools), str(CONTAINERS / "sbom.py"), "--name", "ca-hpc", "--root", str(root))
    call(*argv, str(file), **environment)
    return file


def bill(root: Path) -> dict[str, Any]:
    text = (root / "opt/ca-hpc/sbom.cdx.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def selftest(root: Path) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-I", "-B", str(root / "opt/ca-hpc/selftest.py"))
    return subprocess.run(argv, capture_output=True, text=True)


def test_the_bill_is_valid_and_a_damaged_one_is_not(root: Path, tools: Path) -> None:
    file, check = root / "opt/ca-hpc/sbom.cdx.json", str(CHECKOUT / "tests/sbom_check.py")
    call(str(tools), "-I", check, str(file))
    file.write_text(file.read_text().replace('"library"', '"libary"', 1))
    with pytest.raises(AssertionError, match="not valid"):
        call(str(tools), "-I", check, str(file))


def test_the_bill_lists_what_is_installed(root: Path) -> None:
    found = {entry["name"]: entry for entry in bill(root)["components"]}
    assert len(found) == len(bill(root)["components"])
    zlib, files = found.pop("zlib1g"), found.pop("base-files")
    assert zlib["version"] == DEBIAN["zlib1g"]
    assert zlib["purl"].startswith("pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64")
    assert zlib["licenses"] == [{"license": {"name": "Zlib"}}]
    assert zlib["properties"] == [{"name": "debian:source", "value": "zlib"}]
    assert "licenses" not in files
    assert len(found) == len({package.metadata["Name"] for package in metadata.distributions()})
    assert found["requests"]["licenses"] == [
        {"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}
    ]
    numpy = found["numpy"]
    assert numpy["purl"] == f"pkg:pypi/numpy@{metadata.version('numpy')}"
    (archive,) = numpy["hashes"]
    assert archive["content"] in (CONTAINERS / "requirements.txt").read_text()


def test_equal_images_have_equal_bills(root: Path, tools: Path) -> None:
    first = (root / "opt/ca-hpc/sbom.cdx.json").read_bytes()
    for seed, zone in (("1", "Asia/Tokyo"), ("2", "UTC")):
        again = write_bill(tools, root, PYTHONHASHSEED=seed, TZ=zone, LC_ALL="C")
        assert again.read_bytes() == first
    image = root / "opt/ca-hpc/image.json"
    image.write_text(image.read_text().replace("c0ffee", "beef"))
    serial = bill(root)["serialNumber"]
    write_bill(tools, root)
    assert bill(root)["serialNumber"] != serial


def test_the_licences_of_every_package_are_found(root: Path) -> None:
    index = json.loads((root / "opt/ca-hpc/licences.json").read_text())
    assert index["debian"] == {
        name: [str(root / "usr/share/doc" / name / "copyright")] for name in DEBIAN
    }
    python = {label.rpartition(" ")[0]: files for label, files in index["python"].items()}
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in python["requests"])
    assert len(python["torch"]) >= 2  # its own, and what it has from others
    # these have none, as docs/images.md says
    bare = {
        name for name in ("argparse", "linecache2", "traceback2", "unittest2") if name in python
    }
    assert {name for name, files in python.items() if not files} - bare <= {"ca-hpc"}


def test_the_test_of_an_image_reads_its_papers(root: Path) -> None:
    done = selftest(root)
    assert done.returncode == 0, done.stderr
    assert "forward pass ok" in done.stdout
    gone = root / "usr/share/doc/zlib1g/copyright"
    gone.unlink()
    assert f"licence texts are missing: ['{gone}']" in selftest(root).stderr
    file = root / "opt/ca-hpc/sbom.cdx.json"
    file.write_text(file.read_text().replace('"numpy"', '"numpie"'))
    assert "numpie@" in selftest(root).stderr
