"""From a job file to everything that a submission needs, checked, with nothing written."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ca_hpc import configs
from ca_hpc.actions import job_data, job_image
from ca_hpc.actions.image_site import Site, policy_of
from ca_hpc.actions.job_data import JobData, Say, silent
from ca_hpc.actions.job_model import check_patch_of, model_of
from ca_hpc.actions.job_paths import absolute
from ca_hpc.actions.job_weights import JobWeights
from ca_hpc.actions.job_weights import find as find_weights
from ca_hpc.actions.mounts import data_folders, mounts
from ca_hpc.actions.two_sides import refuse_other_version
from ca_hpc.core import checks, door
from ca_hpc.core.expand import expand
from ca_hpc.core.model import Pin, Runtime, Workflow
from ca_hpc.core.profile import Cluster, Model
from ca_hpc.core.record import Cases
from ca_hpc.core.spec import JobSpec, completed
from ca_hpc.core.utf8 import check_utf8
from ca_hpc.errors import CaHpcError, SpecError
from ca_hpc.images.shelf import Shelf
from ca_hpc.sources.git import REPOSITORIES
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.weights import check
from ca_hpc.weights.names import IN_IMAGE, is_digest, is_file_name
from ca_hpc.weights.store import WeightStore

if TYPE_CHECKING:
    from ca_hpc.images.record import ImageInfo


@dataclass(frozen=True, slots=True)
class Host:
    """The submitting machine as values: what is otherwise read from process and environment."""

    folder: Path
    python: str
    cpus: int
    cache: Path
    store: Path  # of weights and images, unless the cluster's profile names one
    nnunet: bool = True  # whether ``python`` has it

    @classmethod
    def here(cls) -> Host:
        """This machine. Raises CaHpcError for a folder whose name no record could hold."""
        # expanduser leaves ~ as it is for a user whom the machine does not know
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
        share = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111
        folder, cache = str(Path.cwd()), f"{cache}/ca-hpc"
        store = os.environ.get("CA_HPC_STORE") or f"{share}/ca-hpc"
        for path in (folder, cache, store):
            check_utf8(path)
        return cls(
            folder=Path(folder),
            python=sys.executable,
            cpus=os.cpu_count() or 1,
            cache=Path(cache),
            store=Path(store),
            nnunet=importlib.util.find_spec("nnunetv2") is not None,
        )


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says over the file."""

    cluster: str | None = None
    output: Path | None = None
    image: str | None = None
    weights: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A checked job. ``spec`` has absolute paths; ``text`` is the file as the user wrote it.

    ``model`` is the profile that the job or its weights name, if they do.
    """

    file: Path
    text: str
    spec: JobSpec
    cluster: Cluster
    model: Model | None
    runs: Path

    @property
    def runtime(self) -> Literal["apptainer", "none"]:
        """The job's own, else the cluster's."""
        return self.spec.runtime or self.cluster.runtime


class Get(Enum):
    """What becomes of inputs that repositories and registries hold."""

    NOTHING = auto()  # what is not here stays where it is
    ALL = auto()
    ALL_TO_KEEP = auto()  # and the store keeps the image for a run to be


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of a job, found, checked and pinned. ``model`` has the network by now.

    Unless the image is in a registry still: it is None then, and so are weights that it may carry.
    """

    data: JobData
    weights: JobWeights | None
    image: Pin | None
    model: Model | None

    @property
    def cases(self) -> Cases:
        """All cases, as found."""
        return self.data.cases

    @property
    def weights_pin(self) -> Pin | None:
        """What the run is pinned to."""
        if self.weights is None:
            return None
        return Pin(self.weights.path, self.weights.manifest.sha256)


def read_job(file: Path, *, host: Host, overrides: Overrides = Overrides()) -> Job:
    """Read a job file and its profiles. Raises SpecError with all problems at once."""
    text = configs.text_of(file)
    spec, document = door.parse(JobSpec, text, file=str(file))
    problems = list(document.problems)
    if spec is not None:
        spec = completed(spec)
        problems += checks.check(spec, document)
    door.refuse(problems, file=str(file))
    assert spec is not None
    base = file.absolute().parent
    given = {k: getattr(overrides, k) for k in ("cluster", "image", "weights")}
    spec = replace(spec, **{k: v for k, v in given.items() if v is not None})
    cluster = configs.cluster(spec.cluster, relative_to=host.folder if overrides.cluster else base)
    if cluster.executor == "local" and cluster.node.cpus is None:
        cluster = replace(cluster, node=replace(cluster.node, cpus=host.cpus))
    named = spec.weights if spec.weights and not _elsewhere(spec.weights) else None
    profile = spec.model or named
    model = configs.model(profile, relative_to=base) if profile is not None else None
    check_patch_of(spec, model)
    spec = absolute(
        spec,
        base=base,
        here=host.folder,
        weights_given=overrides.weights is not None,
        image_given=overrides.image is not None,
    )
    output = overrides.output or spec.output or cluster.folders.runs or "ca-hpc-runs"
    return Job(file, text, spec, cluster, model, (host.folder / output).absolute())


def find_cases(job: Job, *, host: Host, fetch: bool, say: Say = silent) -> JobData:
    """The job's data; with ``fetch`` everything of it is there afterwards. Raises CaHpcError."""
    store = weight_store(job.cluster, host=host).root
    return job_data.find(job.spec, store=store, fetch=fetch, say=say)


def find_inputs(
    job: Job,
    *,
    host: Host,
    get: Get = Get.NOTHING,
    say: Say = silent,
    recorded: JobData | None = None,
) -> Inputs:
    """Find data, weights and image. Raises CaHpcError; one problem of one kind at a time.

    An image that is not got is None, and nothing of it is checked. ``recorded``: the data of a
    rerun, which also takes the weights that the job names where its model has a network by now.
    """
    here = job.cluster.executor == "local" and job.cluster.python is None
    if job.runtime == "none" and here and not host.nnunet:
        raise CaHpcError(
            f"{host.python} has no nnU-Net, and runtime: none runs tasks with it",
            hint='pip install "ca-hpc[nnunet]" into it, or name an image and runtime: apptainer',
        )
    if job.spec.trainers is not None and not Path(job.spec.trainers).is_dir():
        raise CaHpcError(
            f"trainers: {job.spec.trainers} is no folder",
            hint="name the folder that holds the .py files of your trainers",
        )
    data = recorded or find_cases(job, host=host, fetch=get is not Get.NOTHING, say=say)
    cases = data.cases
    _check_crop(job.spec, cases)
    info = _image(job, host=host, get=get, say=say)
    image = Pin(str(info.path), info.sha256) if info is not None else None
    wanted = job.spec.weights if recorded is not None or _needs_weights(job) else None
    weights = None if wanted is None else _weights(wanted, job, info, host=host)
    unseen = weights is None and info is None and job.runtime == "apptainer"
    model = job.model if unseen else model_of(job.spec, job.model, weights)
    if weights is not None and job.spec.pretrained:
        first = cases.cases[0]
        check.check_task(
            weights.manifest,
            job.spec,
            channels=len(first.images) + len(first.masks),
            targets=tuple(cases.targets),
            regions=bool(cases.regions),
        )
    return Inputs(data, weights, image, model)


def workflow(job: Job, inputs: Inputs | None, *, host: Host, run_folder: Path) -> Workflow:
    """Expand the job. What is not there yet, or no ``inputs`` at all, is not pinned (a dry run)."""
    python = job.cluster.python or host.python
    kind = job.runtime
    unpinned = Pin(job.spec.image or "IMAGE", "not-known-yet")
    image = None if kind == "none" else (inputs and inputs.image) or unpinned
    site = job.cluster.apptainer
    return expand(
        job.spec,
        job.cluster,
        run_folder=str(run_folder),
        runtime=Runtime(
            kind=kind,
            python=python if kind == "none" else "python3",
            image=image,
            executable=site.executable,
            arguments=site.arguments,
        ),
        node_python=python,
        mounts=mounts(run_folder=run_folder, read=_read(job, inputs, host=host)),
        test_sets=bool(inputs.data.division.tests) if inputs else job.spec.may_hold_out,
    )


def keep_image(job: Job, inputs: Inputs, *, host: Host, say: Say = silent) -> Inputs:
    """The inputs, whose image the store keeps for the run to be. Raises CaHpcError."""
    if inputs.image is not None:
        site = image_site(job.cluster, host=host)
        job_image.keep(inputs.image, site=site, runs=job.runs, say=say)
    return inputs


def _image(job: Job, *, host: Host, get: Get, say: Say) -> ImageInfo | None:
    if job.runtime == "none":
        return None
    if job.spec.image is None:
        raise SpecError(
            f"cluster {job.cluster.name} runs tasks in an image, but the job names none",
            hint="image: FILE.sif (made by `ca-hpc image build`), NAME (ca-hpc image list) or "
            "oras://HOST/NAME:TAG; or runtime: none",
        )
    found = job_image.find(
        job.spec.image,
        site=image_site(job.cluster, host=host),
        runs=job.runs if get is Get.ALL_TO_KEEP else None,
        fetch=get is not Get.NOTHING,
        say=say,
    )
    if found is not None:
        refuse_other_version(found)
    return found


def _elsewhere(weights: str) -> bool:
    """Whether ``weights`` name no profile."""
    return weights == IN_IMAGE or is_digest(weights) or is_file_name(weights)


def _needs_weights(job: Job) -> bool:
    """Whether an arm starts from them, or has their network, which no profile tells."""
    told = job.model is not None and job.model.network is not None
    return job.spec.pretrained or (
        not told and any(arm.plans == "model" for arm in job.spec.arms.values())
    )


def _weights(wanted: str, job: Job, image: ImageInfo | None, *, host: Host) -> JobWeights | None:
    return find_weights(
        wanted,
        store=weight_store(job.cluster, host=host),
        image=image,
        unseen=image is None and job.runtime == "apptainer",
        cache=host.cache,
        base=job.file.absolute().parent,
        users_store=host.store,
    )


def weight_store(cluster: Cluster | None, *, host: Host) -> WeightStore:
    """The cluster's store, else the user's own."""
    of_cluster = cluster.folders.store if cluster else None
    return WeightStore(Path(of_cluster).expanduser() if of_cluster else host.store)


def image_site(
    cluster: Cluster | None, *, host: Host, store: Path | None = None, keys: Iterable[Path] = ()
) -> Site:
    """Where images are kept, and whose are trusted: as given, else as the cluster's profile says,
    else in the user's own store, whoever made them."""
    named = (cluster.images.store or cluster.folders.store) if cluster else None
    root = store or (Path(named).expanduser() if named else host.store)
    return Site(Shelf(root.absolute()), policy_of(cluster, keys=keys), host.cache)


def _check_crop(spec: JobSpec, cases: Cases) -> None:
    """A raw nnU-Net data set brings labels of its own, which the spec's check has not seen."""
    if spec.crop != "none" and spec.crop.to not in cases.targets:
        raise SpecError(
            f"crop.to: no label {spec.crop.to} in the data; labels: {', '.join(cases.targets)}",
            hint="name the label to cut around, or crop: none",
        )


def _read(job: Job, inputs: Inputs | None, *, host: Host) -> set[str]:
    """What tasks read: the data, the weights, and what the site adds."""
    store = weight_store(job.cluster, host=host).root
    cases = inputs.cases if inputs else None
    read = data_folders(job.spec, cases, repositories=store / REPOSITORIES)
    read |= set(job.cluster.apptainer.binds)
    # weights in the image need no mount: their path does not exist here
    if inputs is not None and inputs.weights is not None and inputs.weights.mounted:
        read |= {inputs.weights.path, os.path.realpath(inputs.weights.path)}
    return read


def next_run_folder(job: Job) -> Path:
    """The folder that a submission would make now."""
    return RunFolder.next_path(job.runs, job.spec.name)
