"""Virtual environments for programs that cannot share one with what is tested."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.places import cache_root


def kept_venv(name: str, *lists: Path) -> Path:
    """A Python that has what the requirement files list, made once and kept between runs.

    Each file is one pip command: hashes in one ask for none in the others. Skips the test, or
    fails it where every test has to run, if they cannot be installed.
    """
    content = b"".join(file.read_bytes() for file in lists) + sys.version.encode()
    venv = cache_root() / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}"
    python, whole = venv / "bin/python", venv / "whole"
    if whole.exists():
        return python
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    for file in lists:
        argv = [str(python), "-m", "pip", "install", "-q", "-r", str(file)]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            reason = f"{file} cannot be installed: {done.stderr[-300:]}"
            (pytest.fail if os.environ.get("CA_HPC_TEST_REQUIRE_ALL") else pytest.skip)(reason)
    whole.touch()
    return python
