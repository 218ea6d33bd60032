"""One job from a clean shell and from a hostile one: the same environment, the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ca_hpc.imaging.synthetic import write_dataset
from tests.local_runs import JOB, states, status, until
from tests.outcomes import outcome

# Tells what a training finds around it.
TRAINER = """
import json, locale, os, pathlib, sys, time
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class nnUNetTrainerTells(nnUNetTrainer):
    def on_train_start(self):
        super().on_train_start()
        mask = os.umask(0)
        os.umask(mask)
        told = {
            "environment": dict(os.environ),
            "path": sys.path,
            "files": {name: sys.modules[name].__file__ for name in ("torch", "nnunetv2", "numpy")},
            "encoding": [locale.getpreferredencoding(), sys.getfilesystemencoding()],
            "zone": time.tzname,
            "folder": os.getcwd(),
            "umask": oct(mask),
        }
        pathlib.Path(self.output_folder, "told.json").write_text(json.dumps(told))
"""
EVIL = "open({mark!r}, 'a').write(__name__ + '\\n')\nraise RuntimeError('EVIL')\n"


def submit(folder: Path, *, variables: Mapping[str, str], umask: int) -> Path:
    """As a user does: with the entry point's own code, in a Python that listens to the shell."""
    argv = (sys.executable, "-m", "ca_hpc", "submit", "job.yaml", "--detach", "--json")
    given = {"PATH": os.environ["PATH"], "USER": "me", **variables}
    done = subprocess.run(
        argv, cwd=folder, env=given, text=True, capture_output=True, umask=umask, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])


def hostile_shell(home: Path, *, mark: Path) -> dict[str, str]:
    """Everything that changes what other programs do."""
    modules = home / "modules"
    own = home / f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for folder, names in (
        (modules, ("torch", "yaml", "typer", "sitecustomize")),
        (own, ("nnunetv2", "numpy", "usercustomize")),
    ):
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.py").write_text(EVIL.format(mark=str(mark)))
    for name in (".profile", ".bashrc", ".bash_profile"):
        (home / name).write_text(f"touch {mark}; export PYTHONPATH={modules}\n")
    return {
        "HOME": str(home),
        "PYTHONPATH": str(modules),
        "PYTHONHASHSEED": "7",
        "PYTHONOPTIMIZE": "2",
        "PYTHONUTF8": "0",
        "BASH_ENV": str(home / ".bashrc"),
        "ENV": str(home / ".profile"),
        "LD_LIBRARY_PATH": str(modules),
        "APPTAINER_BIND": f"{modules}:/opt",
        "APPTAINERENV_PYTHONPATH": str(modules),
        "SINGULARITY_BIND": f"{modules}:/opt",
        "OMP_NUM_THREADS": "7",
        "MKL_CBWR": "COMPATIBLE",
        "KMP_AFFINITY": "scatter",
        "NVIDIA_TF32_OVERRIDE": "0",
        "nnUNet_raw": str(modules),
        "nnUNet_results": str(modules),
        "nnUNet_compile": "f",
        "SLURM_JOB_ID": "7",
        "SQUEUE_PARTITION": "nowhere",
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "de_DE.ISO-8859-1",
        "TZ": "Asia/Kolkata",
    }


def to_the_end(run: Path) -> None:
    until(lambda: bool(status(run)["ended"]), seconds=400, what=f"{run} did not end")
    assert set(states(run).values()) == {"COMPLETED"}


def told(run: Path) -> dict[str, Any]:
    """What the training found, its own folder called WORK and the run RUN."""
    (file,) = run.glob("results/**/told.json")
    text = file.read_text()
    work = json.loads(text)["environment"]["TMPDIR"]
    text = text.replace(work, "WORK").replace(str(run), "RUN")
    return json.loads(text)  # type: ignore[no-any-return]


def shared_with_others(folder: Path) -> list[str]:
    """What others than user and group may read, or the group may change."""
    files = [folder, *(file for file in folder.rglob("*") if not file.is_symlink())]
    return [str(file) for file in files if file.stat().st_mode & 0o027]


def test_a_hostile_shell_changes_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", people=3, seed=9, contrasts=("T2starw",))
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "tells.py").write_text(TRAINER)
    text = JOB.replace("training: {", "training: {trainer: nnUNetTrainerTells, ")
    (tmp_path / "job.yaml").write_text(text + "trainers: trainers\n")
    homes = {name: tmp_path / name for name in ("clean", "hostile")}
    homes["clean"].mkdir()
    mark = tmp_path / "evil-was-here"
    shells = {
        "clean": ({"HOME": str(homes["clean"])}, 0o022),
        "hostile": (hostile_shell(homes["hostile"], mark=mark), 0),
    }
    runs = {}
    for name, (shell, umask) in shells.items():
        runs[name] = submit(tmp_path, variables=shell, umask=umask)
    for run in runs.values():
        to_the_end(run)
    # once, in the interpreter that the shell starts, which starts one of its own at once
    assert mark.read_text() == "sitecustomize\n"
    clean, hostile = (told(runs[name]) for name in shells)
    assert hostile == clean
    assert clean["environment"]["HOME"] == "WORK/home" and clean["folder"] == "WORK"
    assert (clean["umask"], clean["zone"], clean["encoding"]) == (
        "0o27", ["UTC", "UTC"], ["UTF-8", "utf-8"],
    )  # fmt: skip
    assert outcome(runs["hostile"]) == outcome(runs["clean"])
    assert shared_with_others(runs["hostile"]) == []
