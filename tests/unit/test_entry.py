"""The command as a shell starts it, whatever that shell has set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import ca_hpc

# the entry point that pip writes calls the same function
COMMAND = (sys.executable, "-c", "from ca_hpc.__main__ import main; main()")
CHECKOUT = Path(ca_hpc.__file__).parents[1]


def started(
    *arguments: str, cwd: Path, python: tuple[str, ...] = COMMAND, **variables: str
) -> subprocess.CompletedProcess[str]:
    given = {"PATH": os.environ["PATH"], "HOME": str(cwd)} | variables
    return subprocess.run(
        (*python, *arguments), cwd=cwd, env=given, text=True, capture_output=True, check=False
    )


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A folder of modules that say that they were imported."""
    folder = tmp_path / "evil"
    folder.mkdir()
    for name in ("yaml", "typer", "torch", "usercustomize"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('EVIL {name}')\n")
    return folder


def test_modules_of_the_shells_python_path_are_not_imported(evil: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("kind: nonsense\n")
    plain = started("validate", str(job), cwd=tmp_path)
    assert plain.returncode == 2 and "kind" in plain.stderr
    # the working folder too is on the path of a Python that was not told otherwise
    hostile = started("validate", str(job), cwd=evil, PYTHONPATH=str(evil), PYTHONOPTIMIZE="2")
    assert (hostile.returncode, hostile.stderr) == (plain.returncode, plain.stderr)


def test_a_library_that_is_loaded_before_all_others_is_not_handed_on(tmp_path: Path) -> None:
    show = tmp_path / "show.py"
    show.write_text("import os; print([n for n in os.environ if n.startswith('LD_')])")
    loaded = {"LD_PRELOAD": "/nonexistent/evil.so", "LD_LIBRARY_PATH": "/opt/lib"}
    # what starts anew is this, in place of the command line
    replaced = f"import sys; sys.executable = {str(tmp_path / 'python')!r}\n"
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nexec {sys.executable} {show}\n")
    fake.chmod(0o755)
    code = replaced + "from ca_hpc.__main__ import main; main()"
    done = started(cwd=tmp_path, python=(sys.executable, "-I", "-X", "utf8", "-c", code), **loaded)
    assert done.stdout == "['LD_LIBRARY_PATH']\n"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_files_are_read_as_utf8_in_every_locale(locale: str, tmp_path: Path) -> None:
    job = tmp_path / "jöb.yaml"
    job.write_text("kind: finetune\nRückenmark: 1\n", encoding="utf-8")
    shell = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    done = started("validate", str(job), cwd=tmp_path, **shell)
    assert done.returncode == 2
    assert "Rückenmark" in done.stderr and "jöb.yaml" in done.stderr


def test_what_is_written_is_private_whatever_the_shell_allows(tmp_path: Path) -> None:
    code = "import os, sys; os.umask(0); from ca_hpc.__main__ import main; main()"
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import os, sys\nfrom ca_hpc import cli\n"
        "os.umask(int(sys.argv[1], 8))\ncli.private_umask()\nprint(oct(os.umask(0)))\n"
    )
    told = {
        given: started(given, cwd=tmp_path, python=(sys.executable, "-I", str(probe))).stdout
        for given in ("000", "022", "077")
    }
    assert told == {"000": "0o27\n", "022": "0o27\n", "077": "0o77\n"}
    assert started("--version", cwd=tmp_path, python=(sys.executable, "-c", code)).returncode == 0


def test_help_names_the_command_and_not_how_it_is_started(tmp_path: Path) -> None:
    assert "Usage: ca-hpc " in started("--help", cwd=tmp_path).stdout
    assert "Usage: ca-hpc submit " in started("submit", "--help", cwd=tmp_path).stdout


def test_an_installation_that_is_in_the_python_path_as_well_is_none_the_worse(
    tmp_path: Path,
) -> None:
    done = started("--version", cwd=tmp_path, PYTHONPATH=str(CHECKOUT))
    assert (done.returncode, done.stdout.strip()) == (0, ca_hpc.__version__)


def test_an_installation_that_jobs_do_not_read_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "lib" / "ca_hpc"
    copy.mkdir(parents=True)
    for name in ("__init__.py", "__main__.py"):
        shutil.copyfile(CHECKOUT / "ca_hpc" / name, copy / name)
    venv.create(tmp_path / "bare", symlinks=True)  # has no ca-hpc of its own
    argv = (str(tmp_path / "bare/bin/python"), "-m", "ca_hpc")
    done = started("--version", cwd=tmp_path, python=argv, PYTHONPATH=str(copy.parent))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: ca-hpc is in {copy.parent} (PYTHONPATH), which jobs do not read\n"
        "hint: install it into a virtual environment, and run it from there\n"
    )
