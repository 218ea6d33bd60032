"""A run as a Workflow Run RO-Crate: ``ro-crate-metadata.json``, of its record alone. Pure.

Profile Provenance Run Crate 0.5 on RO-Crate 1.1 (https://www.researchobject.org/workflow-run-crate).
Version 0.6 of the profiles is on RO-Crate 1.3, which has renamed terms; what reads and checks
crates today knows 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from ca_hpc.core.model import prediction_id, training_id
from ca_hpc.core.run_record import AttemptRecord, File, Image, RunRecord

Entity = dict[str, Any]

METADATA: Final = "ro-crate-metadata.json"
# https://bioschemas.org/profiles/ComputationalWorkflow
_BIOSCHEMAS: Final = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
LICENCE: Final = "No licence was given: ask whoever has made this run."
_CRATE: Final = "https://w3id.org/ro/crate/1.1"
_WORKFLOW_CRATE: Final = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
_PROFILES: Final[Mapping[str, str]] = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    _WORKFLOW_CRATE: "Workflow RO-Crate",
}
# spelled out one by one: the profiles' own context would be a second thing to fetch
_TERMS: Final = "https://w3id.org/ro/terms/workflow-run#"
_USED_TERMS: Final = ("ContainerImage", "containerImage", "registry", "tag", "sha256")
_ORAS: Final = "oras://"
_STATUS: Final[Mapping[str, str]] = {
    "COMPLETED": "http://schema.org/CompletedActionStatus",
    "PENDING": "http://schema.org/PotentialActionStatus",
    "RUNNING": "http://schema.org/ActiveActionStatus",
}
_FAILED: Final = "http://schema.org/FailedActionStatus"
_FORMATS: Final[Mapping[str, str]] = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".py": "text/x-python",
    ".yaml": "text/yaml",
}


@dataclass(frozen=True, slots=True)
class _Task:
    """A task that has ended. ``step``: its kind; ``inputs`` and ``outputs`` are files' ids."""

    id: str
    step: str
    last: AttemptRecord
    started: str
    attempts: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def crate(record: RunRecord, *, own: File) -> Entity:
    """The JSON-LD document. ``own``: the file of the record itself.

    Files are those of the run folder, which is the crate; image and weights are named by their
    digests. The same record gives the same document: no time of its own, no random ids.
    """
    tasks = tuple(_tasks(record))
    graph = [
        *_descriptors(record, tasks, own=own),
        *_workflow(record, tasks),
        *(_file(file) for file in _unique((own, *_files(record)))),
        *_elsewhere(record),
        *_steps(record, tasks),
        *_actions(record, tasks),
    ]
    context = {term: _TERMS + term for term in _USED_TERMS}
    return {"@context": [f"{_CRATE}/context", context], "@graph": graph}


# --- entities ----------------------------------------------------------------------------------


def _entity(identifier: str, kind: str | Sequence[str], **properties: Any) -> Entity:
    """Without what is None or empty."""
    told = {name: value for name, value in properties.items() if value not in (None, [], "")}
    return {"@id": identifier, "@type": kind if isinstance(kind, str) else list(kind), **told}


def _ref(identifiers: str | Iterable[str]) -> Any:
    """References. RO-Crate 1.1: a single value should be no list."""
    if isinstance(identifiers, str):
        return {"@id": identifiers}
    found = [{"@id": identifier} for identifier in dict.fromkeys(identifiers)]
    return found[0] if len(found) == 1 else found


def _id(file: File) -> str:
    """A path in the run folder is its own id; what lies elsewhere has none but its digest."""
    return f"#sha256-{file.sha256}" if file.path.startswith("/") else quote(file.path)


def _descriptors(record: RunRecord, tasks: Sequence[_Task], *, own: File) -> Iterator[Entity]:
    parts = [_id(record.job), *(_id(file) for file in (own, *_files(record)))]
    yield _entity(
        METADATA, "CreativeWork", about=_ref("./"), conformsTo=_ref([_CRATE, _WORKFLOW_CRATE])
    )
    yield _entity(
        "./", "Dataset", name=record.name, description=_said(record), license=_ref("#licence"),
        datePublished=record.ended or record.created, conformsTo=_ref(_PROFILES),
        mainEntity=_ref(_id(record.job)), hasPart=_ref(parts),
        mentions=_ref(["#run", *(f"#task-{task.id}" for task in tasks)]),
    )  # fmt: skip
    yield _entity("#licence", "CreativeWork", name="licence", description=LICENCE)
    for uri, name in _PROFILES.items():
        yield _entity(uri, "CreativeWork", name=name, version=uri.rsplit("/", 1)[1])


def _said(record: RunRecord) -> str:
    folds = sum(len(arm.folds) for arm in record.arms.values())
    return (
        f"Training of segmentation networks by ca-hpc {record.host.versions['ca-hpc']}: "
        f"{_counted(record.cases, 'image', 'images')} of "
        f"{_counted(record.people, 'person', 'people')}, "
        f"{_counted(folds, 'trained fold', 'trained folds')}, state {record.state}"
    )


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _workflow(record: RunRecord, tasks: Sequence[_Task]) -> Iterator[Entity]:
    steps = list(dict.fromkeys(task.step for task in tasks))
    yield _entity("#job-yaml", "ComputerLanguage", name="ca-hpc job")
    yield _entity(
        _id(record.job), ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        name=record.job.path, sha256=record.job.sha256, contentSize=str(record.job.size_bytes),
        encodingFormat=_FORMATS[".yaml"], conformsTo=_ref(_BIOSCHEMAS),
        version=record.host.versions["ca-hpc"],
        programmingLanguage=_ref("#job-yaml"), hasPart=_ref(f"#{step}" for step in steps),
        step=_ref(f"#step-{step}" for step in steps),
    )  # fmt: skip
    yield _entity(_BIOSCHEMAS, "CreativeWork", name="Bioschemas ComputationalWorkflow")


def _file(file: File) -> Entity:
    path = PurePosixPath(file.path)
    return _entity(
        _id(file), "File", name=path.name, sha256=file.sha256, contentSize=str(file.size_bytes),
        encodingFormat=_FORMATS.get(path.suffix, "application/octet-stream"),
    )  # fmt: skip


def _elsewhere(record: RunRecord) -> Iterator[Entity]:
    if record.image is not None:
        image = record.image
        registry, name = _address(image)
        yield _entity(
            _image_id(image), "ContainerImage", name=name, sha256=image.file.sha256,
            additionalType=_ref(_TERMS + "SIFImage"), registry=registry,
            tag=f"sha256-{image.file.sha256}",  # as in images/registry.py
        )  # fmt: skip
    if record.weights is not None and record.weights.path.startswith("/"):
        name = f"weights sha256:{record.weights.sha256}"
        yield _entity(_id(record.weights), "CreativeWork", name=name, sha256=record.weights.sha256)


def _address(image: Image) -> tuple[str | None, str]:
    """Its registry, and its name there; else that of its file."""
    if image.reference is None or not image.reference.startswith(_ORAS):
        return None, PurePosixPath(image.file.path).name
    host, _, name = image.reference.removeprefix(_ORAS).partition("/")
    return host, name.partition("@")[0].partition(":")[0]


def _image_id(image: Image) -> str:
    return f"#image-{image.file.sha256}"


def _steps(record: RunRecord, tasks: Sequence[_Task]) -> Iterator[Entity]:
    version = record.host.versions["ca-hpc"]
    for position, step in enumerate(dict.fromkeys(task.step for task in tasks)):
        name = f"ca-hpc {step}"
        yield _entity(f"#{step}", "SoftwareApplication", name=name, softwareVersion=version)
        yield _entity(
            f"#step-{step}", "HowToStep", position=str(position), workExample=_ref(f"#{step}")
        )
    yield _entity("#ca-hpc", "SoftwareApplication", name="ca-hpc", softwareVersion=version)


def _actions(record: RunRecord, tasks: Sequence[_Task]) -> Iterator[Entity]:
    image = _ref(_image_id(record.image)) if record.image else None
    given = (record.data, record.weights)
    yield _entity(
        "#run", "CreateAction", name=f"run {record.name}", description=_said(record),
        instrument=_ref(_id(record.job)),
        containerImage=image, startTime=record.created, endTime=record.ended,
        actionStatus=_STATUS.get(record.state, _FAILED),
        object=_ref(_id(file) for file in given if file),
        result=_ref([*_checkpoints(record), *(_id(file) for file in record.results)]),
    )  # fmt: skip
    for task in tasks:
        last = task.last
        yield _entity(
            f"#task-{task.id}", "CreateAction", name=task.id, instrument=_ref(f"#{task.step}"),
            description=f"attempts: {task.attempts}", containerImage=image,
            startTime=task.started, endTime=last.ended,
            actionStatus=_STATUS.get(last.state, _FAILED), error=last.failure,
            object=_ref(task.inputs), result=_ref(task.outputs),
        )  # fmt: skip
        yield _entity(
            f"#control-{task.id}", "ControlAction", name=f"start of {task.id}",
            instrument=_ref(f"#step-{task.step}"), object=_ref(f"#task-{task.id}"),
        )  # fmt: skip
    yield _entity(
        "#orchestration", "OrganizeAction", name="submission", instrument=_ref("#ca-hpc"),
        object=_ref(f"#control-{task.id}" for task in tasks), result=_ref("#run"),
    )  # fmt: skip


# --- from the record ---------------------------------------------------------------------------


def _files(record: RunRecord) -> tuple[File, ...]:
    """All files in the run folder but the job and the record themselves."""
    named = (
        record.spec, record.cluster, record.data, record.splits, record.test_sets, record.weights,
        *record.trainers, *(arm.plans for arm in record.arms.values()),
        *(fold.checkpoint for arm in record.arms.values() for fold in arm.folds.values()),
        *record.results,
    )  # fmt: skip
    return _unique(file for file in named if file is not None and not file.path.startswith("/"))


def _unique(files: Iterable[File]) -> tuple[File, ...]:
    """Arms may share their plans."""
    return tuple({file.path: file for file in files}.values())


def _checkpoints(record: RunRecord) -> tuple[str, ...]:
    arms = record.arms.values()
    return tuple(_id(fold.checkpoint) for arm in arms for fold in arm.folds.values())


def _tasks(record: RunRecord) -> Iterator[_Task]:
    """Those that have ended, as their last attempt did."""
    files = dict(_of_tasks(record))
    by_task: dict[str, list[AttemptRecord]] = {}
    for attempt in record.attempts:
        by_task.setdefault(attempt.task, []).append(attempt)
    for name, attempts in by_task.items():
        ended = [attempt for attempt in attempts if attempt.ended]
        if ended:
            inputs, outputs = files.get(name, ((), ()))
            yield _Task(
                id=name,
                step=name.split("-")[0],
                last=ended[-1],
                started=attempts[0].started,
                attempts=len(attempts),
                inputs=_ids(inputs),
                outputs=_ids(outputs),
            )


_Files = tuple[File | None, ...]


def _of_tasks(record: RunRecord) -> Iterator[tuple[str, tuple[_Files, _Files]]]:
    """What tasks read and wrote, as far as the record has it."""
    trained: _Files = tuple(f.checkpoint for a in record.arms.values() for f in a.folds.values())
    plans: _Files = tuple(arm.plans for arm in record.arms.values())
    results = {file.path: file for file in record.results}
    reported: _Files = tuple(map(results.get, ("report.html", "evaluation/comparison.json")))
    scores: _Files = tuple(
        file
        for path, file in results.items()
        if path.startswith("evaluation/") and file not in reported
    )
    yield "assemble", ((record.data,), (record.splits, record.test_sets, results.get("data.html")))
    yield "preprocess", ((record.splits,), plans)
    yield "evaluate", (trained, scores)
    yield "report", (scores, reported)
    for name, arm in record.arms.items():
        for number, fold in arm.folds.items():
            if number.isdigit():
                random = arm.settings is not None and arm.settings.weights == "random"
                weights = None if random else record.weights
                read = (arm.plans, record.splits, weights, *record.trainers)
                own_scores = PurePosixPath(fold.checkpoint.path).parent / "validation/summary.json"
                made = (fold.checkpoint, results.get(str(own_scores)))
                yield training_id(name, int(number)), (read, made)
        own: _Files = tuple(fold.checkpoint for fold in arm.folds.values())
        yield prediction_id(name), ((record.test_sets, *own), ())


def _ids(files: _Files) -> tuple[str, ...]:
    return tuple(_id(file) for file in files if file is not None)
