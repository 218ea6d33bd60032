"""Install the repository's ``configs/``, ``containers/`` and ``jobs/`` inside the package.

They become ``ca_hpc/_shipped/...``, and so does the commit, for which nobody can ask git later.
Everything else is in pyproject.toml, which cannot both find packages by itself and name folders
outside of them.
"""

import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SHIPPED = {f"ca_hpc._shipped.{name}": name for name in ("configs", "containers", "jobs")}


def git(*words: str) -> str:
    argv = ("git", "--no-optional-locks", "-C", str(HERE), *words)
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def commit() -> str:
    """Of this checkout, ``-dirty`` where files have changed; empty where git cannot say."""
    if not (HERE / ".git").exists():  # else git would tell of a repository around this one
        return ""
    try:
        return git("rev-parse", "--verify", "HEAD") + "-dirty" * bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return ""


class BuildWithCommit(build_py):
    """``ca_hpc/store/software.py`` reads it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            (Path(self.build_lib) / "ca_hpc/_shipped/commit").write_text(commit())


setup(
    packages=[*find_packages(include=["ca_hpc*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={"ca_hpc.report": ["*.j2"]} | {name: ["**/*"] for name in SHIPPED},
    cmdclass={"build_py": BuildWithCommit},
)
