"""A wrong job file: every problem at once, each with file:line:column and the next move."""

from __future__ import annotations

import pytest

from ca_hpc.core import checks, door
from ca_hpc.core.data_spec import Crop
from ca_hpc.core.profile import Cluster, Model
from ca_hpc.core.spec import JobSpec, completed
from ca_hpc.errors import ExitCode, SpecError

JOB = """\
kind: finetune
name: neck
cluster: local
data:
  - {type: bids, path: data, label_suffix: _seg}
weights: model.pth
"""


def read(text: str) -> JobSpec:
    """As the command line does it: types first, then what the types cannot say."""
    spec, document = door.parse(JobSpec, text, file="job.yaml")
    problems = list(document.problems)
    if spec is not None:
        spec = completed(spec)
        problems += checks.check(spec, document)
    door.refuse(problems, file="job.yaml")
    assert spec is not None
    return spec


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as refused:
        read(text)
    assert refused.value.exit_code is ExitCode.USAGE
    assert refused.value.hint
    count, *lines = refused.value.message.splitlines()
    assert count == (
        f"{len(lines)} problems in job.yaml" if len(lines) > 1 else "1 problem in job.yaml"
    )
    return [line.removeprefix("job.yaml:") for line in lines]


def test_the_shortest_job_has_every_default() -> None:
    spec = read(JOB)
    assert spec.fold_indices == (0, 1, 2, 3, 4)
    assert list(spec.arms) == ["finetune", "scratch"]
    assert spec.labels == {"cord": 1}


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = JOB.replace("cluster: local\n", "").replace("label_suffix", "label_sufix")
    text += "training:\n  epochs: -1\n  sed: 1\nresources:\n  train: {time: 24:00:00, cpus: 1.5}\n"
    assert problems(text) == [
        "1:1: cluster is missing",
        "4:30: unknown key data[0].label_sufix; did you mean label_suffix?",
        "7:3: training.epochs: should be greater than or equal to 0",
        "8:3: unknown key training.sed; did you mean seed?",
        '10:17: 24:00:00 without quotes is a number to some YAML readers; write "24:00:00"',
        "10:27: resources.train.cpus: should be a whole number",
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("lables: {cord: 1}", "7:1: unknown key lables; did you mean labels?"),
        ("Threads: 1", "7:1: unknown key Threads; did you mean threads?"),
        ("arms: {a: {weight: random}}", "7:12: unknown key arms.a.weight; did you mean weights?"),
        (
            "resources: {train: {cpu: 1}}",
            "7:21: unknown key resources.train.cpu; did you mean cpus?",
        ),
        (
            "plans: {spacing: {RL: 1, AP: 1, SI: 1, TT: 1}}",
            "7:40: unknown key plans.spacing.TT; known here: RL, AP, SI",
        ),
        ("plans: {spacing: {RL: 1, AP: 1}}", "7:9: plans.spacing.SI is missing"),
        (
            "plans: {spacing: modle}",
            "7:9: plans.spacing: should be like {RL: 1, AP: 1, SI: 1}, or should be 'model' or "
            "'dataset'; "
            "did you mean model?",
        ),
        ("plans: {patch_size: {RL: 64, AP: 192}}", "7:9: plans.patch_size.SI is missing"),
        (
            "plans: {patch_size: atuo}",
            "7:9: plans.patch_size: should be like {RL: 64, AP: 192, SI: 320}, or should be "
            "'auto'; did you mean auto?",
        ),
        ("crop: {margn: 30mm}", "7:8: unknown key crop.margn; did you mean margin?"),
        ("stem: repeated", "7:1: stem: should be 'exact' or 'repeat'; did you mean repeat?"),
        (
            "arms: {a: {weights: pretrain}}",
            "7:12: arms.a.weights: should be 'pretrained', 'random' or 'shuffled'; "
            "did you mean pretrained?",
        ),
        ("arms: {a: {warmup: 1}}", "7:12: unknown key arms.a.warmup; did you mean warmup_epochs?"),
        ("runtime: aptainer", "7:1: runtime: should be 'apptainer' or 'none'; "
                              "did you mean apptainer?"),
        (
            "resources: {trian: {cpus: 1}}",
            "7:13: unknown key resources.trian; did you mean train? known here: prepare, "
            "preprocess, train, predict, evaluate, report",
        ),
        (
            "retry: {nodes: 3}",
            "7:9: unknown key retry.nodes; did you mean node? known here: preempted, time, node, "
            "gpu, host-memory, crash, unknown, no-progress, gpu-memory, disk, access, image, code",
        ),
        ("continuation: array", "7:1: continuation belongs in the cluster profile "
                                "(docs/clusters.md)"),
        ("gpus: 2", "7:1: gpus belongs to a stage: resources: {train: {gpus: …}}"),
    ],
)  # fmt: skip
def test_a_key_or_word_that_is_not_known_gets_the_nearest_one(lines: str, told: str) -> None:
    assert problems(JOB + lines) == [told]


def test_unknown_keys_inside_each_kind_of_source_are_told_against_that_kind() -> None:
    text = JOB.replace(
        "weights:",
        "  - {type: nnunet, path: b, person: {colum: site}}\n"
        "  - {type: pairs, path: c, label_suffix: x}\n"
        "  - {type: bids, path: d, label_suffix: x, sesions: ['01']}\n"
        "weights:",
    )
    assert problems(text) == [
        "6:29: data[1].person.column is missing",
        "6:29: data[1].person.pattern is missing",
        "6:38: unknown key data[1].person.colum; did you mean column?",
        "7:28: unknown key data[2].label_suffix; known here: name, person, people, include, "
        "exclude, where, split, test_set, type, path",
        "8:44: unknown key data[3].sesions; did you mean sessions?",
    ]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{path: data}", "5:5: data[0]: type is missing (bids, git, nnunet, msd, pairs or pack)"),
        (
            "{type: bidz}",
            "5:6: data[0]: type must be one of 'bids', 'git', 'nnunet', 'msd', 'pairs', 'pack'",
        ),
        ("data", "5:5: data[0]: "),
    ],
)
def test_a_source_without_a_known_type_is_refused(source: str, told: str) -> None:
    text = JOB.replace("{type: bids, path: data, label_suffix: _seg}", source)
    (problem,) = problems(text)
    assert problem.startswith(told)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("training: {epochs: -1}", "training.epochs: should be greater than or equal to 0"),
        ("training: {epochs: 2.0}", "training.epochs: should be a whole number"),
        ("training: {epochs: true}", "training.epochs: should be a whole number"),
        ('training: {epochs: "2"}', "training.epochs: should be a whole number"),
        ("training: {initial_learning_rate: true}", "should be a number"),
        ('training: {initial_learning_rate: "0.1"}', "should be a number"),
        ("training: {initial_learning_rate: 0}", "should be greater than 0"),
        ("training: {initial_learning_rate: 1e999}", "should be a finite number"),
        ("training: {seed: 99999999999999999999}", "should be a whole number"),
        ("validation: {tile_step: 1.5}", "should be less than or equal to 1"),
        ('validation: {mirroring: "yes"}', "validation.mirroring: should be true or false"),
        ("validation: {mirroring: no}", "validation.mirroring: should be true or false"),
        # quotes would not help: the words that are allowed
        ("stage: no", "7:1: stage: should be 'auto' or 'never'"),
        ("crop: no", "7:1: crop: should be like {to: cord, margin: 30mm}, or should be 'none'"),
        ("resources: {train: {time: 24:00}}", "resources.train.time: '24:00' is not a duration"),
        ("training: {epochs: 0x1F}", 'write it in decimal digits, or "0x1F"'),
        ("retry: 3", "7:1: retry: should name classes of failure, like {crash: 2, node: 10}"),
        ("retry: none", "7:1: retry: should name classes of failure, like {crash: 2, node: 10}"),
        ("retry: no", "7:1: retry: should name classes of failure, like {crash: 2, node: 10}"),
        (
            "resources: {train: {slice: 30s}}",
            "7:21: resources.train.slice: 00:00:30 is too short to start, train and save; write at "
            'least "00:02:00", hours are usual',
        ),
        (
            "resources: {evaluate: {slice: 1h}}",
            "7:24: resources.evaluate.slice: only predict and train can be cut; take it out",
        ),
        (
            "resources: {train: {time: 2h, slice: 3h}}",
            "7:31: resources.train.slice: 03:00:00 is longer than the time, 02:00:00, of which it "
            "is to be a part; take it out, or write a shorter one",
        ),
        ("splits: {folds: 1}", "splits.folds: should be greater than or equal to 2"),
        ("folds: 7", "folds: should be 'all', or should be a list"),
        ("folds: alle", "folds: should be a list, or should be 'all'; did you mean all?"),
        ("folds: [-1]", "folds[0]: should be greater than or equal to 0"),
        ("model: 2025-01-01", "2025-01-01 without quotes is a date"),
        ("model: 7", "model: should be text"),
        ('model: ""', "model: String should have at least 1 character"),
        ("arms: [a]", "arms: should be keys with values"),
        ("arms: {a: }", "arms.a: should be keys with values"),
        ('arms: {"a b": {}}', "arms.a b: use letters, digits, - and _ only"),
        ("arms: {" + "a" * 65 + ": {}}", "use at most 64 characters"),
        ('model: "a\\0b"', "model: holds a null character"),
        (f"model: {'a' * 5000}", "model: String should have at most 4096 characters"),
        ('resources: {train: {sbatch: {comment: "a\\nb"}}}', "must be one line of printable"),
        ("resources: {train: {sbatch: {array: 0-9}}}", "sbatch.array: is set by ca-hpc itself"),
        ("resources: {train: {sbatch: {--mem: 1G}}}", "write sbatch's long option without dashes"),
        ("labels: {background: 1, cord: 2}", "labels: leave out background, it is always 0"),
        ("labels: {cord: first}", "labels.cord: should be a whole number"),
        ("resources: {train: {time: 24}}", 'a duration is text with a unit, like "24:00:00"'),
        ("resources: {train: {memory: 16}}", 'a size is text with a unit, like "512MB"'),
        ('resources: {train: {time: "25 hours ago"}}', "is not a duration"),
        ("crop: cord", "crop: should be like {to: cord, margin: 30mm}, or should be 'none'"),
        ("crop: {margin: 30}", 'crop.margin: a length is text with a unit, like "30mm"'),
        ('crop: {margin: "30"}', "crop.margin: '30' is not a length; write it with a unit"),
        ("crop: {margin: -1mm}", "crop.margin: '-1mm' is not a length"),
        ("crop: {margin: 9m}", "crop.margin: '9m' is not a length"),
        ("crop: {margin: 999cm}", "crop.margin: '999cm': a length is at most 1000mm"),
        ("crop: {to: lesion}", "crop.to: no label lesion; labels: cord"),
        ("plans: {axes: RPI}", "plans.axes: should be 'anatomical' or 'recipe'"),
        (
            "plans: {spacing: [1, 1, 1]}",
            "should be 'model' or 'dataset', or should be like {RL: 1,",
        ),
        ("plans: {spacing: {RL: 0, AP: 1, SI: 1}}", "plans.spacing.RL: should be greater than 0"),
        ("plans: {spacing: {RL: 1mm, AP: 1, SI: 1}}", "plans.spacing.RL: should be a number"),
        ("plans: {patch_size: {RL: 1, AP: 1, SI: 1.5}}", "SI: should be a whole number"),
        ("plans: {batch_size: 0}", "plans.batch_size: should be greater than or equal to 1"),
        ("arms: {a: {frozen_encoder_epochs: -1}}", "should be greater than or equal to 0"),
        ("arms: {a: {head: old}}", "arms.a.head: should be 'new' or 'pretrained'"),
        ("validation: {probabilities: 1}", "validation.probabilities: should be true or false"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_what_would(lines: str, told: str) -> None:
    (problem,) = problems(JOB + lines)
    assert problem.startswith("7:")
    assert told in problem


def test_keys_that_contradict_each_other_are_all_told_each_at_its_place() -> None:
    text = JOB + (
        "retry:\n  node: {most_memory: 4GB}\n  crash: {tries: 1, more_memory: 2}\n"
        "resources:\n  report: {slice: 1h}\n  predict: {time: 1h, slice: 2h}\n  trian: {}\n"
    )
    told = problems(text)
    assert told[:3] == [
        "8:10: retry.node.most_memory: is for host-memory and unknown, not for node",
        "9:21: retry.crash.more_memory: is for host-memory and unknown, not for crash",
        "13:3: unknown key resources.trian; did you mean train? known here: prepare, preprocess, "
        "train, predict, evaluate, report",
    ]
    told = problems(text.replace("  trian: {}\n", ""))
    assert [line.split(": ")[:2] for line in told[2:]] == [
        ["11:12", "resources.report.slice"],
        ["12:23", "resources.predict.slice"],
    ]


@pytest.mark.parametrize(
    ("kind", "text", "told", "then"),
    [
        (
            Cluster,
            "name: x\ncontinuation: no\n",
            "2:1: continuation: should be 'requeue', 'array' or 'resubmit'",
            "ca-hpc validate job.yaml --cluster x.yaml",
        ),
        (
            Cluster,
            "name: x\nretry: {node: 1}\n",
            "2:1: retry belongs in the job (docs/finetune.md)",
            "ca-hpc validate job.yaml --cluster x.yaml",
        ),
        (Model, "name: a b\n", "1:1: name: use letters", "ca-hpc validate job.yaml"),
    ],
)
def test_a_profile_is_checked_again_with_a_job(kind: type, text: str, told: str, then: str) -> None:
    with pytest.raises(SpecError) as refused:
        door.read(kind, text, file="x.yaml")
    assert f"\nx.yaml:{told}" in refused.value.message
    assert refused.value.hint == f"correct the file, then: {then}"


def test_a_long_value_does_not_fill_the_screen() -> None:
    (problem,) = problems(JOB + f"training: {{checkpoint_every: {'x' * 100_000}}}")
    assert "'xxx" in problem
    assert len(problem) < 500


def test_an_unquoted_duration_is_refused_with_the_quoted_form() -> None:
    (problem,) = problems(JOB + "training:\n  checkpoint_every: 1:10:00\n")
    assert problem == (
        '8:21: 1:10:00 without quotes is a number to some YAML readers; write "1:10:00"'
    )


def test_a_duration_that_no_reader_takes_for_a_number_needs_no_quotes() -> None:
    assert read(JOB + "training: {checkpoint_every: 00:10:00}").training.checkpoint_every == 600


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "- a\n- list\n", "finetune\n", "3\n"])
def test_a_file_that_is_not_keys_with_values_is_one_problem(text: str) -> None:
    assert problems(text) == ["1:1: the file: should be keys with values"]


# --- what the types cannot say ---------------------------------------------------------------


def test_fold_7_of_5_is_refused_with_the_folds_that_there_are() -> None:
    assert problems(JOB + "folds: [0, 7]\n") == [
        "7:12: folds[1]: there is no fold 7: splits.folds is 5, so folds are 0 to 4"
    ]


@pytest.mark.parametrize("folds", ["[]", "[1, 1]"])
def test_folds_are_named_once_and_at_least_one(folds: str) -> None:
    assert problems(JOB + f"folds: {folds}\n") == ["7:1: folds: name each fold once, at least one"]


def test_an_arm_from_pretrained_weights_needs_weights() -> None:
    text = JOB.replace("model.pth", "null") + "model: demo\narms:\n  ours: {weights: pretrained}\n"
    assert problems(text) == [
        "9:3: arms.ours starts from pretrained weights, but the job names none "
        "(weights: NAME; without any: kind: train)"
    ]


def test_the_default_arms_without_weights_are_told_at_the_weights() -> None:
    assert problems(JOB.replace("model.pth", "null") + "model: demo\n") == [
        "6:1: arms.finetune starts from pretrained weights, but the job names none "
        "(weights: NAME; without any: kind: train)"
    ]


def test_an_arm_on_the_models_plans_needs_a_model_from_somewhere() -> None:
    text = JOB.replace("model.pth", "null") + "arms:\n  own: {weights: random, plans: model}\n"
    assert problems(text) == [
        "8:3: arms.own takes the model's plans, but the job names neither weights nor model"
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("splits: {train: 0.8, val: 0.1, test: 0.2}", "7:1: splits: train, val and test are 1.1"),
        ("splits: {train: 0.8, vall: 0.2}", "7:22: unknown key splits.vall; did you mean val?"),
        ("splits: {file: a.yaml}\nfolds: [1]", "8:9: folds[0]: there is no fold 1: these"),
        ("labels: {a: {value: 1}, b: {value: 3}}", "7:1: labels: number them 1, 2,"),
        ("labels: {a: 1, ignore: 2}", "7:16: labels: nnU-Net's ignore label is not"),
        ("labels: {a: {valu: 1}}", "7:14: unknown key labels.a.valu; did you mean value?"),
        ("labels: {a: 1}\nregions: {x: [1, 2]}", "8:11: regions.x: no label has the value 2"),
        ("labels: {a: 1, b: 2}\nregions: {x: [1, 2], y: [2, 1]}", "8:1: regions: x and y are the"),
        ("labels: {a: 1, b: 2, c: 3}\nregions: {x: [1, 2]}", "8:1: regions: the label c is in"),
        ("labels: {a: 1, b: 2}\nregions: {x: [1], y: [2]}", "8:1: regions: each is one label"),
        ("labels: {a: 1, b: 2}\nregions: {x: [1, 2], y: [2]}\ncrop: {to: a}",
         "9:8: crop.to: no label a; labels: x, y"),
        ("prepare: {on_error: skipp}", "7:11: prepare.on_error: should be 'fail' or 'skip'"),
        ("prepare: {shards: 0}", "7:11: prepare.shards: should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_what_is_said_of_the_data_must_fit_together(lines: str, told: str) -> None:
    assert any(problem.startswith(told) for problem in problems(JOB + lines))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{type: bids, path: a}", "5:5: data[0].label_suffix is missing"),
        ("{type: bids, path: a, label_suffix: {lesion: _l}}", "no label lesion; labels: cord"),
        ("{type: msd, path: a, test_set: val}", "test_set: val is the name of something else"),
        ("{type: msd, path: a, test_set: x, split: {file: y}}", "all of it is the test set x"),
        ("{type: msd, path: a, split: {train: 1.0, val: 0.5}}", "data[0].split: train, val and"),
        ("{type: git, url: a, label_suffix: _s, commit: abc}", "data[0].commit"),
        ("{type: git, url: 'https://me:pw@h/x', label_suffix: _s}", "data[0].url: names a user"),
        ("{type: git, url: 'https://token@h/x', label_suffix: _s}", "data[0].url: names a user"),
        ("{type: git, url: 'ssh://git:pw@h/x', label_suffix: _s}", "data[0].url: names a user"),
        ("{type: pack, path: a, sha256: abc}", "data[0].sha256"),
    ],
)
def test_what_a_source_says_must_fit_together(source: str, told: str) -> None:
    text = JOB.replace("{type: bids, path: data, label_suffix: _seg}", source)
    assert any(told in problem for problem in problems(text))


def test_a_retraining_needs_no_weights_and_has_one_arm() -> None:
    spec = read(JOB.replace("finetune", "train").replace("weights: model.pth\n", ""))
    assert list(spec.arms) == ["train"]
    assert not spec.pretrained
    assert problems(JOB.replace("finetune", "train")) == [
        "6:1: kind: train starts from random weights; kind: finetune starts from these"
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            "training: {epochs: 0}\narms: {a: {weights: random, plans: planner}}",
            "7:12: arms.a: 0 epochs of random weights have learnt nothing",
        ),
        (
            "arms: {a: {epochs: 0}}",
            "7:12: arms.a: 0 epochs leave a new head untrained; head: pretrained keeps it",
        ),
        (
            "arms: {a: {weights: random, head: pretrained, plans: planner}}",
            "7:29: arms.a: head: pretrained, but its weights are random",
        ),
        (
            "arms: {a: {epochs: 5, warmup_epochs: 5}}",
            "7:23: arms.a: 5 warmup_epochs leave none of 5 epochs to train",
        ),
        (
            "training: {warmup_epochs: 9}\narms: {a: {epochs: 5}}",
            "7:12: arms.a: 9 warmup_epochs leave none of 5 epochs to train",
        ),
        (
            "arms: {a: {planner: ResEncL}}",
            "7:12: arms.a: planner counts with plans: planner only",
        ),
        (
            "training: {epochs: 50}\narms: {a: {trainer: nnUNetTrainer_250epochs}}",
            "8:12: arms.a: nnUNetTrainer_250epochs is for 250 epochs, but epochs is 50: name the "
            "trainer without them, and the number in epochs",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_told_at_one_of_them(lines: str, told: str) -> None:
    assert problems(JOB + lines) == [told]


def test_an_encoder_of_random_weights_is_not_frozen() -> None:
    arm = "arms: {a: {weights: random, plans: planner, frozen_encoder_epochs: 3}}"
    (problem,) = problems(JOB + arm)
    assert problem == "7:45: arms.a freezes an encoder of random weights"
    # said for all, it is meant for those that have learnt something
    read(JOB + "training: {frozen_encoder_epochs: 3}\narms: {f: {}, a: {weights: random}}")


def test_a_trainer_may_name_the_epochs_that_are_trained() -> None:
    spec = read(JOB + "training: {epochs: 50, trainer: nnUNetTrainer_50epochs}\n")
    assert spec.training.trainer == "nnUNetTrainer_50epochs"


@pytest.mark.parametrize("labels", ["{cord: 2}", "{cord: 1, lesion: 3}", "{a: 1, b: 1}", "{}"])
def test_labels_are_numbered_from_1_without_gaps(labels: str) -> None:
    (problem,) = problems(JOB + f"labels: {labels}\n")
    assert problem.startswith("7:1: labels: ")


@pytest.mark.parametrize(
    ("pattern", "told"),
    [("sub-(..", "missing )"), ("sub-..", "needs a group (…) around the person")],
)
def test_a_pattern_for_the_person_must_compile_and_hold_a_group(pattern: str, told: str) -> None:
    text = JOB.replace("_seg}", f'_seg, person: {{pattern: "{pattern}"}}}}')
    (problem,) = problems(text)
    assert problem.startswith("5:")
    assert "data[0].person.pattern: " in problem
    assert told in problem


def test_two_sources_of_one_name_are_refused() -> None:
    second = "  - {type: nnunet, path: b, name: s1}\nweights:"
    assert problems(JOB.replace("weights:", second)) == ["6:5: two sources are named s1"]


# --- records ---------------------------------------------------------------------------------


def test_a_resolved_spec_is_read_back_as_it_was() -> None:
    text = JOB + (
        "plans: {gpu_memory: 40GB, patch_size: {RL: 64, AP: 192, SI: 320}}\n"
        "resources:\n"
        '  train: {time: "1-12:00:00", memory: 1300MB, sbatch: {nice: 100, hold: true}}\n'
        "folds: [3, 1]\nthreads: 2\nlabels: {cord: 1, lesion: 2}\n"
        "crop: {to: lesion, margin: 2.5 cm}\nstem: repeat\n"
        "arms: {a: {head: pretrained, epochs: 0}, b: {weights: random, planner: ResEncL, "
        "plans: planner}}\n"
    )
    spec = read(text)
    again = door.load(JobSpec, door.dump(spec))
    assert again == spec
    assert door.dump(again) == door.dump(spec)
    assert again.fold_indices == (1, 3)
    assert again.crop == Crop("lesion", 25.0)
