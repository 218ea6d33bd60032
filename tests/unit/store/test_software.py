"""Versions of what is installed, told without importing it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ca_hpc import __version__
from ca_hpc.processes import Finished, ProgramMissing
from ca_hpc.store import software
from ca_hpc.store.software import commit_here, cuda_of_torch, installed

REPOSITORY = Path(__file__).parents[3]


def test_the_versions_are_those_of_the_packages_themselves() -> None:
    found = installed(commit="0a1b")
    assert found.commit == "0a1b"
    assert found.versions["ca-hpc"] == __version__
    assert found.versions["python"] == platform.python_version()
    assert found.versions["numpy"] == metadata.version("numpy")
    assert "nvidia-cudnn-cu11" not in found.versions


def test_torch_is_not_imported_for_it() -> None:
    line = "from ca_hpc.store.software import installed; installed(); import sys; "
    line += "print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "13.0"),
        ('__version__ = "2"\ncuda = "12.8"\n', "12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", None),
        ("", None),
    ],
)
def test_the_cuda_of_torch_stands_in_its_version_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cuda: str | None
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')\n")
    (package / "version.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert cuda_of_torch() == cuda


def test_the_commit_is_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "PACKAGE", tmp_path / "ca_hpc")
    assert commit_here() is None  # an installed package

    def git(*words: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        argv = ("git", *who, "-C", str(tmp_path), *words)
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert commit_here() is None  # nothing is committed
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    assert commit_here() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert commit_here() == git("rev-parse", "HEAD") + "-dirty"


def test_what_is_installed_of_a_checkout_knows_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, installed_in = tmp_path / "checkout", tmp_path / "site-packages"
    for name in ("ca_hpc", "configs", "containers", "jobs"):
        (checkout / name).mkdir(parents=True)
        (checkout / name / "__init__.py").touch()
    (checkout / "README.md").touch()
    (checkout / "LICENSE").touch()
    for name in ("setup.py", "pyproject.toml"):
        shutil.copyfile(REPOSITORY / name, checkout / name)
    (checkout / ".gitignore").write_text("*.egg-info\n")

    def commit_of_what_is_built() -> str | None:
        argv = (sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(installed_in))
        subprocess.run(argv, cwd=checkout, check=True, capture_output=True)
        monkeypatch.setattr(software, "PACKAGE", installed_in / "ca_hpc")
        return commit_here()

    def git(*words: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        argv = ("git", *who, "-C", str(checkout), *words)
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    assert commit_of_what_is_built() is None  # of a folder without git
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    assert commit_of_what_is_built() == git("rev-parse", "HEAD")
    (checkout / "ca_hpc" / "new.py").touch()
    assert commit_of_what_is_built() == git("rev-parse", "HEAD") + "-dirty"


def test_without_git_nobody_knows_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(argv: object, **more: object) -> Finished:
        raise ProgramMissing("git: not found")

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(software, "PACKAGE", tmp_path / "ca_hpc")
    assert commit_here(run=missing) is None
