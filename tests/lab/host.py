"""The host side as on a cluster: a Python of the system that an ordinary user runs jobs with."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab.machine import LabError, must, run

VERSION = (3, 11)
KEPT = 3
# What a wheel of this package is made of.
SOURCES = (
    *("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"),
    *("ca_hpc", "configs", "containers", "jobs"),
)


def host_python(checkout: Path, *, cache: Path, user: str) -> Path:
    """A virtual environment's interpreter with this package as installed from a wheel.

    It holds requirements/host.txt and nothing else, lies below ``cache`` and is made again only
    when those pins or the package's sources change. Raises ``LabError`` if ``user`` cannot run it.
    """
    requirements = checkout / "requirements/host.txt"
    content = digest([requirements, *(checkout / name for name in SOURCES)])
    home = cache / f"host-{content[:16]}"
    python, finished = home / "bin/python", home / "finished"
    with (cache / "host.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(home, ignore_errors=True)
            must([system_python(user), "-m", "venv", home])
            pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
            must((*pip, "--requirement", str(requirements)), timeout=1800)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                must((*pip, "--no-deps", str(_wheel(checkout, Path(scratch)))))
        finished.touch()
        _forget_old(cache)
    must([python, "-I", "-c", "import ca_hpc"], user=user)
    return python


def _forget_old(cache: Path) -> None:
    """Each change of the sources makes an environment: keep those that were used last."""
    homes = sorted(cache.glob("host-*/finished"), key=lambda finished: finished.stat().st_mtime)
    for finished in homes[:-KEPT]:
        shutil.rmtree(finished.parent)


def system_python(user: str) -> Path:
    """The first Python 3.11 that ``user`` may run: one in root's home does not serve his jobs."""
    search = ["/usr/bin", *os.get_exec_path()]
    code = f"import ensurepip, sys; sys.exit(sys.version_info[:2] != {VERSION})"
    for folder in search:
        python = Path(folder, f"python{VERSION[0]}.{VERSION[1]}")
        if python.exists() and run([python, "-c", code], user=user).returncode == 0:
            return python
    raise LabError(f"no Python 3.11 with venv that {user} can run; apt install python3.11-venv")


def digest(paths: Sequence[Path]) -> str:
    """SHA-256 over the names and the bytes of files and folders; missing ones count as empty."""
    total = hashlib.sha256()
    for path in paths:
        for file in _files(path):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{path.name}/{file.relative_to(path)}\0{content}\n".encode())
    return total.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def _wheel(checkout: Path, folder: Path) -> Path:
    """Built from a copy: setuptools would pack what an earlier build/ still holds."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = checkout / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, source / name)
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    must([*build, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source])
    (wheel,) = folder.glob("*.whl")
    return wheel
