"""Every job that is shipped, dry-run against every cluster profile that is shipped, to the byte.

A change of what is submitted or started shows as a change of these texts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ca_hpc import processes
from ca_hpc.actions.prepare import Host, Overrides, find_inputs, read_job
from ca_hpc.actions.submit import dry_run
from ca_hpc.core.data_spec import BidsSource, GitSource
from ca_hpc.core.door import read
from ca_hpc.core.spec import JobSpec
from ca_hpc.sources.bids import label_suffixes
from ca_hpc.sources.git import checkout
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
    """A folder with what a user has before the first submission: weights, repositories."""
    folder = tmp_path_factory.mktemp("kept")
    store = WeightStore(folder / "store")
    store_zeros(store, model="contrast-agnostic-v2", work=folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        keep_repositories(folder / "store", work=folder, monkeypatch=monkeypatch)
    return folder


def lay_out(job: str, host: Host, *, kept: Path, checkpoint: Path) -> Path:
    """Copy a shipped job, with the data and weights that it names: of images the names only."""
    folder = host.folder
    file = folder / job
    shutil.copyfile(shipped("jobs", job), file)
    shutil.copytree(kept / "store", host.store, copy_function=os.link)
    spec = read_job(file, host=host, overrides=Overrides()).spec
    for source in spec.data:
        if isinstance(source, BidsSource):
            write_names(Path(source.path), source, spec)
            for listed in (*source.include, *source.exclude):
                Path(listed).write_text("[]\n")
    if spec.weights is not None and is_file_name(spec.weights):
        Path(spec.weights).hardlink_to(checkpoint)
    return file


def write_names(folder: Path, source: BidsSource | GitSource, spec: JobSpec) -> None:
    """The files of a few people, as far as a submission reads them."""
    contrast = source.contrasts[0] if source.contrasts else "T2w"
    session = f"ses-{source.sessions[0]}" if source.sessions else ""
    rows = ["participant_id\tpathology\tdiagnosis"]
    for person in range(1, PEOPLE + 1):
        subject = f"sub-{person:02d}"
        rows.append(f"{subject}\tMS\tMS")
        stem = "_".join(filter(None, (subject, session, contrast)))
        below = Path(subject, session, "anat")
        for name in (
            Path(source.images, below, f"{stem}.nii.gz"),
            *(
                Path(source.labels, below, f"{stem}{suffix}.nii.gz")
                for suffix in label_suffixes(source, spec).values()
            ),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")


def keep_repositories(store: Path, *, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch every repository that a shipped job names, from a stand-in of the same names."""
    for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"):
        monkeypatch.setenv(name, "2025-01-01T00:00:00Z")
    for job in JOBS:
        spec = read(JobSpec, shipped("jobs", job).read_text(), file=job)
        for source in spec.data:
            if not isinstance(source, GitSource):
                continue
            repository = work / "repositories" / (source.name or "repository")
            write_names(repository, source, spec)
            git = (
                "git",
                "-C",
                str(repository),
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@localhost",
            )
            for arguments in (
                ("init", "--quiet"),
                ("add", "."),
                ("commit", "--quiet", "-m", "names"),
                ("tag", source.ref),
            ):
                subprocess.run([*git, *arguments], check=True, capture_output=True)
            monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
            monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{repository}.insteadOf")
            monkeypatch.setenv("GIT_CONFIG_VALUE_0", source.url)
            checkout(source, name="any", store=store, run=processes.run, fetch=True)


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
