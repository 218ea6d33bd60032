"""images.lock.yaml: what images are built from, and what came of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc.actions.image_lock import lock
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.building import recipes
from ca_hpc.images.building.lock import differences, lock_file, lock_text, read_lock
from ca_hpc.images.changes import Change, Packages, changes
from ca_hpc.images.record import Contents, ImageInfo, Origin, write_record
from ca_hpc.store import shipped as shipping
from tests.sif import write_sif

DEBIAN = {"libc6": "2.36-9", "adduser": "3.10"}
TOOLS = {"apptainer": "1.4", "squashfs-tools": "4.5.1"}


def built(recipe_sha256: str) -> ImageInfo:
    """A base with the pinned Python packages."""
    pins = recipes.base("cpu").pins
    return ImageInfo(
        Path("base.sif"),
        "1" * 64,
        10,
        Contents(
            versions={},
            recipe_sha256=recipe_sha256,
            debian_packages=DEBIAN,
            python_packages={pin.name: pin.version for pin in pins},
        ),
        Origin(recipe_sha256, None, "2026-01-02T03:04:05Z", tools=TOOLS),
        content_sha256="2" * 64,
    )


@pytest.fixture
def base() -> ImageInfo:
    return built(recipes.base("cpu").sha256)


@pytest.fixture
def text() -> str:
    return lock_file().read_text()


def test_the_lock_names_the_recipes_and_packages_of_this_commit(text: str) -> None:
    """If it does not: ca-hpc image lock"""
    assert text == lock_text(text)


def test_what_was_built_is_locked_and_stays(text: str, base: ImageInfo) -> None:
    locked = lock_text(text, built=[base])
    found = read_lock(locked)["base-cpu"]
    assert found.content_sha256 == base.content_sha256
    assert found.tools == TOOLS
    assert found.debian_packages == DEBIAN
    assert found.packages == "requirements-cpu.txt"
    assert lock_text(locked) == locked
    assert read_lock(locked)["base-cuda"] == read_lock(text)["base-cuda"]


def test_what_another_recipe_gave_does_not_stay(text: str, base: ImageInfo) -> None:
    current = recipes.base("cpu").sha256
    stale = lock_text(text, built=[base]).replace(current, "3" * 64)
    assert read_lock(stale)["base-cpu"].content_sha256 is not None
    assert read_lock(lock_text(stale))["base-cpu"].content_sha256 is None


def test_an_image_of_another_recipe_is_not_locked(text: str, base: ImageInfo) -> None:
    silent = replace(base, contents=replace(base.contents, recipe_sha256=None))
    for image in (built("3" * 64), silent):
        with pytest.raises(CaHpcError, match=r"base\.sif is no base"):
            lock_text(text, built=[image])


def test_the_image_that_the_lock_lies_in_is_no_base(text: str) -> None:
    with pytest.raises(CaHpcError, match="is no base"):
        lock_text(text, built=[built(recipes.package().sha256)])


def test_a_base_that_came_through_a_registry_is_locked_but_for_its_tools(
    text: str, base: ImageInfo
) -> None:
    locked = read_lock(lock_text(text, built=[replace(base, origin=None)]))["base-cpu"]
    assert locked.content_sha256 == base.content_sha256
    assert locked.tools == {}


def test_an_installed_package_has_no_lock_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, base: ImageInfo
) -> None:
    shutil.copytree(lock_file().parent, tmp_path / "containers")
    monkeypatch.setattr(shipping, "INSTALLED", tmp_path)
    for check in (False, True):
        with pytest.raises(CaHpcError, match="this ca-hpc is installed") as refused:
            lock(check=check)
        assert "--editable" in str(refused.value.hint)
    image = write_sif(tmp_path / "base.sif")
    write_record(replace(base, path=image, size_bytes=image.stat().st_size))
    with pytest.raises(DigestMismatch, match="not what these bases would make it"):
        lock([image], check=True)
    assert lock_file().read_text() == text


@pytest.mark.parametrize(
    "text", ["", "- 1", "images: {x: 3}", "images: {x: {recipe: 3}}", "a: b: c"]
)
def test_a_text_that_is_no_lock_is_an_error(text: str) -> None:
    with pytest.raises(CaHpcError, match=r"images\.lock\.yaml cannot be read"):
        read_lock(text)


def test_a_base_is_compared_with_the_lock(text: str, base: ImageInfo) -> None:
    locked = read_lock(lock_text(text, built=[base]))
    assert differences(base, locked) == ()
    newer = replace(base.contents, debian_packages=DEBIAN | {"libc6": "2.36-10"})
    assert differences(replace(base, contents=newer), locked) == (
        Change("debian", "libc6", "2.36-9", "2.36-10"),
    )


def test_a_base_of_another_recipe_is_not_compared(text: str, base: ImageInfo) -> None:
    locked = {"base-cpu": read_lock(lock_text(text, built=[base]))["base-cpu"]}
    assert differences(built("3" * 64), locked) is None
    assert differences(built(recipes.base("cuda").sha256), locked) is None


def test_changed_new_and_missing_packages_are_told_by_kind_and_name() -> None:
    before = Packages(debian={"b": "1", "a": "1", "same": "1"}, python={"numpy": "2"})
    now = Packages(debian={"a": "2", "same": "1"}, python={"numpy": "2", "yacs": "0.1"})
    assert changes(before, now) == (
        Change("debian", "a", "1", "2"),
        Change("debian", "b", "1", None),
        Change("python", "yacs", None, "0.1"),
    )
