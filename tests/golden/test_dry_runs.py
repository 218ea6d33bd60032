"""Every job that is shipped, dry-run against every cluster profile that is shipped, to the byte.

A change of what is submitted or started shows as a change of these texts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc.actions.prepare import Host, Overrides, find_inputs, read_job
from ca_hpc.actions.submit import dry_run
from ca_hpc.core.data_spec import BidsSource
from ca_hpc.store.shipped import shipped
from ca_hpc.weights.names import is_file_name
from ca_hpc.weights.store import WeightStore
from tests.checkpoints import store_zeros

JOBS = sorted(file.name for file in shipped("jobs").glob("*.yaml"))
CLUSTERS = sorted(file.stem for file in shipped("configs", "clusters").glob("*.yaml"))
PEOPLE = 6

pytestmark = pytest.mark.usefixtures("no_programs")


@pytest.fixture
def no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run asks nobody: there is neither a scheduler nor a container runtime."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """The same machine everywhere but for the folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return Host(
        folder=folder,
        python="/venv/bin/python",
        cpus=8,
        cache=tmp_path / "cache",
        store=folder / "store",
    )


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a user has before the first submission: weights by name, and a file."""
    folder = tmp_path_factory.mktemp("kept")
    store = WeightStore(folder / "store")
    store_zeros(store, model="contrast-agnostic-v2", work=folder)
    return folder


def lay_out(job: str, host: Host, *, kept: Path, checkpoint: Path) -> Path:
    """Copy a shipped job, with the data and weights that it names: of images the names only."""
    folder = host.folder
    file = folder / job
    shutil.copyfile(shipped("jobs", job), file)
    shutil.copytree(kept / "store", host.store, copy_function=os.link)
    spec = read_job(file, host=host, overrides=Overrides()).spec
    for source in spec.data:
        assert isinstance(source, BidsSource)
        contrast = source.contrasts[0] if source.contrasts else "T2w"
        for person in range(1, PEOPLE + 1):
            stem = f"sub-{person:02d}_{contrast}"
            anat = f"sub-{person:02d}/anat"
            for name in (
                f"{anat}/{stem}.nii.gz",
                f"{source.labels}/{anat}/{stem}{source.label_suffix}.nii.gz",
            ):
                target = Path(source.path) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
    if spec.weights is not None and is_file_name(spec.weights):
        Path(spec.weights).hardlink_to(checkpoint)
    return file


def text_of(file: Path, cluster: str, *, host: Host) -> str:
    """The dry run's text, its folder replaced, and what stands in the way of a real submission."""
    job = read_job(file, host=host, overrides=Overrides(cluster=cluster, output=Path("runs")))
    dry = dry_run(job, host=host)
    text = dry.text + "".join(f"\nwarning: {told}\n" for told in dry.warnings)
    if dry.trouble is not None:
        text += f"\nnot yet: {dry.trouble.message}\nhint: {dry.trouble.hint}\n"
    return text.replace(str(host.folder), "/FOLDER")


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("job", JOBS)
def test_a_dry_run_shows_what_it_showed_before(
    job: str,
    cluster: str,
    host: Host,
    golden: Callable[[str, str], None],
    kept: Path,
    demo_checkpoint: Path,
) -> None:
    file = lay_out(job, host, kept=kept, checkpoint=demo_checkpoint)
    text = text_of(file, cluster, host=host)
    assert text_of(file, cluster, host=host) == text
    golden(f"{Path(job).stem}.{cluster}.txt", text)


@pytest.mark.parametrize("job", JOBS)
def test_a_shipped_job_is_valid_and_its_data_are_found(
    job: str, host: Host, kept: Path, demo_checkpoint: Path
) -> None:
    file = lay_out(job, host, kept=kept, checkpoint=demo_checkpoint)
    read = read_job(file, host=host, overrides=Overrides(cluster="local"))
    inputs = find_inputs(read, host=host)
    assert len(inputs.cases.cases) == PEOPLE * len(read.spec.data)


def test_nothing_is_recorded_that_is_not_shipped_any_more() -> None:
    recorded = {file.name for file in (Path(__file__).parent / "recorded").iterdir()}
    assert recorded == {f"{Path(job).stem}.{cluster}.txt" for job in JOBS for cluster in CLUSTERS}
