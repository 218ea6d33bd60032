"""The image's Python packages: known by sha256, whichever index or folder they come from."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from ca_hpc import __version__, processes
from ca_hpc.errors import CaHpcError
from ca_hpc.images import pin_hashes
from ca_hpc.images.building.package_wheel import pack_wheel
from ca_hpc.images.building.pins import Pin, read_pins
from ca_hpc.images.building.python_wheels import fetch_wheels

ZEROS, ONES = "0" * 64, "1" * 64


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel in a folder that holds other things, too."""
    folder = tmp_path / "my wheels"
    folder.mkdir()
    (folder / "other-1.0-py3-none-any.whl").write_bytes(b"another")
    (folder / "notes.txt").write_text("x")
    return pack_wheel(folder)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def requirements(folder: Path, sha256: str) -> Path:
    """A file that pins this package in a file that it includes."""
    (folder / "shared.txt").write_text(f"ca-hpc=={__version__} --hash=sha256:{sha256}\n")
    file = folder / "requirements.txt"
    file.write_text("# all of it\n-r shared.txt\n")
    return file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_folder_serves_the_files_that_are_pinned(tmp_path: Path, wheel: Path, into: Path) -> None:
    wanted = requirements(tmp_path, sha256(wheel))
    fetch_wheels(wanted, into=into, source=wheel.parent, run=processes.run)
    assert [file.name for file in into.iterdir()] == [wheel.name]
    assert (into / wheel.name).read_bytes() == wheel.read_bytes()


def test_a_file_of_the_right_name_with_other_bytes_is_not_taken(
    tmp_path: Path, wheel: Path, into: Path
) -> None:
    wanted = requirements(tmp_path, sha256(wheel))
    with wheel.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CaHpcError, match=re.escape(f"1 of 1 pinned files: ca-hpc=={__version__}")):
        fetch_wheels(wanted, into=into, source=wheel.parent, run=processes.run)
    assert not list(into.iterdir())


def test_a_folder_that_is_none_is_named(tmp_path: Path, into: Path) -> None:
    wanted = requirements(tmp_path, ZEROS)
    with pytest.raises(CaHpcError, match="no-folder cannot be read"):
        fetch_wheels(wanted, into=into, source=tmp_path / "no-folder", run=processes.run)


@pytest.fixture
def only_that_folder(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds the wheel and asks no index."""
    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # pip splits it at blanks
    monkeypatch.setenv("PIP_FIND_LINKS", wheel.parent.as_uri())


@pytest.mark.usefixtures("only_that_folder")
def test_pip_fetches_what_is_pinned(tmp_path: Path, wheel: Path, into: Path) -> None:
    wanted = requirements(tmp_path, sha256(wheel))
    fetch_wheels(wanted, into=into, source=None, run=processes.run)
    assert (into / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.usefixtures("only_that_folder")
def test_an_index_with_other_bytes_is_refused(tmp_path: Path, wheel: Path, into: Path) -> None:
    wanted = requirements(tmp_path, ONES)
    with pytest.raises(CaHpcError, match=sha256(wheel)) as raised:
        fetch_wheels(wanted, into=into, source=None, run=processes.run)
    assert "another file under this name" in str(raised.value.hint)
    assert not list(into.iterdir())


@pytest.mark.usefixtures("only_that_folder")
def test_a_package_that_pip_cannot_find_is_named(tmp_path: Path, into: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(f"torch==0.0.1+cpu --hash=sha256:{ZEROS}\n")
    with pytest.raises(CaHpcError, match=re.escape("torch==0.0.1+cpu")) as raised:
        fetch_wheels(wanted, into=into, source=None, run=processes.run)
    assert "CPU build" in str(raised.value.hint)


# --- hashes into requirement files ---------------------------------------------------------


def test_hashes_are_put_in_and_nothing_else_is_changed() -> None:
    text = f"# why\n-r other.txt\nA.b===1.0\nc==2+cpu --hash=sha256:{ZEROS}\n"
    assert pin_hashes.with_hashes(text, {"a-b==1.0": ZEROS, "c==2+cpu": ONES}) == (
        f"# why\n-r other.txt\nA.b===1.0 --hash=sha256:{ZEROS}\nc==2+cpu --hash=sha256:{ONES}\n"
    )


def test_a_package_without_a_hash_is_an_error() -> None:
    with pytest.raises(CaHpcError, match=r"c==2"):
        pin_hashes.with_hashes("c==2\n", {"c==1": ZEROS})


def test_a_report_of_pip_is_read() -> None:
    def package(name: str, hashes: dict[str, str]) -> dict[str, object]:
        archive = {"archive_info": {"hashes": hashes}}
        return {"metadata": {"name": name, "version": "1"}, "download_info": archive}

    report = {"install": [package("A_b", {"sha256": ZEROS}), package("local", {})]}
    assert pin_hashes.hashes_in(json.dumps(report)) == {"a-b==1": ZEROS}


@pytest.mark.usefixtures("only_that_folder")
def test_pip_tells_the_hash_of_the_file_that_it_would_take(wheel: Path) -> None:
    pin = Pin("ca-hpc", "==", __version__)
    try:
        found = pin_hashes.chosen_files([pin], run=processes.run)
    except CaHpcError as error:
        pytest.fail(error.message)
    assert found in ({f"ca-hpc=={__version__}": sha256(wheel)}, {})  # {}: pip before 23.1


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch == 2.13.0", "torch==2 ; x", "-e ."])
def test_a_line_that_pins_nothing_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(f"a==1\n{line}\n")
    with pytest.raises(CaHpcError, match=re.escape(f"requirements.txt:2: {line!r}")):
        read_pins(file)
