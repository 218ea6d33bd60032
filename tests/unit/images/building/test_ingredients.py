"""What goes into an image: mirror, pinned packages, the package itself, recipes."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc import __version__
from ca_hpc.errors import CaHpcError
from ca_hpc.images.building import recipes
from ca_hpc.images.building.debian import host_mirror, main_archive
from ca_hpc.images.building.package_wheel import pack_wheel
from ca_hpc.images.building.pins import Pin, canonical, read_pins
from ca_hpc.store.shipped import shipped

REPOSITORY = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("sources", "mirror"),
    [
        ("deb http://m.invalid/debian bookworm main", "http://m.invalid/debian"),
        ("deb [arch=amd64] https://m.invalid/debian/ sid main", "https://m.invalid/debian"),
        ("Types: deb\nURIs: http://m.invalid/debian\nSuites: x", "http://m.invalid/debian"),
        (
            "URIs: http://m.invalid/debian-security\nURIs: http://m.invalid/a/debian",
            "http://m.invalid/a/debian",
        ),
        (
            "deb http://m.invalid/archive/debian/20250520T000000Z bookworm main",
            "http://m.invalid/archive/debian/20250520T000000Z",
        ),
        ("# deb http://m.invalid/debian bookworm main", None),
        ("deb http://m.invalid/ubuntu noble main", None),
        ("", None),
    ],
)
def test_the_main_archive_is_found_in_apts_lists(sources: str, mirror: str | None) -> None:
    assert main_archive(sources) == mirror


def test_only_files_that_apt_reads_count(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "a.list.save").write_text("deb http://old.invalid/debian x")
    assert host_mirror(tmp_path) is None
    (tmp_path / "sources.list.d" / "b.sources").write_text("URIs: http://new.invalid/debian")
    assert host_mirror(tmp_path) == "http://new.invalid/debian"


def test_equal_code_gives_an_equal_wheel_with_a_true_record(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    wheel = pack_wheel(tmp_path)
    assert wheel.read_bytes() == pack_wheel(tmp_path / "again").read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = archive.read(f"ca_hpc-{__version__}.dist-info/RECORD").decode().splitlines()
    assert [row.split(",")[0] for row in record] == names
    assert "ca_hpc/_shipped/containers/base.def" in names
    assert not [name for name in names if "__pycache__" in name]
    assert f"ca_hpc-{__version__}.dist-info/licenses/LICENSE" in names


def test_the_wheel_holds_the_code_that_runs(tmp_path: Path) -> None:
    with zipfile.ZipFile(pack_wheel(tmp_path)) as archive:
        packed = archive.read("ca_hpc/images/building/package_wheel.py")
    running = Path(pack_wheel.__code__.co_filename).read_bytes()
    assert hashlib.sha256(packed).digest() == hashlib.sha256(running).digest()


def test_a_file_that_is_not_shipped_is_an_error() -> None:
    with pytest.raises(CaHpcError, match="is missing"):
        shipped("containers", "no.def")


def test_every_package_is_pinned_once_with_the_hash_of_its_file() -> None:
    for variant in ("cpu", "cuda"):
        pins = recipes.base(variant).pins
        assert len({canonical(pin.name) for pin in pins}) == len(pins) > 80
        assert {"torch", "torchvision", "nnunetv2", "pip"} <= {pin.name for pin in pins}
        assert not [pin.requirement for pin in pins if pin.sha256 is None]


def test_what_writes_the_bill_of_materials_is_pinned_too() -> None:
    tools = recipes.base("cpu").tools
    assert tools is not None
    assert {pin.name for pin in read_pins(tools)} >= {"cyclonedx-python-lib", "python-debian"}
    assert all(pin.sha256 for pin in read_pins(tools))


def test_a_recipe_includes_those_that_it_builds_on() -> None:
    before = recipes.base("cpu")
    assert before.below == recipes.debian("cpu")
    other = replace(before, below=recipes.debian("cuda"))
    assert other.sha256 != before.sha256


def test_image_and_demo_hold_the_same_versions() -> None:
    def versions(pins: Iterable[Pin]) -> dict[str, str]:
        return {canonical(pin.name): pin.version.partition("+")[0] for pin in pins}

    image = versions(recipes.base("cpu").pins)
    demo = versions(read_pins(REPOSITORY / "requirements/runtime.txt"))
    assert image | demo == demo | image
    assert demo.keys() <= image.keys()


@pytest.mark.parametrize("name", ["debian.def", "base.def", "ca-hpc.def"])
def test_a_recipe_never_cleans_a_folder_of_the_host(name: str) -> None:
    """Apptainer binds these into a build, on the same file system even: -xdev is no help."""
    commands = shipped("containers", name).read_text().replace("\\\n", " ").splitlines()
    dangerous = [c for c in commands if re.match(r"\s*(rm|find|chown|chmod|mv)\s", c)]
    assert dangerous
    for command in dangerous:
        paths = re.findall(r"(?<=\s)/\S*", command)
        assert not [p for p in paths if re.match(r"/(tmp|var/tmp|home|root|dev|proc|sys)?(/|$)", p)]
        assert "/var" not in paths
