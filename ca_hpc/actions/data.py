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
from ca_hpc.errors import CaHpcError
from ca_hpc.store.pack import Pack, Progress
from ca_hpc.store.pack_writer import write_pack

if TYPE_CHECKING:
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

    ``empty``: how many images that can be used have nothing of a label.
    """

    cases: int
    problems: tuple[str, ...]
    left_out: tuple[str, ...]
    empty: Mapping[str, int]


def fetch(job_file: Path, *, host: Host, say: Say) -> Cases:
    """Get everything that the job's data need and the network has. Raises CaHpcError."""
    job = prepare.read_job(job_file, host=host)
    return prepare.find_cases(job, host=host, fetch=True, say=say).cases


def pack(job_file: Path, target: Path, *, host: Host, say: Say, progress: Progress) -> Packed:
    """Write the job's data, fetched before, as a pack; whole or not at all. Raises CaHpcError."""
    if target.is_dir():
        raise CaHpcError(f"{target} is a folder", hint="name a file: -o study.tar")
    target = target.absolute()
    cases = fetch(job_file, host=host, say=say)
    sha256 = write_pack(cases, target, ca_hpc=__version__, progress=progress)
    files = len(Pack.open(target).files)
    return Packed(target, sha256, target.stat().st_size, cases=len(cases.cases), files=files)


def verify(file: Path, *, progress: Progress) -> Pack:
    """Read a pack to its end. Raises DigestMismatch where a byte differs, and CaHpcError."""
    found = Pack.open(file)
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
        found = in_pool(work, cases.cases, workers=workers, hint="fewer at once: --workers 1")
        for case, record in zip(cases.cases, found, strict=True):
            records[case.id] = record
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
    )


def _tried(case: Case, conversion: Conversion, folder: Path) -> Record:
    """What would become of a case; its files are removed at once."""
    from ca_hpc.imaging.prepared import PreparedFolder

    with tempfile.TemporaryDirectory(dir=folder) as own:
        prepared = PreparedFolder(Path(own) / "prepared")
        prepared.create()
        drafts = Path(own) / "drafts"
        drafts.mkdir()
        prepared.prepare(case, conversion, drafts=drafts)
        record = prepared.record(case, conversion)
    if record is None:
        raise CaHpcError(
            f"{case.images[0]} changes while it is read", hint="wait, then check again"
        )
    return record
