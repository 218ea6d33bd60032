"""One job from a clean shell and from a hostile one, on SLURM and in the image: the same results.

The hostile shell is a user's: what it exports, what its rc files would, and what lies in its home.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.jobs import Site, why
from tests.integration.watched import Scene
from tests.outcomes import outcome

# a line of setup: what the batch script has
SHOW = 'env -0 > "{folder}/$SLURM_JOB_NAME.env"'
# of a login, or of SLURM when it asks for one (sbatch(1), --get-user-env)
OF_A_LOGIN = ("MAIL", "SLURM_GET_USER_ENV", "LOGGED_IN")
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
            "home": sorted(os.listdir(os.path.expanduser("~"))),
            "umask": oct(mask),
        }
        pathlib.Path(self.output_folder, "told.json").write_text(json.dumps(told))
"""


@pytest.fixture
def evil(scene: Scene) -> Path:
    """A folder that everything hostile points to, with modules that fail when imported."""
    folder = scene.site.folder / "evil"
    folder.mkdir()
    for name in ("torch", "nnunetv2", "numpy", "yaml", "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text("raise RuntimeError('EVIL')\n")
    (folder / "rc.sh").write_text("export PYTHONPATH=/evil LD_PRELOAD=/evil.so LOGGED_IN=yes\n")
    return folder


def hostile(evil: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(evil),
        "PYTHONOPTIMIZE": "2",
        "BASH_ENV": str(evil / "rc.sh"),
        "LD_PRELOAD": f"{evil}/evil.so",
        "LD_LIBRARY_PATH": str(evil),
        "APPTAINER_BIND": f"{evil}:/opt",
        "APPTAINERENV_PYTHONPATH": str(evil),
        "SINGULARITY_BIND": f"{evil}:/opt",
        "SBATCH_PARTITION": "nowhere",
        "SQUEUE_PARTITION": "nowhere",
        "OMP_NUM_THREADS": "7",
        "nnUNet_results": str(evil),
        "LC_ALL": "de_DE.ISO-8859-1",
        "TZ": "Asia/Kolkata",
    }


def own_home(site: Site, name: str, *, rc: str = "") -> Path:
    home = site.folder / name
    own = home / ".local/lib/python3.11/site-packages"
    own.mkdir(parents=True)
    (own / "nnunetv2.py").write_text("raise RuntimeError('EVIL')\n")
    for file in (".profile", ".bash_profile", ".bashrc"):
        (home / file).write_text(rc)
    site.own(home, *home.rglob("*"))
    return home


def submitted(site: Site, job: Path, *, variables: Mapping[str, str], umask: str) -> Path:
    """By a shell with its umask, and the entry point in a Python that listens to it."""
    line = f'umask {umask}; exec "$0" -m ca_hpc submit "$1" --json'
    argv = ("sh", "-c", line, str(site.python), str(job))
    done = site.user.run(argv, env={**site.environment, **variables}, cwd=site.folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])


def batch_environments(folder: Path) -> list[dict[str, str]]:
    """What each job's batch script had."""
    texts = [file.read_text() for file in folder.glob("*.env")]
    return [dict(each.split("=", 1) for each in text.split("\0") if "=" in each) for text in texts]


def told(run: Path) -> dict[str, Any]:
    """What the training found; the run called RUN, its folder WORK, attempts without job ids."""
    (file,) = run.glob("results/**/told.json")
    text = re.sub(r'[^"]*/ca-hpc-[a-z0-9_]{8}', "WORK", file.read_text().replace(str(run), "RUN"))
    text = re.sub(r"(/attempts/\d+)-\d+-", r"\1-JOB-", text)
    return json.loads(text)  # type: ignore[no-any-return]


def test_a_hostile_shell_changes_neither_job_nor_task_nor_result(scene: Scene, evil: Path) -> None:
    site = scene.site
    trainers = site.folder / "telling"
    trainers.mkdir()
    (trainers / "tells.py").write_text(TRAINER)
    profile = site.folder / "showing.yaml"
    text = (Path(__file__).parents[2] / "configs/clusters/lab.yaml").read_text()
    runs: dict[str, Path] = {}
    for name, shell, umask in (("clean", {}, "022"), ("hostile", hostile(evil), "000")):
        shown = site.folder / f"shown-{name}"
        shown.mkdir()
        site.own(shown)
        profile.write_text(text + f"setup: [{json.dumps(SHOW.format(folder=shown))}]\n")
        rc = f". {evil}/rc.sh\n" if name == "hostile" else ""
        home = own_home(site, f"home-{name}", rc=rc)
        spec = scene.job(name, folds=1, trainer="Tells")
        spec |= {"cluster": str(profile), "trainers": str(trainers), "threads": 1}
        job = site.write(name, spec)
        runs[name] = submitted(site, job, variables={**shell, "HOME": str(home)}, umask=umask)
    for run in runs.values():
        status = site.follow(run)
        assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(run, status)
    for name in runs:
        found = batch_environments(site.folder / f"shown-{name}")
        assert len(found) == len(status["tasks"]) - 1  # assemble and preprocess share a job
        for environment in found:
            assert not set(OF_A_LOGIN) & set(environment)
            evils = {key: value for key, value in environment.items() if "evil" in value}
            assert not evils, name
            assert not [key for key in environment if key.startswith(("PYTHON", "LD_", "nnUNet"))]
    assert told(runs["hostile"]) == told(runs["clean"])
    assert told(runs["clean"])["umask"] == "0o27"
    assert outcome(runs["hostile"]) == outcome(runs["clean"])
    modes = [file.stat().st_mode for file in (runs["hostile"], *runs["hostile"].rglob("*"))]
    assert not [mode for mode in modes if mode & 0o007]
