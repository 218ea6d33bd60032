"""The data of a job before there is a run: fetched, packed, looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ca_hpc import __version__
from ca_hpc.actions import prepare
from ca_hpc.actions.job_data import Say
from ca_hpc.actions.prepare import Host
from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.sources.pack import check_cases
from ca_hpc.store.pack import Pack, Progress
from ca_hpc.store.pack_writer import check_target, write_pack

if TYPE_CHECKING:
    from ca_hpc.core.spec import JobSpec
    from ca_hpc.imaging.conversion import Conversion
    from ca_hpc.imaging.prepared import Record


@dataclass(frozen=True, slots=True)
class Packed:
    """A pack that was written."""

    file: Path
    sha256: str
    bytes: int
    cases: int
    files: int


@dataclass(frozen=True, slots=True)
class Looked:
    """What reading all images told. ``problems``: a line each; ``left_out``: allowed, not used.

    ``empty``: how many images that can be used have nothing of a label. ``damaged``: how many of
    the problems are files of a pack that are not the ones that its manifest tells of.
    """

    cases: int
    problems: tuple[str, ...]
    left_out: tuple[str, ...]
    empty: Mapping[str, int]
    damaged: int


def fetch(job_file: Path, *, host: Host, say: Say) -> Cases:
    """Get everything that the job's data need and the network has. Raises CaHpcError."""
    job = prepare.read_job(job_file, host=host)
    return prepare.find_cases(job, host=host, fetch=True, say=say).cases


def pack(job_file: Path, target: Path, *, host: Host, say: Say, progress: Progress) -> Packed:
    """Write the job's data, fetched before, as a pack; whole or not at all. Raises CaHpcError."""
    target = target.absolute()
    job = prepare.read_job(job_file, host=host)
    check_target(target)  # before hours of fetching
    _check_no_input(target, job.spec)
    cases = prepare.find_cases(job, host=host, fetch=True, say=say).cases
    check_cases(cases)
    sha256 = write_pack(cases, target, ca_hpc=__version__, progress=progress)
    files = len(Pack.open(target).files)
    return Packed(target, sha256, target.stat().st_size, cases=len(cases.cases), files=files)


def _check_no_input(target: Path, spec: JobSpec) -> None:
    packs = [Path(source.path) for source in spec.data if source.type == "pack"]
    if target.exists() and any(pack.exists() and target.samefile(pack) for pack in packs):
        raise CaHpcError(
            f"{target} is what the job reads, and would be overwritten",
            hint="name a new file: -o study.tar",
        )


def verify(file: Path, *, progress: Progress) -> Pack:
    """Read a pack to its end. Raises DigestMismatch where a byte differs, and CaHpcError."""
    found = Pack.open(file)
    check_cases(found.cases)
    found.verify(progress)
    return found


def check(
    job_file: Path, *, host: Host, workers: int, say: Say, progress: Callable[[int, int], None]
) -> Looked:
    """Convert every case as the stage prepare would, and keep nothing. Raises CaHpcError.

    What is not fetched yet is fetched. ``progress``: told the cases that are done, and all.
    """
    from ca_hpc.imaging.conversion import conversion_of
    from ca_hpc.imaging.pool import in_pool
    from ca_hpc.imaging.verdicts import verdicts

    job = prepare.read_job(job_file, host=host)
    cases = prepare.find_cases(job, host=host, fetch=True, say=say).cases
    conversion = conversion_of(job.spec, cases)
    with tempfile.TemporaryDirectory(prefix="ca-hpc-check-") as folder:
        work = partial(_tried, conversion=conversion, folder=Path(folder))
        records: dict[str, Record] = {}
        damaged = 0
        found = in_pool(work, cases.cases, workers=workers, hint="fewer at once: --workers 1")
        for case, (record, whole) in zip(cases.cases, found, strict=True):
            records[case.id] = record
            damaged += not whole
            progress(len(records), len(cases.cases))
    judged = verdicts(cases.cases, records)
    used = [records[case.id].converted for case in cases.cases if case.id not in judged.unused]
    voxels = [each.label_voxels for each in used if each is not None]
    counts = {name: sum(not each[name] for each in voxels) for name in cases.targets}
    return Looked(
        len(cases.cases),
        tuple(judged.problems.values()),
        tuple(judged.left_out.values()),
        {name: count for name, count in counts.items() if count},
        damaged,
    )


def _tried(case: Case, conversion: Conversion, folder: Path) -> tuple[Record, bool]:
    """What would become of a case, whose files are removed at once; whether its digests agree."""
    from ca_hpc.imaging.prepared import PreparedFolder, Record, inputs, settings_digest

    with tempfile.TemporaryDirectory(dir=folder) as own:
        prepared = PreparedFolder(Path(own) / "prepared")
        prepared.create()
        drafts = Path(own) / "drafts"
        drafts.mkdir()
        try:
            prepared.prepare(case, conversion, drafts=drafts)
        except DigestMismatch as error:  # other cases may have problems too
            told = error.message
            return Record(settings_digest(case, conversion), inputs(case), problem=told), False
        record = prepared.record(case, conversion)
    if record is None:
        raise CaHpcError(
            f"{case.images[0]} changes while it is read", hint="wait, then check again"
        )
    return record, True
