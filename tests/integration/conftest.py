"""The real thing, brought up on demand: Apptainer, a throw-away cluster, an image, a host Python.

Everything is of the session's scope but ``work``. Nothing here is a stand-in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.lab import apptainer as apptainer_lab
from tests.lab import slurm as slurm_lab
from tests.lab.cluster import Cluster
from tests.lab.host import host_python as make_host_python
from tests.lab.machine import DEFAULT_USER, LOGIN_PATH, ordinary_user, run
from tests.lab.places import CHECKOUT, LOGS, cache_root

USER = os.environ.get("CA_HPC_TEST_USER", DEFAULT_USER)
FAILED = pytest.StashKey[bool]()


def image_build_argv(image: Path, *, store: Path, weights: Path) -> tuple[str, ...]:
    """The only place that knows how an image is built from the command line."""
    program = Path(sys.executable).with_name("ca-hpc")
    options = ("--cpu", "--store", str(store), "--weights", str(weights))
    return (str(program), "image", "build", str(image), *options)


@dataclass(frozen=True)
class HpcUser:
    """The ordinary user that jobs belong to."""

    name: str
    uid: int

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` as this user with a login environment plus ``env``; no shell. Seconds."""
        return run(argv, user=self.name, env=env, cwd=cwd, timeout=timeout)


@pytest.fixture(scope="session", autouse=True)
def root_only() -> None:
    if os.geteuid() != 0:
        _cannot("needs root: real Apptainer and SLURM are installed and started")


@pytest.fixture(scope="session")
def hpc_user(root_only: None) -> HpcUser:
    return HpcUser(USER, ordinary_user(USER).pw_uid)


@pytest.fixture(scope="session")
def apptainer(hpc_user: HpcUser) -> str:
    """The version of an Apptainer that runs as root and as the ordinary user."""
    return apptainer_lab.ensure(hpc_user.name)


@pytest.fixture(scope="session")
def cluster(hpc_user: HpcUser) -> Iterator[Cluster]:
    """A cluster of this session's own; one that ``CA_HPC_TEST_SLURM`` names is left up."""
    root = Path(os.environ.get("CA_HPC_TEST_SLURM") or cache_root() / f"slurm-{os.getpid()}")
    was_there = (root / "lab.json").exists()
    try:
        yield slurm_lab.up(root, user=hpc_user.name)
    finally:
        if not was_there:
            slurm_lab.down(root, wipe=True)


@pytest.fixture(scope="session")
def lab(cluster: Cluster) -> dict[str, str]:
    """The environment in which the scheduler's commands talk to the throw-away cluster."""
    return {**cluster.env, "PATH": LOGIN_PATH}


@pytest.fixture(scope="session")
def host_python(hpc_user: HpcUser) -> Path:
    """The interpreter of an environment with this package, readable by the ordinary user."""
    return make_host_python(CHECKOUT, cache=cache_root(), user=hpc_user.name)


@pytest.fixture(scope="session")
def weights() -> Path:
    """A checkpoint of the true shape of the contrast-agnostic model v2.x, from a fixed seed."""
    file = cache_root() / "contrast_agnostic_nnunet_compatible.pth"
    write_checkpoint(file, model="contrast-agnostic-v2")
    return file


@pytest.fixture(scope="session")
def image(apptainer: str, weights: Path) -> Path:
    """The SIF of this checkout with the weights; its base is kept between sessions."""
    sif = cache_root() / "ca-hpc-test.sif"
    argv = image_build_argv(sif, store=cache_root() / "images", weights=weights)
    done = run(argv, timeout=3600)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / "image-build.log"
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        pytest.fail(f"image build: exit status {done.returncode}, see {log}\n{done.stderr[-3000:]}")
    return sif


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images with masks: ``CA_HPC_SHARED_DATA``, else ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("CA_HPC_SHARED_DATA") or CHECKOUT.parent / "shared/data")
    if not folder.is_dir():
        _cannot(f"no data in {folder}; CA_HPC_SHARED_DATA names another folder")
    return folder


@pytest.fixture
def work(hpc_user: HpcUser, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder of the ordinary user's, kept if the test fails."""
    parent = cache_root() / "work"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{request.function.__name__}-", dir=parent))
    folder.chmod(0o755)
    shutil.chown(folder, hpc_user.name)
    yield folder
    if request.node.stash.get(FAILED, False):
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


def _cannot(reason: str) -> None:
    """Skip, or fail where every test has to run."""
    if os.environ.get("CA_HPC_TEST_REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)
