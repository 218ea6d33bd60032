"""What is installed beside this package: versions by name, without importing any of it."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Final

from ca_hpc import __version__, processes
from ca_hpc.core.run_record import Software
from ca_hpc.errors import CaHpcError
from ca_hpc.processes import Run
from ca_hpc.store.shipped import PACKAGE

#: whatever decides about the numbers that come out, or about what is submitted
NAMED: Final = (
    "torch",
    "nnunetv2",
    "numpy",
    "scipy",
    "batchgenerators",
    "batchgeneratorsv2",
    "dynamic-network-architectures",
    "acvl-utils",
    "blosc2",
    "nibabel",
    "simpleitk",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "submitit",
    "pydantic",
    "msgspec",
)
_CUDA: Final = re.compile(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", re.MULTILINE)


def installed(*, commit: str | None = None) -> Software:
    """The versions of what this Python has of ``NAMED``; takes milliseconds."""
    versions = {"ca-hpc": __version__, "python": platform.python_version()}
    for name in NAMED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    if (cuda := cuda_of_torch()) is not None:
        versions["cuda"] = cuda
    return Software(versions, commit)


def cuda_of_torch() -> str | None:
    """The CUDA that this Python's torch was built for; None: for none, or there is no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    # wheels do not tell in their name or metadata; importing torch takes seconds
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = _CUDA.search(text)
    return found[1] if found else None


def commit_here(*, run: Run = processes.run) -> str | None:
    """The commit of the checkout that this package runs from or was installed from, ``-dirty``
    where files had changed.

    None where git cannot say, and for a package that was not installed from a checkout.
    """
    with contextlib.suppress(OSError, ValueError):  # written by setup.py
        return (PACKAGE / "_shipped" / "commit").read_text(encoding="ascii").strip() or None
    if not (PACKAGE.parent / ".git").exists():
        return None
    git = ("git", "--no-optional-locks", "-C", str(PACKAGE.parent))
    with contextlib.suppress(CaHpcError):
        head = run((*git, "rev-parse", "--verify", "HEAD"))
        changes = run((*git, "status", "--porcelain"))
        if head.returncode == changes.returncode == 0:
            return head.stdout.strip() + ("-dirty" if changes.stdout else "")
    return None
