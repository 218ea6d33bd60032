"""From a run folder to the content of its report."""

from __future__ import annotations

import json
from dataclasses import replace
from math import isnan
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ca_hpc import configs
from ca_hpc.core import door
from ca_hpc.core.expand import expand
from ca_hpc.core.model import Pin, Runtime, TaskState
from ca_hpc.core.profile import Cluster
from ca_hpc.core.record import Case, Cases, LabelFile, Origin, Pins, Result
from ca_hpc.core.run_record import File, Rerun
from ca_hpc.core.spec import JobSpec, completed
from ca_hpc.report.gather import gather
from ca_hpc.report.model import CaseScore, ReportContent
from ca_hpc.report.scores import read_scores, write_comparison, write_scores
from ca_hpc.screen import show_outcome
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.weights import manifest
from ca_hpc.weights.manifest import Manifest, Source
from tests.unit.report.data_runs import row, skipped, write_rows

SPEC = """\
kind: finetune
name: neck
cluster: lab
data: [{type: bids, path: /data, label_suffix: _seg}]
weights: /model.pth
splits: {folds: 2}
training: {epochs: 3}
"""
PEOPLE = ("anna", "ben")
DICE = {"finetune": (0.9, 0.8), "scratch": (0.6, 0.7)}
MODEL = "Dataset501_neck/nnUNetTrainer__nnUNetPlans__3d_fullres"


def cord(*, shift: int = 0) -> nib.Nifti1Image:
    mask = np.zeros((16, 24, 12), dtype=np.uint8)
    mask[6:10, 8 + shift : 14 + shift, :] = 1
    return nib.Nifti1Image(mask, np.diag([-1.0, 1.0, 1.0, 1.0]))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of two arms and two folds that has been submitted."""
    run = RunFolder.create(tmp_path, "neck")
    spec = completed(door.read(JobSpec, SPEC, file="job.yaml"))
    cluster = door.read(Cluster, "name: lab\n", file="lab.yaml")
    image = Pin("/neck.sif", "ab" * 32)
    flow = expand(
        spec,
        cluster,
        run_folder=str(run.path),
        runtime=Runtime("apptainer", "python3", image),
        node_python="python3",
        mounts=(),
        test_sets=False,
    )
    cases = tuple(
        Case(
            id=f"s1-{who}",
            source="s1",
            images=(f"/{who}.nii.gz",),
            labels=(LabelFile(f"/{who}-seg.nii.gz"),),
            subject=who,
            person=who,
            session=None,
            contrast="T2w",
        )
        for who in PEOPLE
    )
    run.write_spec("spec.json", spec)
    run.write_spec("cluster.json", cluster)
    run.write("cases.json", Cases("Dataset501_neck", {"cord": 1}, cases))
    pins = Pins("0.1.0", "token", "2025-01-01T00:00:00", Pin("/model.pth", "cd" * 32))
    run.write("pins.json", pins)
    run.write("workflow.json", flow)
    for who in PEOPLE:
        for folder, name in (("imagesTr", f"s1-{who}_0000"), ("labelsTr", f"s1-{who}")):
            target = run.raw / "Dataset501_neck" / folder
            target.mkdir(parents=True, exist_ok=True)
            nib.save(cord(), target / f"{name}.nii.gz")
    return run


def publish(run: RunFolder, *, arms: tuple[str, ...] = ("finetune", "scratch")) -> None:
    """Folds with a prediction each, and their scores: fold 0 holds out anna, fold 1 ben."""
    scores = []
    for arm in arms:
        for fold, (who, dice) in enumerate(zip(PEOPLE, DICE[arm], strict=True)):
            folder = run.results(arm) / MODEL / f"fold_{fold}" / "validation"
            folder.mkdir(parents=True)
            nib.save(cord(shift=fold), folder / f"s1-{who}.nii.gz")
            scores.append(
                CaseScore(
                    arm, fold, f"s1-{who}", who, None, "T2w", "s1", "cord", dice, dice, dice, 0
                )
            )
    write_scores(scores, run.path)


def gathered(run: RunFolder) -> ReportContent:
    return gather(run, created="2025-01-02T00:00:00")


def test_a_run_that_has_finished_nothing_still_has_a_report(run: RunFolder) -> None:
    found = gathered(run)
    assert found.summary == ("No fold has finished, so that there is nothing to compare.",)
    assert (found.run_name, found.arms, found.folds) == (
        "neck-001",
        ("finetune", "scratch"),
        (0, 1),
    )
    assert (found.scores, found.curves, found.overlays) == ((), (), ())
    assert {row.state for row in found.tasks} == {"not run"}


def test_a_task_that_has_begun_is_not_called_not_run(run: RunFolder) -> None:
    run.new_attempt("assemble", job="101", restart=0)
    states = {row.task: row.state for row in gathered(run).tasks}
    assert (states["assemble"], states["preprocess"]) == ("UNKNOWN", "not run")


def test_the_summary_has_the_verdict_the_best_arm_and_the_difference_by_person(
    run: RunFolder,
) -> None:
    publish(run)
    found = gathered(run)
    assert found.weights == {"finetune": "pretrained", "scratch": "random"}
    assert [(c.arm, c.baseline, c.n) for c in found.comparisons] == [("finetune", "scratch", 2)]
    verdict, best, numbers = found.summary
    assert verdict.startswith(
        "finetune did better than scratch, training from scratch, on average; "
    )
    assert best == "finetune has the highest mean Dice, 0.850 over 2 people."
    assert numbers.startswith("finetune against scratch: +0.200 in Dice")


def test_the_summary_says_so_when_the_weights_brought_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DICE, "scratch", (0.95, 0.95))
    publish(run)
    assert gathered(run).summary[0].endswith("Fine-tuning is just another baseline: use scratch.")


@pytest.mark.parametrize(
    ("folds", "sentence"),
    [
        (1, "1 fold is missing: see the table of tasks."),
        (0, "2 folds are missing: see the table of tasks."),
    ],
)
def test_folds_that_are_missing_are_counted(run: RunFolder, folds: int, sentence: str) -> None:
    publish(run)
    delivered = [s for s in read_scores(run.path) if s.arm == "finetune" or s.fold < folds]
    write_scores(delivered, run.path)
    assert gathered(run).summary[-1] == sentence


def test_the_terminal_shows_labels_apart_and_then_the_sentences(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(run)
    cord = read_scores(run.path)
    write_scores([*cord, *(replace(s, label="lesion", dice=0.25) for s in cord)], run.path)
    content = gathered(run)
    write_comparison(content.comparisons, run.path, summary=content.summary)
    show_outcome(run)
    shown = capsys.readouterr().out
    of_cord, of_lesion = shown.split("Dice of lesion (mean over people)")
    assert "Dice of cord (mean over people)" in of_cord
    totals = [line.split() for line in shown.splitlines() if line.split()[:1] == ["all"]]
    assert totals == [["all", "0.850", "0.650"], ["all", "0.250", "0.250"]]
    for sentence in content.summary:
        assert f"\n{sentence}\n" in of_lesion


def test_the_terminal_does_not_name_a_label_that_is_alone(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(run)
    show_outcome(run)
    assert capsys.readouterr().out.startswith("\nDice (mean over people)\n")


def test_every_arm_has_pictures_of_its_cases(run: RunFolder) -> None:
    publish(run)
    overlays = gathered(run).overlays
    assert {overlay.arm for overlay in overlays} == {"finetune", "scratch"}
    assert all(overlay.png.startswith(b"\x89PNG") for overlay in overlays)
    dice = {o.dice for o in overlays if o.arm == "scratch"}
    assert {min(dice), max(dice)} == {0.6, 0.7}


def epoch(number: int, loss: float, *, dice: float | None = 0.5) -> str:
    event = {"event": "epoch", "epoch": number, "epochs": 3, "train_loss": loss, "val_loss": loss}
    return json.dumps({**event, "pseudo_dice": dice}) + "\n"


def test_a_curve_goes_over_attempts_and_the_last_to_train_an_epoch_counts(run: RunFolder) -> None:
    task = "train-finetune-fold0"
    for restart, lines in enumerate(
        [
            epoch(0, 3.0, dice=None) + epoch(1, 2.0) + '{"event": "epoch", "epo',
            '{"event": "case", "done": 1}\n' + epoch(1, 2.5) + epoch(2, 1.5),
        ]
    ):
        _, attempt = run.new_attempt(task, job="101_0", restart=restart)
        (attempt / "progress.jsonl").write_text(lines)
    (curve,) = gathered(run).curves
    assert (curve.arm, curve.fold, curve.epochs) == ("finetune", 0, (0, 1, 2))
    assert curve.train_loss == (3.0, 2.5, 1.5)
    assert isnan(curve.pseudo_dice[0])
    assert curve.pseudo_dice[1:] == (0.5, 0.5)


def test_tasks_are_shown_with_their_last_result_but_for_the_report_itself(run: RunFolder) -> None:
    task = "train-scratch-fold1"
    for restart in range(2):
        _, attempt = run.new_attempt(task, job="101_3", restart=restart)
    result = Result(
        task, attempt.name, TaskState.FAILED, 1, "t0", "t1", 61.0, "node3", "killed by SIGKILL"
    )
    run.write_result(attempt, result)
    rows = {row.task: row for row in gathered(run).tasks}
    assert "report" not in rows
    assert list(rows)[:3] == ["prepare-shard0", "assemble", "preprocess"]
    row = rows[task]
    assert (row.state, row.attempts, row.node, row.seconds, row.cause) == (
        "FAILED", 2, "node3", 61.0, "killed by SIGKILL"
    )  # fmt: skip


def test_the_facts_of_a_rerun_say_of_what_and_what_was_allowed(run: RunFolder) -> None:
    assert "rerun of" not in dict(gathered(run).facts)
    run.write("rerun.json", Rerun(File("neck-001", "ef" * 32, 3), ("data", "threads")))
    facts = dict(gathered(run).facts)
    assert facts["rerun of"] == f"neck-001, sha256:{'ef' * 32}"
    assert facts["allowed to differ from it"] == "data, threads"


def test_the_facts_say_what_ran_on_what(run: RunFolder) -> None:
    facts = dict(gathered(run).facts)
    assert facts["image"] == "sha256:" + "ab" * 32
    assert facts["weights"] == "sha256:" + "cd" * 32
    assert facts["data"] == "2 images of 2 people, from s1"
    assert facts["splits"] == "2 folds by person, seed 12345"
    assert facts["training seed"] == "0"
    assert facts["crop"] == "none"
    assert "model" not in facts and "training" not in facts
    assert facts["task time"] == "00:00:00"


def plans(name: str, *, patch: tuple[int, int, int] = (32, 48, 64)) -> str:
    """Of a planner that has put right-left first."""
    own = {"patch_size": patch, "spacing": (0.8, 1.0, 0.5), "batch_size": 2}
    content = {
        "plans_name": name,
        "transpose_forward": [2, 0, 1],
        "configurations": {"3d_fullres": own},
    }
    return json.dumps(content)


def test_every_arm_is_told_with_its_own_settings_before_it_has_plans(run: RunFolder) -> None:
    job = SPEC.replace("{epochs: 3}", "{epochs: 3, warmup_epochs: 2, frozen_encoder_epochs: 1}")
    job += (
        "arms:\n"
        "  gentle: {head: pretrained, initial_learning_rate: 0.001, iterations_per_epoch: 20}\n"
        "  as-is: {weights: shuffled, epochs: 0, warmup_epochs: 0, trainer: nnUNetTrainerX}\n"
        "  scratch: {weights: random, plans: planner}\n"
    )
    run.write_spec("spec.json", completed(door.read(JobSpec, job, file="job.yaml")))
    facts = dict(gathered(run).facts)
    assert facts["arm gentle"] == (
        "pretrained weights, pretrained head; 3 epochs of 20 iterations; nnUNetTrainer; "
        "initial learning rate 0.001; warm-up epochs 2; epochs with a frozen encoder 1; "
        "plans not known"
    )
    assert facts["arm as-is"] == (
        "shuffled weights, new head; 0 epochs: the network as it began; nnUNetTrainerX; "
        "epochs with a frozen encoder 1; plans not known"
    )
    assert facts["arm scratch"] == (
        "random weights; 3 epochs of 250 iterations; nnUNetTrainer; warm-up epochs 2; "
        "plans not known"
    )


def test_an_arm_is_told_with_the_plans_it_is_to_be_trained_by(run: RunFolder) -> None:
    run.write("arms.json", {"finetune": "nnUNetPlans_v4", "scratch": "nnUNetPlans"})
    folder = run.preprocessed / "Dataset501_neck"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans_v4.json").write_text(plans("nnUNetPlans_v4"))
    facts = dict(gathered(run).facts)
    assert facts["arm finetune"].endswith(
        "; plans nnUNetPlans_v4; patch RL 32, AP 64, SI 48 voxels; "
        "spacing RL 0.8, AP 0.5, SI 1 mm; batch 2"
    )
    assert facts["arm scratch"].endswith("plans not known")
    (folder / "nnUNetPlans.json").write_text('{"plans_na')
    assert dict(gathered(run).facts)["arm scratch"].endswith("plans not known")


def test_the_plans_of_published_folds_come_first(run: RunFolder) -> None:
    publish(run, arms=("finetune",))
    run.write("arms.json", {"finetune": "nnUNetPlans"})
    folder = run.preprocessed / "Dataset501_neck"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(plans("nnUNetPlans"))
    assert "patch RL 32" in dict(gathered(run).facts)["arm finetune"]
    published = run.results("finetune") / MODEL / "plans.json"
    published.write_text(plans("nnUNetPlans", patch=(16, 48, 64)))
    assert "patch RL 16" in dict(gathered(run).facts)["arm finetune"]


def test_weights_are_told_by_name_and_origin(run: RunFolder) -> None:
    source = Source("v4.zip", "ef" * 32, url="https://example.org/v4.zip", member="fold_0")
    known = Manifest("cd" * 32, source, "unet", 1, 2, {}, profile="contrast-agnostic-v4")
    run.file("weights.json").write_text(manifest.dump(known))
    run.write_spec("model.json", configs.model("contrast-agnostic-v4", relative_to=Path()))
    facts = dict(gathered(run).facts)
    assert facts["weights"] == (
        "contrast-agnostic-v4, v4.zip, fold_0, https://example.org/v4.zip, sha256:" + "cd" * 32
    )
    assert facts["model"] == "contrast-agnostic-v4"
    run.file("weights.json").write_text("{")
    assert dict(gathered(run).facts)["weights"] == "sha256:" + "cd" * 32


def test_data_name_every_source_once(run: RunFolder) -> None:
    cases = run.cases
    more = tuple(replace(case, source="s2", id=f"s2-{case.subject}") for case in cases.cases)
    run.write("cases.json", replace(cases, cases=(*cases.cases, *more)))
    assert dict(gathered(run).facts)["data"] == "4 images of 4 people, from s1, s2"


def test_a_label_within_shared_people_is_one_person(run: RunFolder) -> None:
    cases = run.cases
    ours = tuple(replace(case, people="hospital") for case in cases.cases)
    more = tuple(replace(case, source="s2", id=f"s2-{case.subject}") for case in ours)
    run.write("cases.json", replace(cases, cases=(*ours, *more)))
    assert dict(gathered(run).facts)["data"] == "4 images of 2 people, from s1, s2"


def test_a_crop_says_what_it_means_for_the_scores_and_what_it_has_cut(run: RunFolder) -> None:
    job = SPEC + "crop: {to: cord, margin: 30mm}\n"
    run.write_spec("spec.json", completed(door.read(JobSpec, job, file="job.yaml")))
    facts = dict(gathered(run).facts)
    assert facts["crop"] == (
        "around cord, margin 30 mm; validation images too, by their own reference: what lies "
        "outside is not scored, and Dice holds for images cropped like that"
    )
    assert "label voxels cut away" not in facts, "nobody knows yet"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("case\tlabel_voxels_lost\na\t0\nb\t12\nc\t30\n", "42 in 2 images"),
        ("case\tlabel_voxels_lost\na\t0\nb\t7\n", "7 in 1 image"),
        ("case\tlabel_voxels_lost\na\t0\n", None),
        ("case\nb\n", None),
        ("case\tlabel_voxels_lost\nb\tcord:12,lesion:3\nskipped\t\n", "15 in 1 image"),
    ],
)
def test_label_voxels_that_were_cut_away_are_counted(
    run: RunFolder, table: str, told: str | None
) -> None:
    run.file("cases.tsv").write_text(table)
    assert dict(gathered(run).facts).get("label voxels cut away") == told


def test_warnings_of_the_submission_are_among_the_facts(run: RunFolder) -> None:
    run.write("pins.json", replace(run.pins, warnings=("the crop differs", "1000 epochs")))
    told = [value for name, value in gathered(run).facts if name == "warning"]
    assert told == ["the crop differs", "1000 epochs"]


def test_a_warning_that_the_data_section_shows_is_told_once(run: RunFolder) -> None:
    run.write("cases.json", replace(run.cases, remarks=("one has no label",)))
    run.write("pins.json", replace(run.pins, warnings=("one has no label", "1000 epochs")))

    def told() -> list[str]:
        return [value for _, value in gathered(run).facts if value in run.pins.warnings]

    assert told() == ["one has no label", "1000 epochs"], "there is no data section"
    write_rows([row("s1-anna", person="anna")], run.file("cases.tsv"))
    found = gathered(run)
    assert found.dataset is not None and found.dataset.remarks == ("one has no label",)
    assert told() == ["1000 epochs"]


def test_images_that_were_left_out_are_told_first(run: RunFolder) -> None:
    rows = [row("s1-anna", person="anna"), skipped("s1-ben", person="ben", problem="is truncated")]
    write_rows(rows, run.file("cases.tsv"))
    assert gathered(run).summary == (
        "1 of 2 images was left out: see Data.",
        "No fold has finished, so that there is nothing to compare.",
    )
    write_rows([skipped(who, problem="is truncated") for who in PEOPLE], run.file("cases.tsv"))
    assert gathered(run).summary[0] == "2 of 2 images were left out: see Data."
    write_rows(rows[:1], run.file("cases.tsv"))
    assert gathered(run).summary[0].startswith("No fold has finished")


def test_a_run_without_image_and_weights_says_none(run: RunFolder) -> None:
    run.write("pins.json", replace(run.pins, weights=None))
    run.write("workflow.json", replace(run.workflow, runtime=Runtime("none", "python3")))
    facts = dict(gathered(run).facts)
    assert facts["weights"] == "none"
    assert facts["image"].startswith("none")


def test_a_run_that_failed_with_its_data_says_so_and_lists_the_problems(run: RunFolder) -> None:
    _, attempt = run.new_attempt("assemble", job="101", restart=0)
    cause = "2 of 9 cases cannot be used\na.nii.gz: is truncated\nb.nii.gz: has 4 dimensions"
    result = Result(
        "assemble", attempt.name, TaskState.FAILED, 2, "t0", "t1", 3.0, "n", cause, "repair them"
    )
    run.write_result(attempt, result)
    found = gathered(run)
    assert found.summary == (
        "No fold has finished, so that there is nothing to compare.",
        "assemble ended as FAILED: 2 of 9 cases cannot be used",
    )
    (task,) = [row for row in found.tasks if row.cause]
    assert task.cause_lines[1:] == ("a.nii.gz: is truncated", "b.nii.gz: has 4 dimensions")
    assert task.hint == "repair them"
    assert found.dataset is None


def test_without_any_fold_the_first_failed_tasks_are_named_and_the_others_counted(
    run: RunFolder,
) -> None:
    failed = [task.id for task in run.workflow.tasks if task.id != "report"][:5]
    for task in failed:
        _, attempt = run.new_attempt(task, job="101", restart=0)
        run.write_result(
            attempt,
            Result(task, attempt.name, TaskState.FAILED, 1, "t0", "t1", 3.0, "n", f"no {task}"),
        )
    begin, *named, rest = gathered(run).summary
    assert begin.startswith("No fold has finished")
    assert named == [f"{task} ended as FAILED: no {task}" for task in failed[:3]]
    assert rest == "And 2 more: see the table of tasks."


def respecify(run: RunFolder, **changes: str) -> None:
    """The run's job with some lines of its own."""
    lines = [line for line in SPEC.splitlines() if line.split(":")[0] not in changes]
    job = "\n".join([*lines, *(f"{key}: {value}" for key, value in changes.items())])
    run.write_spec("spec.json", completed(door.read(JobSpec, job, file="job.yaml")))


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ("{folds: 3, seed: 50, test: 0.2}",
         "3 folds by person, test 0.2 of each source's people, seed 50"),
        ("{train: 0.65, val: 0.15, test: 0.2, seed: 50}",
         "train 0.65, val 0.15, test 0.2 of each source's people, seed 50"),
        ("{train: 0.8, val: 0.2}", "train 0.8, val 0.2 of each source's people, seed 12345"),
        ("{file: people.yml}", "from the lists in people.yml"),
    ],
)  # fmt: skip
def test_the_facts_say_how_people_were_divided(run: RunFolder, splits: str, told: str) -> None:
    respecify(run, splits=splits)
    assert dict(gathered(run).facts)["splits"] == told


def test_the_facts_say_what_is_of_a_source_alone(run: RunFolder) -> None:
    source = "{type: bids, path: /data, label_suffix: _seg, split: {train: 0.5, val: 0.5}}"
    other = "{type: bids, name: site-b, path: /b, label_suffix: _seg, split: {file: b.yml}}"
    respecify(run, data=f"[{source}, {other}]")
    facts = dict(gathered(run).facts)
    assert facts["splits of s1"] == "train 0.5, val 0.5 of each source's people, seed 12345"
    assert facts["splits of site-b"] == "from the lists in b.yml"


def test_the_facts_say_where_the_data_came_from(run: RunFolder) -> None:
    origins = (
        Origin("s1", "/archive/neck.git", "main", "0a1b"),
        Origin("s2", "/archive/s2.tar", sha256="cd"),
    )
    cases = replace(run.cases, origins=origins, regions={"cord": (1, 2)})
    run.write("cases.json", cases)
    facts = dict(gathered(run).facts)
    assert facts["origin of s1"] == "/archive/neck.git, ref main, commit 0a1b"
    assert facts["origin of s2"] == "/archive/s2.tar, sha256:cd"
    assert facts["learnt"] == "cord (1, 2)"


def set_aside(run: RunFolder, *, arms: tuple[str, ...]) -> None:
    """Ben becomes the test set site-b: his files, predictions by ``arms``, and their scores."""
    publish(run)
    raw = run.raw / "Dataset501_neck"
    for folder, name in (("images", "s1-ben_0000.nii.gz"), ("labels", "s1-ben.nii.gz")):
        (raw / f"{folder}Ts_site-b").mkdir()
        (raw / f"{folder}Tr" / name).rename(raw / f"{folder}Ts_site-b" / name)
    run.file("test_sets.json").write_text('{"site-b": ["s1-ben"]}')
    scores = [score for score in read_scores(run.path) if score.person == "anna"]
    for arm in arms:
        folder = run.file("test", arm, "site-b")
        folder.mkdir(parents=True)
        nib.save(cord(shift=2), folder / "s1-ben.nii.gz")
        first = next(score for score in scores if score.arm == arm)
        unseen = {"case": "s1-ben", "person": "ben", "split": "site-b", "fold": "ensemble"}
        scores.append(replace(first, dice=0.5, **unseen))
    write_scores(scores, run.path)


def test_test_sets_are_told_drawn_and_among_the_facts(run: RunFolder) -> None:
    set_aside(run, arms=("finetune", "scratch"))
    found = gathered(run)
    assert (
        "Test set site-b: finetune and scratch share the highest mean Dice, 0.500 over 1 person "
        "(never seen in training)."
    ) in found.summary
    assert found.summary[-1] == "2 folds are missing: see the table of tasks."
    drawn = [(o.arm, o.split, o.case, o.rank, o.label) for o in found.overlays]
    assert drawn == [
        ("finetune", "validation", "s1-anna", "only case", "cord"),
        ("scratch", "validation", "s1-anna", "only case", "cord"),
        ("finetune", "site-b", "s1-ben", "only case", "cord"),
        ("scratch", "site-b", "s1-ben", "only case", "cord"),
    ]
    assert {c.split for c in found.comparisons} == {"validation", "site-b"}
    assert dict(found.facts)["test set site-b"] == "1 image of 1 person"


def test_an_arm_that_has_not_predicted_all_of_a_test_set_is_named(run: RunFolder) -> None:
    set_aside(run, arms=("finetune",))
    assert gathered(run).summary[-1] == (
        "Test set site-b: scratch has predicted 0 of 1 images: see the table of tasks."
    )


def test_the_terminals_table_leaves_test_sets_out(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    set_aside(run, arms=("finetune", "scratch"))
    show_outcome(run)
    shown = capsys.readouterr().out
    totals = [line.split() for line in shown.splitlines() if line.split()[:1] == ["all"]]
    assert totals == [["all", "0.900", "0.600"]]


def test_a_case_that_stands_out_in_several_labels_is_drawn_once(run: RunFolder) -> None:
    publish(run)
    cases = replace(run.cases, labels={"cord": 1, "lesion": 2})
    run.write("cases.json", cases)
    scores = read_scores(run.path)
    write_scores(
        [*scores, *(replace(s, label="lesion", dice=1 - s.dice) for s in scores)], run.path
    )
    drawn = [(o.arm, o.case) for o in gathered(run).overlays]
    assert sorted(drawn) == [
        (arm, f"s1-{who}") for arm in ("finetune", "scratch") for who in PEOPLE
    ]


def test_a_run_with_a_data_set_shows_it(run: RunFolder) -> None:
    write_rows([row("s1-anna", person="anna"), row("s1-ben", person="ben")], run.file("cases.tsv"))
    found = gathered(run).dataset
    assert found is not None
    assert (found.counts[-1].images, found.counts[-1].people) == (2, 2)
    assert [picture.case for picture in found.pictures] == ["s1-ben"]


def test_a_retraining_says_nothing_of_comparing(run: RunFolder) -> None:
    respecify(run, kind="train", splits="{train: 0.8, val: 0.2}", weights="null")
    found = gathered(run)
    assert (found.kind, found.arms, found.folds) == ("train", ("train",), (0,))
    assert found.summary == ("No fold has finished.",)
