"""What a rerun starts from, out of an archive, which may be of somebody else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ca_hpc.actions.original import Original, misplaced, weights_of
from ca_hpc.core import door
from ca_hpc.core.codec import decode
from ca_hpc.core.profile import Cluster, Model
from ca_hpc.core.record import Cases
from ca_hpc.core.run_record import File, RunRecord
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.sources.pack import case_problems
from ca_hpc.store import archive as archives
from ca_hpc.store import pack
from ca_hpc.store.archive import Archive
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.given import PLANS, SPLITS, TEST_SETS, division_of
from ca_hpc.store.recorded_cases import DAMAGED, unreadable
from ca_hpc.store.sealed_tar import Member, short
from ca_hpc.store.shared import folder_of
from ca_hpc.weights.store import WeightStore

FOLDER: Final = "archives"  # of a store: what was unpacked, by the archive's sha256
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
        raise unreadable(archive.path, error) from error
    if (problem := next(_problems(found, archive), None)) is not None:
        raise CaHpcError(f"{archive.path} cannot be rerun: {problem}", hint=DAMAGED)
    if record.weights is not None:
        files = archive.below(archives.WEIGHTS)
        place = folder / files[0] if files else Path()
        found = replace(found, weights=weights_of(place, record.weights.sha256, store))
    if record.image is not None:
        found = replace(found, image=f"sha256:{record.image.file.sha256}")
    return found


def data_problems(cases: Cases) -> Iterator[str]:
    """What cases must not say where they are used; their files go by their content."""
    files = {digest: Member(digest, 0, 0) for case in cases.cases for digest in case.files}
    yield from pack.problems(pack.Manifest(pack.FORMAT, "", cases, files))
    yield from case_problems(cases)


def _is_unpacked(member: str) -> bool:
    """Wheels are for pip, and the store has images by their sha256."""
    image = member in (archives.IMAGE, archives.IMAGE_RECORD)
    return not (image or member.startswith(f"{archives.WHEELS}/"))


def _problems(found: Original, archive: Archive) -> Iterator[str]:
    """What somebody else's archive must not say: names become parts of paths here."""
    yield from data_problems(found.cases)
    division = division_of(found.splits, found.test_sets, place=found.place)
    for name in division.tests:
        if not _NAME.fullmatch(name):
            yield f"{short(name)} is no name of a test set"
    yield from misplaced(division, {case.id for case in found.cases.cases})
    if missing := sorted(found.spec.arms.keys() - found.plans.keys()):
        yield f"it has no plans of the arm {missing[0]}"
    image, recorded = archive.files.get(archives.IMAGE), found.record.image
    if image is not None and (recorded is None or recorded.file.sha256 != image.sha256):
        yield "its image is none that its record names"
