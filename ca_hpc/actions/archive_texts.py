"""The texts of an archive: what is known of a run, under the names that it has in there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ca_hpc.actions.archived import data_problems
from ca_hpc.actions.original import Original, text_sha256
from ca_hpc.core import door
from ca_hpc.core.anonymous import (
    anonymous_cases,
    anonymous_cluster,
    anonymous_record,
    anonymous_spec,
)
from ca_hpc.core.codec import encode
from ca_hpc.core.pseudonyms import Pseudonyms, pseudonyms
from ca_hpc.core.record import Cases
from ca_hpc.core.run_record import File, RunRecord
from ca_hpc.errors import CaHpcError
from ca_hpc.report.model import CaseScore
from ca_hpc.report.scores import read_scores, scores_text
from ca_hpc.store import archive as archives
from ca_hpc.store.archive import Names
from ca_hpc.store.given import PLANS, SPLITS, TEST_SETS, division_of
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.sealed_tar import short


def member_texts(run: RunFolder, was: Original, *, names: Names) -> dict[str, str]:
    """The texts by their members' names; the record is last and seals the others.

    Raises CaHpcError.
    """
    new = pseudonyms(was.cases) if names == "replaced" else None
    splits, tests = was.splits, was.test_sets
    if new is not None:
        division = division_of(splits, tests, place=run.path)
        folds = [{part: new.ids(ids) for part, ids in f.items()} for f in division.folds]
        splits = _as_assembled(folds)
        tests = _as_assembled({name: new.ids(ids) for name, ids in division.tests.items()})
    given = archives.GIVEN
    texts = {
        archives.SPEC: _spec_text(was),
        archives.CLUSTER: door.dump(anonymous_cluster(was.cluster)),
        archives.CASES: encode(_cases(was, new)),
        f"{given}/{SPLITS}": splits,
        f"{given}/{TEST_SETS}": tests,
        **{_plans_name(arm): text for arm, text in was.plans.items()},
    }
    if was.model is not None:
        texts[archives.MODEL] = door.dump(was.model)
    if scores := read_scores(run.path):
        texts[archives.SCORES] = scores_text(_scores(scores, was, new))
    return {**texts, archives.RECORD: encode(_record(was.record, texts))}


def _spec_text(was: Original) -> str:
    weights = was.record.weights
    return door.dump(
        anonymous_spec(
            was.spec,
            cluster=was.cluster.name,
            sources=dict.fromkeys(case.source for case in was.cases.cases),
            cases=archives.CASES,
            splits=f"{archives.GIVEN}/{SPLITS}",
            weights=None if weights is None else f"sha256:{weights.sha256}",
            model=None if was.model is None else was.model.name,
            trainers=None if was.trainers is None else archives.TRAINERS,
        )
    )


def _cases(was: Original, new: Pseudonyms | None) -> Cases:
    """Raises CaHpcError for those that would be refused where the archive is used."""
    cases = anonymous_cases(was.cases, new)
    if (problem := next(data_problems(cases), None)) is not None:
        raise CaHpcError(
            f"{was.place} cannot be archived: {problem}",
            hint="correct it in the data, and submit the job again",
        )
    return cases


def _plans_name(arm: str) -> str:
    return f"{archives.GIVEN}/{PLANS}/{arm}.json"


def _scores(
    scores: Iterable[CaseScore], was: Original, new: Pseudonyms | None
) -> tuple[CaseScore, ...]:
    """Raises CaHpcError for scores of a case that the run does not have."""
    renamed = {case.id: new.of(case) if new else case for case in was.cases.cases}

    def named(score: CaseScore) -> CaseScore:
        if (case := renamed.get(score.case)) is None:
            raise CaHpcError(
                f"{archives.SCORES} of {was.place} has scores of {short(score.case)}, which is "
                "none of its cases",
                hint="it is damaged; the folds' own predictions and summaries are below results/",
            )
        return CaseScore(
            arm=score.arm,
            fold=score.fold,
            case=case.id,
            person=case.person,
            session=case.session,
            contrast=score.contrast,
            source=score.source,
            label=score.label,
            dice=score.dice,
            precision=score.precision,
            sensitivity=score.sensitivity,
            relative_volume_difference=score.relative_volume_difference,
            split=score.split,
            people=score.people,
        )

    return tuple(map(named, scores))


def _record(record: RunRecord, texts: Mapping[str, str]) -> RunRecord:
    """The record of what is in the archive, by the members' ``texts``."""

    def sealed(name: str) -> File:
        text = texts[name]
        return File(name, text_sha256(text), len(text.encode()))

    weights = record.weights
    return anonymous_record(
        record,
        spec=sealed(archives.SPEC),
        cluster=sealed(archives.CLUSTER),
        splits=sealed(f"{archives.GIVEN}/{SPLITS}"),
        test_sets=sealed(f"{archives.GIVEN}/{TEST_SETS}"),
        plans={arm: sealed(_plans_name(arm)) for arm in record.arms},
        results=(sealed(archives.SCORES),) if archives.SCORES in texts else (),
        image=archives.IMAGE,
        weights="" if weights is None else weights_name(weights.path),
    )


def _as_assembled(content: Any) -> str:
    """As ``steps/assemble.py`` writes it: a rerun makes the same bytes of it."""
    return json.dumps(content, indent=1) + "\n"


def weights_name(path: str) -> str:
    """By what they are: the name of a file may tell more than that."""
    return f"{archives.WEIGHTS}/weights{Path(path).suffix}"
