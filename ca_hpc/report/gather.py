"""From a run folder to the content of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ca_hpc.attempts.history import dead
from ca_hpc.attempts.verdicts import STATES
from ca_hpc.core.model import TaskState, training_id
from ca_hpc.core.rules import Failure
from ca_hpc.core.spec import JobSpec
from ca_hpc.report.comparison import compare
from ca_hpc.report.dataset import DatasetContent
from ca_hpc.report.facts import facts
from ca_hpc.report.model import (
    NOT_RUN,
    VALIDATION,
    CaseScore,
    Comparison,
    Curve,
    Overlay,
    ReportContent,
    TaskRow,
)
from ca_hpc.report.outcome import outcome
from ca_hpc.report.raw_files import predicted, raw_pair
from ca_hpc.report.read_dataset import read_dataset, read_test_sets
from ca_hpc.report.scores import read_scores
from ca_hpc.report.tables import grouped, representative
from ca_hpc.store.progress import read_events
from ca_hpc.store.run_folder import RunFolder

OWN_STAGE = "report"  # runs while the report is written
NAMED = 3  # failed tasks in the summary


def gather(run: RunFolder, *, created: str) -> ReportContent:
    """Everything that the report shows. ``created``: ISO 8601."""
    spec, scores = run.spec, read_scores(run.path)
    arms, tasks, test_sets = tuple(spec.arms), tuple(_tasks(run)), read_test_sets(run)
    weights = {name: arm.weights for name, arm in spec.arms.items()}
    comparisons, dataset = compare(scores, weights=weights), read_dataset(run)
    return ReportContent(
        run_name=run.path.name,
        kind=spec.kind,
        created=created,
        summary=(
            *(_left_out(dataset) if dataset else ()),
            *_summary(spec, scores, comparisons, weights=weights, tasks=tasks, test_sets=test_sets),
        ),
        arms=arms,
        folds=spec.fold_indices,
        weights=weights,
        scores=scores,
        comparisons=comparisons,
        curves=tuple(_curves(run, spec)),
        tasks=tasks,
        overlays=tuple(_overlays(run, scores, arms=arms)),
        facts=tuple(
            facts(run, spec, test_sets=test_sets, shown=dataset.remarks if dataset else ())
        ),
        dataset=dataset,
    )


def _left_out(dataset: DatasetContent) -> Iterator[str]:
    if out := len(dataset.skipped):
        images = out + (dataset.counts[-1].images if dataset.counts else 0)
        of = "1 image" if images == 1 else f"{images} images"
        yield f"{out} of {of} {'was' if out == 1 else 'were'} left out: see Data."


def _summary(
    spec: JobSpec,
    scores: tuple[CaseScore, ...],
    comparisons: tuple[Comparison, ...],
    *,
    weights: Mapping[str, str],
    tasks: tuple[TaskRow, ...],
    test_sets: Mapping[str, tuple[str, ...]],
) -> Iterator[str]:
    if not scores:
        comparing = ", so that there is nothing to compare" if len(spec.arms) > 1 else ""
        yield f"No fold has finished{comparing}."
        yield from _failures([task for task in tasks if task.cause])
        return
    yield from outcome(scores, comparisons, weights=weights)
    delivered = {(score.arm, score.fold) for score in scores if score.split == VALIDATION}
    missing = len(spec.arms) * len(spec.fold_indices) - len(delivered)
    if missing:
        folds = "1 fold is" if missing == 1 else f"{missing} folds are"
        yield f"{folds} missing: see the table of tasks."
    for name, ids in test_sets.items():
        for arm in spec.arms:
            found = {s.case for s in scores if (s.split, s.arm) == (name, arm)}
            if len(found) < len(ids):
                yield (
                    f"Test set {name}: {arm} has predicted {len(found)} of {len(ids)} images: see "
                    "the table of tasks."
                )


def _failures(failed: Sequence[TaskRow]) -> Iterator[str]:
    for task in failed[:NAMED]:
        yield f"{task.task} ended as {task.state}: {task.cause_lines[0]}"
    if more := len(failed[NAMED:]):
        yield f"And {more} more: see the table of tasks."


def _curves(run: RunFolder, spec: JobSpec) -> Iterator[Curve]:
    for arm in spec.arms:
        for fold in spec.fold_indices:
            events: dict[int, dict[str, Any]] = {}
            for attempt in run.attempts(training_id(arm, fold)):
                told = [e for e in read_events(attempt) if e["event"] == "epoch"]
                events |= {e["epoch"]: e for e in told if isinstance(e.get("epoch"), int)}
            if events:
                epochs = sorted(events)
                rows = [events[epoch] for epoch in epochs]
                yield Curve(
                    arm=arm,
                    fold=fold,
                    epochs=tuple(epochs),
                    train_loss=tuple(_number(row.get("train_loss")) for row in rows),
                    val_loss=tuple(_number(row.get("val_loss")) for row in rows),
                    pseudo_dice=tuple(_number(row.get("pseudo_dice")) for row in rows),
                )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _tasks(run: RunFolder) -> Iterator[TaskRow]:
    for task in run.workflow.tasks:
        if task.id == OWN_STAGE:
            continue
        result, attempts = run.result(task.id), run.attempts(task.id)
        begun = result is not None or bool(attempts)
        row = TaskRow(
            task=task.id,
            state=(result.state.value if result else TaskState.UNKNOWN.value) if begun else NOT_RUN,
            attempts=len(attempts),
            node=result.host if result else None,
            started=result.started if result else None,
            seconds=result.seconds if result else None,
            cause=result.cause if result else None,
            hint=result.hint if result else None,
            failure=result.failure if result else None,
            lines=result.lines if result else (),
        )
        killed = attempts and run.attempt_result(attempts[-1]) is None
        if killed and row.state != TaskState.COMPLETED.value:
            # the trainings are over when a report is written: this one could write no result
            verdict = dead(run, attempts[-1])
            row = replace(
                row,
                state=_state(row, verdict.failure),
                cause=verdict.cause,
                hint=verdict.hint,
                failure=verdict.failure.value,
                lines=verdict.lines,
            )
        yield row


def _state(row: TaskRow, failure: Failure) -> str:
    return row.state if failure is Failure.UNKNOWN else STATES[failure].value


def _overlays(
    run: RunFolder, scores: tuple[CaseScore, ...], *, arms: tuple[str, ...]
) -> Iterator[Overlay]:
    """Worst, median and best of each arm in each label, of the validation and each test set.

    A case that is such in several labels is shown once.
    """
    import nibabel as nib

    from ca_hpc.report.overlay import overlay_png

    cases = run.cases
    shown: set[tuple[str, str, str]] = set()
    for (split, label), ours in grouped(scores, lambda s: (s.split, s.label)).items():
        for arm in arms:
            for rank, score in representative(ours, arm=arm):
                if (split, arm, score.case) in shown:
                    continue
                shown.add((split, arm, score.case))
                pair = raw_pair(run, dataset=cases.dataset, case=score.case, split=split)
                volumes = map(nib.load, (*pair, predicted(run, score)))
                yield Overlay(
                    arm=arm,
                    rank=rank,
                    case=score.case,
                    dice=score.dice,
                    png=overlay_png(*volumes, targets=cases.targets, focus=label),
                    split=split,
                    label=label,
                )
