"""The real thing, brought up on demand: Apptainer, a throw-away cluster, an image, a host Python.

Everything is of the session's scope but ``work``. Nothing here is a stand-in.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.checkpoints import true_sized
from tests.integration.jobs import HpcUser, Site
from tests.integration.watched import Scene, own_image
from tests.lab import apptainer as apptainer_lab
from tests.lab import slurm as slurm_lab
from tests.lab.cluster import Cluster, Tracking, Traits
from tests.lab.controls import has_cgroups
from tests.lab.host import host_python as make_host_python
from tests.lab.image import built_image
from tests.lab.machine import DEFAULT_USER, LOGIN_PATH, LabError, ordinary_user
from tests.lab.places import CHECKOUT, SECOND, SPARE, cache_root

USER = os.environ.get("CA_HPC_TEST_USER", DEFAULT_USER)
SEED = "CA_HPC_TEST_SEED"
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
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
def cgroup_cluster(hpc_user: HpcUser, cluster: Cluster) -> Iterator[Cluster]:
    """A second one as most sites have it: cgroups, where they work here. Without slurmdbd."""
    tracking: Tracking = "cgroup" if has_cgroups() else "linuxproc"
    traits = Traits(accounting=False, tracking=tracking)
    with another_cluster(cluster, SECOND, user=hpc_user, traits=traits) as second:
        yield second


@pytest.fixture(scope="session")
def spare_cluster(hpc_user: HpcUser, cluster: Cluster) -> Iterator[Cluster]:
    """A third one, whose nodes may be lost without harm to others. Without slurmdbd."""
    with another_cluster(cluster, SPARE, user=hpc_user, traits=Traits(accounting=False)) as spare:
        yield spare


@contextmanager
def another_cluster(
    first: Cluster, suffix: str, *, user: HpcUser, traits: Traits
) -> Iterator[Cluster]:
    """Beside the first one's folder, and left up with it."""
    root = first.root.with_name(f"{first.root.name}{suffix}")
    was_there = (root / "lab.json").exists()
    try:
        yield slurm_lab.up(root, user=user.name, traits=traits)
    finally:
        if not was_there:
            slurm_lab.down(root, wipe=True)


@pytest.fixture
def scene(hpc_user: HpcUser, cluster: Cluster, host_python: Path, image: Path, work: Path) -> Scene:
    """A work folder on the cluster."""
    return scene_in(work, cluster=cluster, user=hpc_user, python=host_python, image=image)


@pytest.fixture
def scenes(
    hpc_user: HpcUser,
    cluster: Cluster,
    cgroup_cluster: Cluster,
    host_python: Path,
    image: Path,
    work: Path,
) -> Sequence[Scene]:
    """A work folder on each of the two clusters."""
    return [
        scene_in(
            work / each.root.name, cluster=each, user=hpc_user, python=host_python, image=image
        )
        for each in (cluster, cgroup_cluster)
    ]


def scene_in(folder: Path, *, cluster: Cluster, user: HpcUser, python: Path, image: Path) -> Scene:
    """``folder``, made if need be, on a cluster; with a name of its own for the image."""
    folder.mkdir(exist_ok=True)
    shutil.chown(folder, user.name)
    site = Site(user, python, {**cluster.env, "PATH": LOGIN_PATH}, folder)
    return Scene(cluster, site, own_image(image, folder))


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Of what is drawn by chance: ``CA_HPC_TEST_SEED``, else a new one; printed in any case."""
    number = int(os.environ.get(SEED) or secrets.randbelow(10**6))
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{SEED}={number}", flush=True)
    return number


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
    return true_sized(cache_root())


@pytest.fixture(scope="session")
def image(apptainer: str, weights: Path) -> Path:
    """The SIF of this checkout with the weights; its base is kept between sessions."""
    try:
        return built_image(cache_root(), weights=weights)
    except LabError as error:
        pytest.fail(str(error))


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
    with work_folder(hpc_user, request, name=request.function.__name__) as folder:
        yield folder


@contextmanager
def work_folder(user: HpcUser, request: pytest.FixtureRequest, *, name: str) -> Iterator[Path]:
    """An empty folder of the user's for a fixture; kept if a test in its scope fails."""
    parent = cache_root() / "work"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name[:40]}-", dir=parent))
    folder.chmod(0o755)
    shutil.chown(folder, user.name)
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
    for node in item.listchain():
        node.stash[FAILED] = node.stash.get(FAILED, False) or report.failed
    return report


def _cannot(reason: str) -> None:
    """Skip, or fail where every test has to run."""
    if os.environ.get("CA_HPC_TEST_REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)
