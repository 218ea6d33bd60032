"""Rerun: a new run from the record of an old one, with the same inputs, or a refusal that tells."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from ca_hpc import __version__, configs
from ca_hpc.actions import submit as submission
from ca_hpc.actions.archived import of_archive
from ca_hpc.actions.image_pull import unpack
from ca_hpc.actions.job_data import JobData, Say, silent
from ca_hpc.actions.job_paths import absolute_image, absolute_weights
from ca_hpc.actions.original import (
    Original,
    given_facts,
    image_content_fact,
    of_run,
    place_facts,
    settings_facts,
    trainer_facts,
)
from ca_hpc.actions.prepare import (
    Get,
    Host,
    Inputs,
    Job,
    Overrides,
    find_inputs,
    image_site,
    keep_image,
    next_run_folder,
    weight_store,
)
from ca_hpc.actions.relocate import holding, relocate
from ca_hpc.core import door
from ca_hpc.core.data_spec import PairsSource
from ca_hpc.core.drift import NONE, SOFTWARE, data_fact, drift, drifted, refuse
from ca_hpc.core.profile import Cluster
from ca_hpc.core.record import Cases
from ca_hpc.core.run_record import Rerun, Row
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import SpecError
from ca_hpc.images.signatures import UntrustedImage
from ca_hpc.report.run_record import compose
from ca_hpc.store.archive import IMAGE, Archive
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.given import Given
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.software import installed

_MOST_TOLD: Final = 5


@dataclass(frozen=True, slots=True)
class Planned:
    """A rerun, checked: its job and inputs, what it is given, and how it compares to what was."""

    job: Job
    inputs: Inputs
    given: Given
    rows: tuple[Row, ...]


def plan(
    source: Path,
    *,
    host: Host,
    overrides: Overrides,
    data: Sequence[Path] = (),
    say: Say = silent,
) -> Planned:
    """Plan a rerun of a run folder or an archive. Raises CaHpcError.

    ``overrides``: another cluster, other files by which the same image or weights go here.
    ``data``: folders and packs in which the images are, if not where they were; they are known by
    their content. Writes nothing but what an archive brings along, into the store.
    """
    cache = DigestCache(host.cache / "digests.json")
    own = None if overrides.cluster is None else _cluster(overrides.cluster, host=host)
    was = _original(source, own, host=host, cache=cache)
    places = data if was.folder is None else (*data, was.folder)
    holdings = [holding(place, cache=cache) for place in places]
    found = relocate(was.cases, holdings, former=was.former, cache=cache)
    for text in found.changed[:_MOST_TOLD]:
        say(text)
    job = _job(was, own, host=host, overrides=overrides, moved=bool(holdings))
    if was.archive is not None and job.runtime == "apptainer" and overrides.image is None:
        _unpack_image(was.archive, job.cluster, host=host, say=say)
    given = Given(was.splits, was.test_sets, was.plans, Rerun(was.of))
    known = JobData(found.cases, given.division)
    inputs = find_inputs(job, host=host, get=Get.ALL, say=say, recorded=known)
    now = _now(job, inputs, given, host=host, by_content=found.by_content)
    rows = drift(was.facts, now | image_content_fact(was.record.image, inputs.image))
    return Planned(job, inputs, given, rows)


def rerun(
    planned: Planned,
    *,
    host: Host,
    allowed: Collection[str] = (),
    token: str,
    now: datetime,
    warn: Callable[[str], None],
    say: Say = silent,
) -> RunFolder:
    """Submit what was planned. Raises CaHpcError, DigestMismatch for a drift that is not allowed.

    What was allowed is written into the new run's record, where it made a difference.
    """
    refuse(planned.rows, allowed=allowed)
    used = sorted({row.aspect.partition(".")[0] for row in drifted(planned.rows)})
    record = replace(planned.given.rerun, allowed=tuple(used), drift=planned.rows)
    return submission.submit(
        planned.job,
        host=host,
        token=token,
        now=now,
        warn=warn,
        say=say,
        inputs=lambda: keep_image(planned.job, planned.inputs, host=host, say=say),
        given=replace(planned.given, rerun=record),
    )


def _original(source: Path, cluster: Cluster | None, *, host: Host, cache: DigestCache) -> Original:
    if source.is_file():
        if cluster is None:
            raise SpecError(
                f"{source} is an archive: where is it to run?", hint="--cluster NAME-OR-FILE.yaml"
            )
        archive = Archive.open(source.absolute())
        return of_archive(archive, store=weight_store(cluster, host=host), cache=cache)
    run = RunFolder.open(source)
    return of_run(run, compose(run), store=weight_store(cluster or run.cluster, host=host))


def _unpack_image(archive: Archive, cluster: Cluster, *, host: Host, say: Say) -> None:
    """Raises UntrustedImage with what to do about it: the archive stays as it is."""
    try:
        unpack(archive, site=image_site(cluster, host=host), say=say)
    except UntrustedImage as error:
        raise UntrustedImage(
            f"in {archive.path}",
            error.why,
            hint=f"tar -xf {shlex.quote(str(archive.path))} {IMAGE}; if you trust it, sign it: "
            f"apptainer sign --key PRIVATE.pem {IMAGE}; then rerun with --image ./{IMAGE}",
        ) from error


def _job(
    was: Original, cluster: Cluster | None, *, host: Host, overrides: Overrides, moved: bool
) -> Job:
    """The recorded job, here. What it asks of a cluster holds on that cluster alone."""
    chosen = cluster or was.cluster
    spec = replace(
        _as_used(was),
        cluster=chosen.name,
        output=None,
        image=absolute_image(overrides.image, host.folder) or was.image,
        weights=absolute_weights(overrides.weights, host.folder) or was.weights,
        trainers=was.trainers,
        resources={} if cluster else was.spec.resources,
        data=_sources(was.cases) if moved else was.spec.data,
    )
    own = was.place.parent if cluster is None else None
    output = overrides.output or own or chosen.folders.runs or "ca-hpc-runs"
    return Job(
        file=was.place,
        text=f"# a rerun of {was.place.name}, sha256:{was.of.sha256}\n{door.dump(spec)}",
        spec=spec,
        cluster=chosen,
        model=was.model,
        runs=(host.folder / output).absolute(),
    )


def _as_used(was: Original) -> JobSpec:
    """The spec with the numbers that trainings took from where they ran."""
    settings = [arm.settings for arm in was.record.arms.values() if arm.settings is not None]
    threads = {one.threads for one in settings if one.threads is not None}
    workers = {one.workers for one in settings if one.workers is not None}
    spec = was.spec
    if len(threads) == 1:
        spec = replace(spec, threads=threads.pop())
    if len(workers) == 1:
        spec = replace(spec, training=replace(spec.training, workers=workers.pop()))
    return spec


def _sources(cases: Cases) -> tuple[PairsSource, ...]:
    """The sources by their names: what else was said of them has been done."""
    names = dict.fromkeys(case.source for case in cases.cases)
    return tuple(PairsSource(type="pairs", path="cases.json", name=name) for name in names)


def _cluster(name: str, *, host: Host) -> Cluster:
    found = configs.cluster(name, relative_to=host.folder)
    if found.executor == "local" and found.node.cpus is None:
        return replace(found, node=replace(found.node, cpus=host.cpus))
    return found


def _now(
    job: Job, inputs: Inputs, given: Given, *, host: Host, by_content: Cases
) -> dict[str, str]:
    """The facts that are known before anything has run."""
    spec, weights = job.spec, inputs.weights_pin
    found = {
        "image": NONE if inputs.image is None else inputs.image.sha256,
        "weights": NONE if weights is None else weights.sha256,
        **given_facts(given.plans, splits=given.splits, test_sets=given.test_sets),
        "threads": _number(spec.threads),
        "workers": _number(spec.training.workers),
        **trainer_facts(spec.trainers),
        "ca-hpc": __version__,
        **_software(job, host=host),
        **settings_facts(spec),
        **data_fact(by_content),
        **place_facts(job.cluster, next_run_folder(job)),
    }
    return {name: fact for name, fact in found.items() if fact}


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _software(job: Job, *, host: Host) -> Mapping[str, str]:
    """Of this Python, where tasks run with it and in no image; of others nobody knows it yet."""
    if job.runtime != "none" or (job.cluster.python or host.python) != host.python:
        return {}
    versions = installed().versions
    return {f"software.{name}": versions.get(name, "") for name in SOFTWARE}
