"""What an archive tells of a run: built of what is known to name nobody and no place. Pure.

Every field is taken by its name, so that one that is added to a type stays behind until somebody
has decided about it: ``tests/unit/core/test_anonymous.py`` lists those that were decided about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ca_hpc.core.data_spec import PairsSource, SplitFile
from ca_hpc.core.profile import Cluster
from ca_hpc.core.pseudonyms import Pseudonyms
from ca_hpc.core.record import Case, Cases, Origin
from ca_hpc.core.run_record import (
    ArmRecord,
    AttemptRecord,
    File,
    Image,
    Machine,
    Rerun,
    RunRecord,
)
from ca_hpc.core.spec import JobSpec

#: public addresses stay: others can get there too
_PUBLIC: Final = "https://"
_REGISTRY: Final = "oras://"


def anonymous_spec(
    spec: JobSpec,
    *,
    cluster: str,
    sources: Iterable[str],
    cases: str,
    splits: str,
    weights: str | None,
    model: str | None,
    trainers: str | None,
) -> JobSpec:
    """The resolved spec without places: what names the data here names nothing elsewhere.

    ``cluster`` and ``sources``: their names. The others stand for files and folders of this site:
    ``cases`` for the data, ``splits`` for a published division.
    """
    return JobSpec(
        kind=spec.kind,
        name=spec.name,
        cluster=cluster,
        data=tuple(PairsSource(type="pairs", path=cases, name=name) for name in sources),
        weights=weights,
        model=model,
        stem=spec.stem,
        image=None,
        runtime=spec.runtime,
        output=None,
        labels=spec.labels,
        regions=spec.regions,
        mask_channels=spec.mask_channels,
        crop=spec.crop,
        prepare=spec.prepare,
        plans=spec.plans,
        splits=SplitFile(splits) if isinstance(spec.splits, SplitFile) else spec.splits,
        folds=spec.folds,
        arms=spec.arms,
        training=spec.training,
        trainers=trainers,
        validation=spec.validation,
        threads=spec.threads,
        stage=spec.stage,
        retry=spec.retry,
        max_gpu_hours=spec.max_gpu_hours,
        resources={},
    )


def anonymous_cluster(cluster: Cluster) -> Cluster:
    """What a table of drift tells of it."""
    return Cluster(
        name=cluster.name,
        executor=cluster.executor,
        runtime=cluster.runtime,
        partition=cluster.partition,
    )


def anonymous_cases(cases: Cases, new: Pseudonyms | None) -> Cases:
    """The cases, under ``new`` names or their own; their files must go by their content.

    Of what was said about the data only what names nobody and no place of a site.
    """
    return Cases(
        dataset=cases.dataset,
        labels=cases.labels,
        cases=tuple(_case(case, new) for case in cases.cases),
        channel_names=cases.channel_names,
        mask_channels=cases.mask_channels,
        regions=cases.regions,
        origins=tuple(map(_origin, cases.origins)),
        remarks=(),
    )


def _case(case: Case, new: Pseudonyms | None) -> Case:
    named = case if new is None else new.of(case)
    return Case(
        id=named.id,
        source=case.source,
        images=case.images,
        labels=case.labels,
        subject=named.subject,
        person=named.person,
        session=named.session,
        contrast=case.contrast,
        people=case.people,
        masks=case.masks,
        pathology=case.pathology,
        split=case.split,
        archive=None,
    )


def _origin(origin: Origin) -> Origin:
    return Origin(
        source=origin.source,
        url=origin.url if origin.url.startswith(_PUBLIC) else "",
        ref=origin.ref,
        commit=origin.commit,
        sha256=origin.sha256,
    )


def anonymous_record(
    record: RunRecord,
    *,
    spec: File,
    cluster: File,
    splits: File,
    test_sets: File,
    plans: Mapping[str, File],
    results: tuple[File, ...],
    image: str,
    weights: str,
) -> RunRecord:
    """The record of what is in the archive, under the names that it has there; of no node.

    ``plans``, by arm, and the other files are those in it; ``image`` and ``weights`` their names.
    """
    return RunRecord(
        format=record.format,
        name=record.name,
        created=record.created,
        state=record.state,
        host=record.host,
        job=record.job,
        spec=spec,
        cluster=cluster,
        cases=record.cases,
        people=record.people,
        ended=record.ended,
        data=record.data,
        image=None if record.image is None else _image(record.image, name=image),
        weights=None if record.weights is None else _named(record.weights, weights),
        splits=splits,
        test_sets=test_sets,
        trainers=record.trainers,
        arms={
            name: ArmRecord(plans=plans[name], settings=arm.settings, folds=arm.folds)
            for name, arm in record.arms.items()
        },
        attempts=tuple(map(_attempt, record.attempts)),
        results=results,
        warnings=(),
        rerun=None if record.rerun is None else Rerun(record.rerun.of, record.rerun.allowed),
    )


def _image(image: Image, *, name: str) -> Image:
    public = image.reference is not None and image.reference.startswith(_REGISTRY)
    return Image(
        file=_named(image.file, name),
        content_sha256=image.content_sha256,
        recipe_sha256=image.recipe_sha256,
        reference=image.reference if public else None,
        versions=image.versions,
    )


def _attempt(attempt: AttemptRecord) -> AttemptRecord:
    return AttemptRecord(
        task=attempt.task,
        attempt=attempt.attempt,
        started=attempt.started,
        state=attempt.state,
        ended=attempt.ended,
        exit_code=attempt.exit_code,
        failure=attempt.failure,
        machine=None if attempt.machine is None else _machine(attempt.machine),
        software=attempt.software,
    )


def _machine(machine: Machine) -> Machine:
    """What a node is like may decide about bits, what it is called does not."""
    return Machine(
        host="",
        cpu=machine.cpu,
        cpus=machine.cpus,
        memory_mib=machine.memory_mib,
        kernel=machine.kernel,
        gpus=machine.gpus,
    )


def _named(file: File, name: str) -> File:
    return File(name, file.sha256, file.size_bytes)
