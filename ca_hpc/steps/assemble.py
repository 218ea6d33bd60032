"""Task assemble: the prepared cases become a raw nnU-Net data set in RPI, split by person.

Whole or not at all: it is linked together as a draft and published by one rename.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ca_hpc.core.codec import encode
from ca_hpc.core.data_spec import SEEN, Crop
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.spec import JobSpec
from ca_hpc.core.splits import Division, divide
from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.case_table import places, table
from ca_hpc.imaging.conversion import conversion_of
from ca_hpc.imaging.convert import Converted
from ca_hpc.imaging.prepared import PreparedFolder, Record
from ca_hpc.imaging.verdicts import verdicts
from ca_hpc.nnunet.raw_dataset import TRAINING_FOLDERS, dataset_json, folders_of_test_set
from ca_hpc.steps.assembled import RECORD, assembled, is_assembled
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.steps.prepare import convert_missing
from ca_hpc.store import atomic
from ca_hpc.store.given import given_division
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, seal, write_seals

OWNER = "assemble"


def assemble(call: StepCall) -> None:
    """Write ``nnunet/raw/DATASET``, ``cases.tsv``, ``splits.json``, ``test_sets.json``.

    Raises CaHpcError with all problems of the cases, and then leaves no data set.
    """
    run = call.run
    page = run.file("data.html")
    if is_assembled(run):
        call.say(f"{run.cases.dataset} is there already")
    else:
        page.unlink(missing_ok=True)
        _assemble(call)
    shutil.rmtree(run.prepared, ignore_errors=True)
    if not page.exists():
        from ca_hpc.report.data_page import write_data_page  # with matplotlib behind it

        write_data_page(run)


def _assemble(call: StepCall) -> None:
    run, spec, data = call.run, call.run.spec, call.run.cases
    conversion = conversion_of(spec, data)
    # usually nothing: of a shard whose work was lost
    convert_missing(call, data.cases, conversion, owner=OWNER)
    folder = PreparedFolder(run.prepared)
    records = {case.id: folder.record(case, conversion) for case in data.cases}
    found = {case: record for case, record in records.items() if record is not None}
    if len(found) < len(records):
        raise CaHpcError("the files of some cases change all the time", hint="wait, then retry")
    judged = verdicts(data.cases, found)
    problems, unused = judged.problems, judged.unused
    if problems and (spec.prepare.on_error == "fail" or len(problems) == len(data.cases)):
        raise _unusable(spec, data, problems)
    used = [case for case in data.cases if case.id not in unused]
    division = _divided(run, used)
    _check_test_sets(data, division)
    drafts = folder.drafts(OWNER, call.attempt.name)
    draft = drafts / data.dataset
    _link(folder.path, draft, _files(division, found))
    atomic.write_text(draft / "dataset.json", _json(_dataset_json(spec, data, used, division)))
    converted = {id_: record.converted for id_, record in found.items() if record.converted}
    rows = table(
        data.cases,
        converted=converted,
        places=places(division),
        problems=unused,
    )
    target = run.raw / data.dataset
    run.raw.mkdir(parents=True, exist_ok=True)
    if target.exists():  # of other files than now; away before anything is said of the new one
        target.replace(drafts / "former")
    atomic.write_text(run.file("cases.tsv"), rows)
    atomic.write_text(run.file("splits.json"), _json(division.folds))
    atomic.write_text(run.file("test_sets.json"), _json(division.tests))
    write_seals(run.file(SEALS), seal(run.path, ("splits.json", "test_sets.json")))
    made_of = assembled(run, (found[case.id].inputs for case in data.cases))
    atomic.write_text(run.file(RECORD), encode(made_of))
    draft.replace(target)
    for sentence in _told(spec, used, division, converted, skipped=unused):
        call.say(sentence)


def _divided(run: RunFolder, used: Sequence[Case]) -> Division:
    """As the run was given (a rerun), else as its job says. Raises CaHpcError."""
    given = given_division(run)
    if given is None:
        return divide(used, run.spec.splits)
    placed = {*_seen(given), *(case for cases in given.tests.values() for case in cases)}
    if lost := sorted(placed - {case.id for case in used}):
        raise CaHpcError(
            f"{len(lost)} cases of the recorded splits cannot be used, first {lost[0]}",
            hint="they could be, when the run was made that this is a rerun of: compare the files",
        )
    return given


def _check_test_sets(data: Cases, division: Division) -> None:
    """A test set of which nothing is left would be missed by nobody who reads the report."""
    meant = {case.split for case in data.cases if case.split is not None} - set(SEEN)
    if lost := sorted(meant - set(division.tests)):
        raise CaHpcError(
            f"of the test set {lost[0]} no case can be used",
            hint="repair its files (`ca-hpc data check JOB` names them), or leave its source out",
        )


def _unusable(spec: JobSpec, data: Cases, problems: Mapping[str, str]) -> CaHpcError:
    """The error that tells all: what is wrong with cases, and with how they are divided."""
    lines = [
        f"{len(problems)} of {len(data.cases)} cases cannot be used",
        *problems.values(),
    ]
    try:
        divide(data.cases, spec.splits)
    except CaHpcError as error:
        lines.append(error.message)
    return CaHpcError(
        "\n".join(lines),
        hint="repair them, or exclude them from `data:`, and submit again; "
        "`prepare: {on_error: skip}` leaves them out",
    )


def _dataset_json(
    spec: JobSpec, data: Cases, used: Sequence[Case], division: Division
) -> dict[str, Any]:
    channels = {len(case.images) for case in used}
    if len(channels) != 1:
        raise CaHpcError(
            f"cases have different numbers of channels: {sorted(channels)}",
            hint="give every case the same channels",
        )
    return dataset_json(
        data,
        images=channels.pop(),
        training=len(_seen(division)),
        crop=None if spec.crop == "none" else spec.crop,
    )


def _seen(division: Division) -> list[str]:
    """What training sees: nnU-Net plans and normalises by all of ``imagesTr``."""
    return sorted({case for fold in division.folds for role in fold.values() for case in role})


def _files(division: Division, records: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
    """What is linked to where: paths below the prepared folder and below the data set."""
    used: dict[tuple[str, str], Sequence[str]] = {TRAINING_FOLDERS: _seen(division)}
    used |= {folders_of_test_set(name): cases for name, cases in division.tests.items()}
    for (images, labels), cases in used.items():
        folders = {"images": images, "labels": labels}
        for case in cases:
            for output in records[case].outputs:
                kind, _, name = output.path.partition("/")
                yield output.path, f"{folders[kind]}/{name}"


def _link(source: Path, target: Path, files: Iterator[tuple[str, str]]) -> None:
    """Hard links, as far as the file system has them: the images are there once."""
    target.mkdir()
    for old, new in files:
        (target / new).parent.mkdir(exist_ok=True)
        try:
            os.link(source / old, target / new)
        except OSError:
            shutil.copyfile(source / old, target / new)


def _json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"


def _told(
    spec: JobSpec,
    used: Sequence[Case],
    division: Division,
    converted: Mapping[str, Converted],
    *,
    skipped: Mapping[str, str],
) -> Iterator[str]:
    """A sentence per fact; which cases they are is in ``cases.tsv``."""
    people = {(case.people or case.source, case.person) for case in used}
    sources = {case.source for case in used}
    yield f"{len(used)} cases of {len(people)} people from {_plural(len(sources), 'source')}"
    folds = _plural(len(division.folds), "fold")
    yield f"{len(_seen(division))} to train and validate with, in {folds}"
    for name, cases in division.tests.items():
        yield f"{len(cases)} in the test set {name}"
    if skipped:
        yield f"{len(skipped)} left out:"
        yield from skipped.values()
    if spec.crop != "none":
        yield _about_crop(spec.crop, [converted[case.id] for case in used])


def _plural(count: int, thing: str) -> str:
    return f"{count} {thing}" + "s" * (count != 1)


def _about_crop(crop: Crop, found: Sequence[Converted]) -> str:
    """What the crop did to the cases."""
    whole = sum(not each.cropped for each in found)
    losing = sum(any(each.label_voxels_lost.values()) for each in found)
    told = f"{len(found) - whole} of them cut to {crop.to} and {crop.margin:g} mm on each side"
    told += f", {whole} whole for want of {crop.to}" * bool(whole)
    return told + f"; {losing} lost a part of other labels" * bool(losing)


if __name__ == "__main__":
    main(assemble)
