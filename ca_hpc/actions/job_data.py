"""The data of a job: repositories checked out, cases found, what they are split into."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from pathlib import Path

from ca_hpc import processes
from ca_hpc.core.data_spec import GitSource, Shares, SplitFile
from ca_hpc.core.record import Cases
from ca_hpc.core.spec import JobSpec
from ca_hpc.core.splits import TRAIN, Division, divide
from ca_hpc.errors import CaHpcError
from ca_hpc.sources import git
from ca_hpc.sources.scan import missing_files, scan

Say = Callable[[str], None]


def silent(text: str) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, slots=True)
class JobData:
    """The cases, and how they are divided as far as their names tell: a node may skip some."""

    cases: Cases
    division: Division


def find(spec: JobSpec, *, store: Path, fetch: bool, say: Say) -> JobData:
    """All cases of ``spec``. Raises CaHpcError with every problem of one kind at once.

    ``store``: where repositories are cloned to. With ``fetch`` they are, and the files that are
    needed are got; without, what is missing is a remark.
    """
    _check_paths(spec)  # before minutes of cloning
    checkouts = {
        source_name(spec, position): git.checkout(
            source,
            name=source_name(spec, position),
            store=store,
            run=processes.run,
            fetch=fetch,
        )
        for position, source in enumerate(spec.data)
        if isinstance(source, GitSource)
    }
    cases = scan(spec, checkouts=checkouts)
    if fetch:
        for name, checkout in checkouts.items():
            files = [file for case in cases.cases if case.source == name for file in case.files]
            git.get(checkout, files, run=processes.run, say=say)
    own = _shares(spec)
    try:
        division = divide(cases.cases, spec.splits, shares=own)
    except CaHpcError as error:  # its cause may well be among the remarks: a list of other names
        error.message = "\n".join([error.message, *(f"note: {told}" for told in cases.remarks)])
        raise
    cases = _assigned(cases, division, sources=own)
    if missing := missing_files(cases):
        if fetch:
            raise CaHpcError(
                f"{len(missing)} files are not there, first {missing[0]}",
                hint="fetch or repair them, or exclude their subjects",
            )
        cases = replace(cases, remarks=(*cases.remarks, _not_fetched(missing)))
    return JobData(cases, division)


def source_name(spec: JobSpec, position: int) -> str:
    """The name of a source: its own, or s1, s2, … by its place."""
    source = spec.data[position]
    own = None if source.type == "pack" else source.name
    return own or f"s{position + 1}"


def _check_paths(spec: JobSpec) -> None:
    problems = [
        f"data[{position}]: {source.path} does not exist"
        for position, source in enumerate(spec.data)
        if source.type != "git" and not Path(source.path).exists()
    ]
    lists = [("splits", spec.splits)] + [
        (f"data[{i}].split", source.split)
        for i, source in enumerate(spec.data)
        if source.type != "pack" and source.split is not None
    ]
    problems += [
        f"{key}: {split.file} does not exist"
        for key, split in lists
        if isinstance(split, SplitFile) and not Path(split.file).exists()
    ]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CaHpcError(
            "\n".join([f"{count} with the data", *problems]),
            hint="correct the paths under `data:`, relative to the job's file",
        )


def _shares(spec: JobSpec) -> dict[str, Shares]:
    """The shares of sources that have their own, by the source's name."""
    return {
        source_name(spec, position): source.split
        for position, source in enumerate(spec.data)
        if source.type != "pack" and isinstance(source.split, Shares)
    }


def _assigned(found: Cases, division: Division, *, sources: Container[str]) -> Cases:
    """``found``, where the cases of ``sources`` say what the division has made of them.

    So that a pack carries it along, and a case that a node leaves out moves no other of them.
    """
    parts = {**(division.folds[0] if len(division.folds) == 1 else {}), **division.tests}
    roles = {case: role for role, cases in parts.items() for case in cases}
    return replace(
        found,
        cases=tuple(
            replace(case, split=roles.get(case.id, TRAIN)) if case.source in sources else case
            for case in found.cases
        ),
    )


def _not_fetched(missing: list[str]) -> str:
    return (
        f"data: {len(missing)} files are not fetched yet, first {missing[0]}; submission fetches "
        "them, or `ca-hpc data fetch`"
    )
