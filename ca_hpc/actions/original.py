"""What a rerun starts from: a run folder, or an archive of one."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from ca_hpc.core import door
from ca_hpc.core.codec import decode, encode
from ca_hpc.core.drift import data_fact, facts, settings
from ca_hpc.core.profile import Cluster, Model
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.run_record import File, RunRecord
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.store import archive as archives
from ca_hpc.store import pack
from ca_hpc.store.archive import Archive
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.given import PLANS, SPLITS, TEST_SETS, division_of
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, read_seals
from ca_hpc.store.sealed_tar import Member, short
from ca_hpc.weights.store import WeightStore

FOLDER: Final = "archives"  # of a store: what was unpacked, by the archive's sha256
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DAMAGED: Final = "its record is damaged: nothing can be rerun from it"


@dataclass(frozen=True, slots=True)
class Original:
    """A run that was, as far as a rerun needs it.

    ``cases``: those that were used; their files go by their sha256. ``former``: the same with the
    places that they had, by id. ``plans``, by arm, and the other texts are as the run wrote them.
    ``weights``, ``image`` and ``trainers``: as a job would name them here. ``folder``: where images
    are that came with it, in ``archive``. ``sealed``: facts by the digests that files had when they
    were made.
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
    sealed: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, str]:
        """Everything that a rerun is compared in."""
        return {
            **facts(self.record),
            **self.sealed,
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


def place_facts(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Where a run is."""
    partition = cluster.partition or "default"
    return {"cluster": cluster.name, "partition": partition, "folder": str(folder)}


def text_sha256(text: str) -> str:
    """Of a text as it is in a file."""
    return sha256(text.encode()).hexdigest()


def of_run(run: RunFolder, record: RunRecord, *, store: WeightStore) -> Original:
    """What is in a run folder. Raises CaHpcError for one that has not come to its plans."""
    dataset = run.cases.dataset
    try:
        plans = {
            arm: (run.preprocessed / dataset / f"{name}.json").read_text(encoding="utf-8")
            for arm, name in run.arm_plans.items()
        }
        splits, tests = (run.file(name).read_text(encoding="utf-8") for name in (SPLITS, TEST_SETS))
        cases = recorded_cases(run)
    except (OSError, CaHpcError) as error:
        raise CaHpcError(
            f"{run.path} has no plans that a rerun could train by",
            hint=f"it did not come so far: submit its job again, ca-hpc submit {run.path}/job.yaml",
        ) from error
    used = {case.id for case in cases.cases}
    text = encode(record)
    image, weights = run.workflow.runtime.image, run.pins.weights
    return Original(
        place=run.path,
        of=File(run.path.name, text_sha256(text), len(text.encode())),
        record=record,
        spec=run.spec,
        cluster=run.cluster,
        model=run.model,
        cases=cases,
        splits=splits,
        test_sets=tests,
        plans=plans,
        weights=None if weights is None else _weights(Path(weights.path), weights.sha256, store),
        image=None if image is None else _file(Path(image.path), image.sha256),
        trainers=str(run.trainers) if run.trainers.is_dir() else None,
        former={case.id: case for case in run.cases.cases if case.id in used},
        sealed=_sealed(run),
    )


def of_archive(archive: Archive, *, store: WeightStore, cache: DigestCache) -> Original:
    """What is in an archive. Raises CaHpcError.

    All but the image and the wheels is unpacked into ``store``, where the nodes see it.
    """
    folder = store.folder_for(FOLDER).absolute() / archive.sha256
    archive.unpack(filter(_is_unpacked, archive.files), into=folder, cache=cache)
    cache.save()
    given = f"{archives.GIVEN}/"
    has = archive.files.keys()
    try:
        record = decode(RunRecord, archive.text(archives.RECORD))
        model = archive.text(archives.MODEL) if archives.MODEL in has else None
        found = Original(
            place=archive.path,
            of=File(archive.path.name, archive.sha256, archive.path.stat().st_size),
            record=record,
            spec=door.load(JobSpec, archive.text(archives.SPEC)),
            cluster=door.load(Cluster, archive.text(archives.CLUSTER)),
            model=None if model is None else door.load(Model, model),
            cases=decode(Cases, archive.text(archives.CASES)),
            splits=archive.text(given + SPLITS),
            test_sets=archive.text(given + TEST_SETS),
            plans={Path(name).stem: archive.text(name) for name in archive.below(given + PLANS)},
            trainers=str(folder / archives.TRAINERS) if archive.below(archives.TRAINERS) else None,
            folder=folder / archives.IMAGES if archive.below(archives.IMAGES) else None,
            archive=archive,
        )
    except ValueError as error:
        raise CaHpcError(f"{archive.path} cannot be read: {error}", hint=_DAMAGED) from error
    if (problem := next(_problems(found, archive), None)) is not None:
        raise CaHpcError(f"{archive.path} cannot be rerun: {problem}", hint=_DAMAGED)
    if record.weights is not None:
        files = archive.below(archives.WEIGHTS)
        place = folder / files[0] if files else Path()
        found = replace(found, weights=_weights(place, record.weights.sha256, store))
    if record.image is not None:
        found = replace(found, image=f"sha256:{record.image.file.sha256}")
    return found


def _is_unpacked(member: str) -> bool:
    """Wheels are for pip, and the store has images by their sha256."""
    image = member in (archives.IMAGE, archives.IMAGE_RECORD)
    return not (image or member.startswith(f"{archives.WHEELS}/"))


def _problems(found: Original, archive: Archive) -> Iterator[str]:
    """What somebody else's archive must not say: names become parts of paths here."""
    files = {digest: Member(digest, 0, 0) for case in found.cases.cases for digest in case.files}
    yield from pack.problems(pack.Manifest(pack.FORMAT, "", found.cases, files))
    division = division_of(found.splits, found.test_sets, place=found.place)
    for name in division.tests:
        if not _NAME.fullmatch(name):
            yield f"{short(name)} is no name of a test set"
    placed = {case for fold in division.folds for cases in fold.values() for case in cases}
    placed |= {case for cases in division.tests.values() for case in cases}
    if strange := sorted(placed - {case.id for case in found.cases.cases}):
        yield f"{short(strange[0])} is in the splits, and is no case"
    if missing := sorted(found.spec.arms.keys() - found.plans.keys()):
        yield f"it has no plans of the arm {missing[0]}"
    image, recorded = archive.files.get(archives.IMAGE), found.record.image
    if image is not None and (recorded is None or recorded.file.sha256 != image.sha256):
        yield "its image is none that its record names"


def _sealed(run: RunFolder) -> dict[str, str]:
    """Plans and splits as they were when they were made, where that was written down."""
    preprocessed = run.preprocessed / run.cases.dataset
    of_plans, of_splits = (
        {sealed.path: sealed.sha256 for sealed in read_seals(folder / SEALS).files}
        for folder in (preprocessed, run.path)
    )
    found = {f"plans.{arm}": of_plans.get(f"{name}.json") for arm, name in run.arm_plans.items()}
    found |= {"splits.folds": of_splits.get(SPLITS), "splits.test": of_splits.get(TEST_SETS)}
    return {name: digest for name, digest in found.items() if digest}


def _file(path: Path, digest: str) -> str:
    """As a job names an image: the file, or whatever the store has of this digest."""
    return str(path) if path.is_file() else f"sha256:{digest}"


def _weights(path: Path, digest: str, store: WeightStore) -> str:
    """As a job names weights; those of the store and of an image are known there by digest."""
    entry = store.find(digest)  # by that of their source, too, which are other bytes
    kept = entry is not None and entry.manifest.sha256 == digest
    return f"sha256:{digest}" if kept or not path.is_file() else str(path)


def recorded_cases(run: RunFolder) -> Cases:
    """The cases that the run used, whose files go by the sha256 that they had when they were read.

    Raises OSError and CaHpcError.
    """
    with run.file("cases.tsv").open(newline="", encoding="utf-8") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream, dialect="excel-tab")}
    used = [case for case in run.cases.cases if not rows[case.id]["problem"]]
    return replace(run.cases, cases=tuple(_by_content(case, rows[case.id]) for case in used))


def _by_content(case: Case, row: Mapping[str, str]) -> Case:
    pictures, labels = (row[f"{kind}_sha256"].split(",") for kind in ("image", "label"))
    count = len(case.images)
    if len(pictures) != count + len(case.masks) or len(labels) != len(case.labels):
        raise CaHpcError(f"cases.tsv does not tell the digests of {case.id}", hint=_DAMAGED)
    return replace(
        case,
        images=tuple(pictures[:count]),
        masks=tuple(pictures[count:]),
        labels=tuple(
            replace(label, path=digest) for label, digest in zip(case.labels, labels, strict=True)
        ),
        archive=None,
    )
