"""What a rerun starts from: a run folder, or an archive of one."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from ca_hpc.core import door
from ca_hpc.core.codec import decode, encode
from ca_hpc.core.drift import CONTENT, data_fact, facts, settings
from ca_hpc.core.model import Pin
from ca_hpc.core.profile import Cluster, Model
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.run_record import File, Image, RunRecord
from ca_hpc.core.spec import JobSpec
from ca_hpc.core.splits import Division
from ca_hpc.errors import CaHpcError
from ca_hpc.images.signed_since import signed_since
from ca_hpc.store import archive as archives
from ca_hpc.store import pack
from ca_hpc.store.archive import Archive
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.given import PLANS, SPLITS, TEST_SETS, division_of
from ca_hpc.store.run_folder import RunFolder, inside
from ca_hpc.store.seal import SEALS, read_seals
from ca_hpc.store.sealed_tar import Member, short
from ca_hpc.store.shared import folder_of
from ca_hpc.weights.store import WeightStore

FOLDER: Final = "archives"  # of a store: what was unpacked, by the archive's sha256
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
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
    folder = run.preprocessed / run.cases.dataset
    plans = {arm: text_of(run, folder / f"{name}.json") for arm, name in run.arm_plans.items()}
    splits, tests = (text_of(run, run.file(name)) for name in (SPLITS, TEST_SETS))
    try:
        cases = recorded_cases(run)
    except OSError as error:
        raise _unreadable(run.file("cases.tsv"), error) from error
    used = {case.id for case in cases.cases}
    division = division_of(splits, tests, place=run.path)
    if (problem := next(_misplaced(division, used), None)) is not None:
        raise CaHpcError(f"{run.path} cannot be rerun: {problem}", hint=_DAMAGED)
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
    folder = folder_of(store.root, FOLDER).absolute() / archive.sha256
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


def text_of(run: RunFolder, file: Path) -> str:
    """A text of the run's own. Raises CaHpcError."""
    try:
        return inside(run.path, file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CaHpcError:
    reason = error.strerror if isinstance(error, OSError) else error
    return CaHpcError(f"{file} cannot be read: {reason}", hint=_DAMAGED)


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
    yield from _misplaced(division, {case.id for case in found.cases.cases})
    if missing := sorted(found.spec.arms.keys() - found.plans.keys()):
        yield f"it has no plans of the arm {missing[0]}"
    image, recorded = archive.files.get(archives.IMAGE), found.record.image
    if image is not None and (recorded is None or recorded.file.sha256 != image.sha256):
        yield "its image is none that its record names"


def _misplaced(division: Division, cases: Collection[str]) -> Iterator[str]:
    placed = {case for fold in division.folds for ids in fold.values() for case in ids}
    placed |= {case for ids in division.tests.values() for case in ids}
    if strange := sorted(placed.difference(cases)):
        yield f"{short(strange[0])} is in the splits, and is no case"


def _sealed(run: RunFolder) -> dict[str, str]:
    """Plans and splits as they were when they were made, where that was written down.

    Raises CaHpcError where that was written down of others than these.
    """
    preprocessed = run.preprocessed / run.cases.dataset
    files = {f"plans.{arm}": preprocessed / f"{name}.json" for arm, name in run.arm_plans.items()}
    files |= {"splits.folds": run.file(SPLITS), "splits.test": run.file(TEST_SETS)}
    digests = {
        folder / sealed.path: sealed.sha256
        for folder in (preprocessed, run.path)
        for sealed in read_seals(folder / SEALS).files
    }
    for file in files.values():
        beside = any(sealed.parent == file.parent for sealed in digests)
        if beside and file not in digests:
            raise CaHpcError(
                f"{file} is none of the files that were sealed when they were made", hint=_DAMAGED
            )
    return {name: digests[file] for name, file in files.items() if file in digests}


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

    Raises OSError, and CaHpcError where it is damaged.
    """
    file = inside(run.path, run.file("cases.tsv"))
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = {row.get("case"): row for row in csv.DictReader(stream, dialect="excel-tab")}
        told = [(case, rows.get(case.id, {})) for case in run.cases.cases]
        used = [_by_content(case, row) for case, row in told if not _cell(case, row, "problem")]
    except (ValueError, csv.Error) as error:
        raise _unreadable(file, error) from error
    return replace(run.cases, cases=tuple(used))


def _cell(case: Case, row: Mapping[str, str | None], column: str) -> str:
    """Raises ValueError for a table that was cut off."""
    if (value := row.get(column)) is None:
        raise ValueError(f"it does not tell {column} of {case.id}")
    return value


def _by_content(case: Case, row: Mapping[str, str | None]) -> Case:
    pictures, labels = (
        _cell(case, row, f"{kind}_sha256").split(",") for kind in ("image", "label")
    )
    count = len(case.images)
    counted = len(pictures) == count + len(case.masks) and len(labels) == len(case.labels)
    if not counted or not all(map(_DIGEST.fullmatch, (*pictures, *labels))):
        raise ValueError(f"it does not tell the digests of {case.id}")
    return replace(
        case,
        images=tuple(pictures[:count]),
        masks=tuple(pictures[count:]),
        labels=tuple(
            replace(label, path=digest) for label, digest in zip(case.labels, labels, strict=True)
        ),
        archive=None,
    )
