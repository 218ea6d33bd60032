"""What a rerun starts from: a run folder, or an archive of one (``actions/archived.py``)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from ca_hpc.core import door
from ca_hpc.core.codec import encode
from ca_hpc.core.drift import CONTENT, data_fact, facts, settings
from ca_hpc.core.model import Pin
from ca_hpc.core.profile import Cluster, Model
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.run_record import File, Image, RunRecord
from ca_hpc.core.spec import JobSpec
from ca_hpc.core.splits import Division
from ca_hpc.errors import CaHpcError
from ca_hpc.images.signed_since import signed_since
from ca_hpc.report.run_record import record_file
from ca_hpc.store.archive import TRAINERS, Archive
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.given import SPLITS, TEST_SETS, division_of
from ca_hpc.store.recorded_cases import DAMAGED, recorded_cases, text_of, unreadable
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, read_seals
from ca_hpc.store.sealed_tar import short
from ca_hpc.weights.store import WeightStore

PUT_BACK: Final = "put back what was recorded"


@dataclass(frozen=True, slots=True)
class Original:
    """A run that was, as far as a rerun needs it.

    ``cases``: those that were used; their files go by their sha256. ``former``: the same with the
    places that they had, by id. ``plans``, by arm, and the other texts are as the run wrote them.
    ``weights``, ``image`` and ``trainers``: as a job would name them here. ``folder``: where images
    are that came with it, in ``archive``.
    """

    place: Path
    of: File
    record: RunRecord
    spec: JobSpec
    cluster: Cluster
    model: Model | None
    cases: Cases
    splits: str
    test_sets: str
    plans: Mapping[str, str]
    weights: str | None = None
    image: str | None = None
    trainers: str | None = None
    folder: Path | None = None
    archive: Archive | None = None
    former: Mapping[str, Case] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, str]:
        """Everything that a rerun is compared in."""
        return {
            **facts(self.record),
            **settings_facts(self.spec),
            **data_fact(self.cases),
            **place_facts(self.cluster, self.place),
        }


def settings_facts(spec: JobSpec) -> dict[str, str]:
    """What of a spec decides about results."""
    return settings(json.loads(door.dump(spec)))


def given_facts(plans: Mapping[str, str], *, splits: str, test_sets: str) -> dict[str, str]:
    """Of what a rerun is given, as it is now."""
    return {
        **{f"plans.{arm}": text_sha256(text) for arm, text in plans.items()},
        "splits.folds": text_sha256(splits),
        "splits.test": text_sha256(test_sets),
    }


def image_content_fact(recorded: Image | None, now: Pin | None) -> dict[str, str]:
    """That another file than the recorded image holds the same: it was signed since, no more."""
    if recorded is None or now is None or now.sha256 == recorded.file.sha256:
        return {}
    file, content = recorded.file, recorded.content_sha256
    with contextlib.suppress(OSError):
        if content and signed_since(Path(now.path), sha256=file.sha256, size_bytes=file.size_bytes):
            return {f"image{CONTENT}": content}
    return {}


def place_facts(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Where a run is."""
    partition = cluster.partition or "default"
    return {"cluster": cluster.name, "partition": partition, "folder": str(folder)}


def trainer_facts(folder: str | None) -> dict[str, str]:
    """Of the trainers in a folder, as they are now. Raises OSError."""
    if folder is None:
        return {}
    return {
        f"trainers.{TRAINERS}/{name.as_posix()}": sha256_file(folder / name)
        for name in _below(Path(folder))
    }


def text_sha256(text: str) -> str:
    """Of a text as it is in a file."""
    return sha256(text.encode()).hexdigest()


def of_run(run: RunFolder, record: RunRecord, *, store: WeightStore) -> Original:
    """What is in a run folder; nothing that a link leads to.

    Raises CaHpcError for one that has not come to its plans, or is damaged.
    """
    if not run.file("arms.json").is_file():
        raise CaHpcError(
            f"{run.path} has no plans that a rerun could train by",
            hint=f"it did not come so far: submit its job again, ca-hpc submit {run.path}/job.yaml",
        )
    planned = {arm: run.plans / f"{name}.json" for arm, name in run.arm_plans.items()}
    if missing := sorted(run.spec.arms.keys() - planned.keys()):
        raise CaHpcError(f"{run.path} has no plans of the arm {missing[0]}", hint=DAMAGED)
    divided = run.file(SPLITS), run.file(TEST_SETS)
    _refuse_unsealed(run, (*planned.values(), *divided))
    plans = {arm: text_of(run, file) for arm, file in planned.items()}
    splits, tests = (text_of(run, file) for file in divided)
    try:
        cases = recorded_cases(run)
    except OSError as error:
        raise unreadable(run.file("cases.tsv"), error) from error
    used = {case.id for case in cases.cases}
    division = division_of(splits, tests, place=run.path)
    if (problem := next(misplaced(division, used), None)) is not None:
        raise CaHpcError(f"{run.path} cannot be rerun: {problem}", hint=DAMAGED)
    image, weights = run.workflow.runtime.image, run.pins.weights
    return Original(
        place=run.path,
        of=_named(run, record),
        record=record,
        spec=run.spec,
        cluster=run.cluster,
        model=run.model,
        cases=cases,
        splits=splits,
        test_sets=tests,
        plans=plans,
        weights=None if weights is None else weights_of(Path(weights.path), weights.sha256, store),
        image=None if image is None else _file(Path(image.path), image.sha256),
        trainers=str(run.trainers) if run.trainers.is_dir() else None,
        former={case.id: case for case in run.cases.cases if case.id in used},
    )


def misplaced(division: Division, cases: Collection[str]) -> Iterator[str]:
    """What folds and test sets say of others than the ``cases``, which are ids."""
    placed = {case for fold in division.folds for ids in fold.values() for case in ids}
    placed |= {case for ids in division.tests.values() for case in ids}
    if strange := sorted(placed.difference(cases)):
        yield f"{short(strange[0])} is in the splits, and is no case"


def _named(run: RunFolder, record: RunRecord) -> File:
    """The run, by the file of its record; before that is written, by what would be in it."""
    try:
        return replace(record_file(run), path=run.path.name)
    except OSError:
        text = encode(record)
        return File(run.path.name, text_sha256(text), len(text.encode()))


def _refuse_unsealed(run: RunFolder, files: Iterable[Path]) -> None:
    """Refuse files that are not those that were sealed when they were made. Raises CaHpcError.

    Trainers are sealed at submission, so one without a seal was never the run's. Of splits and
    plans nobody can tell where nothing was sealed. What the sealed ones hold is for others to
    compare.
    """
    trainers = {str(name) for name in _below(run.trainers)}
    groups = [({file.name}, file.parent) for file in files] + [(trainers, run.trainers)]
    for names, folder in groups:
        sealed = {each.path for each in read_seals(folder / SEALS).files}
        if (sealed or folder == run.trainers) and (added := sorted(names - sealed)):
            raise CaHpcError(
                f"{folder / added[0]} is none of the files that were sealed when they were made",
                hint=DAMAGED,
            )
        if folder == run.trainers and (gone := sorted(sealed - names)):
            raise CaHpcError(f"{folder / gone[0]} is gone", hint=PUT_BACK)


def _below(trainers: Path) -> Iterator[Path]:
    """The trainers in a folder, from there."""
    return (file.relative_to(trainers) for file in sorted(trainers.rglob("*.py")))


def _file(path: Path, digest: str) -> str:
    """As a job names an image: the file, or whatever the store has of this digest."""
    return str(path) if path.is_file() else f"sha256:{digest}"


def weights_of(path: Path, digest: str, store: WeightStore) -> str:
    """As a job names weights; those of the store and of an image are known there by digest."""
    entry = store.find(digest)  # by that of their source, too, which are other bytes
    kept = entry is not None and entry.manifest.sha256 == digest
    return f"sha256:{digest}" if kept or not path.is_file() else str(path)
