"""From a job and a cluster profile to stages, elements and tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core import door
from ca_hpc.core.codec import decode, encode
from ca_hpc.core.expand import expand, sliced
from ca_hpc.core.model import Runtime, Stage, Workflow
from ca_hpc.core.profile import Cluster
from ca_hpc.core.rules import Failure
from ca_hpc.core.spec import JobSpec, completed
from ca_hpc.errors import SpecError

JOB = """\
kind: finetune
name: neck
cluster: here
data: [{type: bids, path: data, label_suffix: _seg}]
weights: model.pth
"""
CLUSTER = """\
name: here
gpu: a100
gpus:
  a100: {flag: "--gres=gpu:a100:{count}", cpus: 12, ram: 124GB}
"""


def expanded(job: str = "", cluster: str = "", *, test_sets: bool = False) -> Workflow:
    """The workflow of the shortest job and profile with these lines added."""
    return expand(
        completed(door.read(JobSpec, JOB + job, file="job.yaml")),
        door.read(Cluster, CLUSTER + cluster, file="here.yaml"),
        run_folder="/runs/neck-001",
        runtime=Runtime("none", "/usr/bin/python3"),
        node_python="/usr/bin/python3",
        mounts=(),
        test_sets=test_sets,
    )


def stage(name: str, job: str = "", cluster: str = "") -> Stage:
    return next(s for s in expanded(job, cluster).stages if s.name == name)


def test_a_job_has_five_stages_and_reports_also_when_folds_are_missing() -> None:
    assert [(s.name, s.after, s.condition) for s in expanded().stages] == [
        ("prepare", None, "afterok"),
        ("preprocess", "prepare", "afterok"),
        ("train", "preprocess", "afterok"),
        ("evaluate", "train", "afterany"),
        ("report", "evaluate", "afterany"),
    ]


def test_test_sets_are_predicted_by_each_arm_with_whatever_folds_there_are() -> None:
    stages = {s.name: s for s in expanded(test_sets=True).stages}
    assert list(stages) == ["prepare", "preprocess", "train", "predict", "evaluate", "report"]
    predict = stages["predict"]
    assert (predict.after, predict.condition) == ("train", "afterany")
    assert [[t.id for t in e.tasks] for e in predict.elements] == [
        ["predict-finetune"],
        ["predict-scratch"],
    ]
    assert predict.resources.gpus == 1
    assert stages["evaluate"].after == "predict"


def test_shards_are_elements_and_assemble_runs_before_preprocess_in_one() -> None:
    stages = {s.name: s for s in expanded("prepare: {shards: 3}\n").stages}
    assert [[t.id for t in e.tasks] for e in stages["prepare"].elements] == [
        ["prepare-shard0"],
        ["prepare-shard1"],
        ["prepare-shard2"],
    ]
    assert stages["prepare"].tasks[2].arguments[-2:] == ("--shard", "2")
    (element,) = stages["preprocess"].elements
    assert ([t.id for t in element.tasks], element.slots) == (["assemble", "preprocess"], 1)


def test_one_element_is_one_fold_of_one_arm_folds_outside() -> None:
    train = stage("train", job="folds: [3, 1]\n")
    assert [[t.id for t in e.tasks] for e in train.elements] == [
        ["train-finetune-fold1"],
        ["train-scratch-fold1"],
        ["train-finetune-fold3"],
        ["train-scratch-fold3"],
    ]
    assert [e.id for e in train.elements] == ["train.0", "train.1", "train.2", "train.3"]
    assert train.tasks[0].arguments == (
        "--run", "/runs/neck-001", "--arm", "finetune", "--fold", "1"
    )  # fmt: skip


# --- whose word counts -------------------------------------------------------------------------


def test_the_job_counts_over_the_profile_and_the_profile_over_the_defaults() -> None:
    job = "resources: {preprocess: {cpus: 3}}\n"
    cluster = "resources: {preprocess: {cpus: 2, memory: 10GB}}\n"
    both = stage("preprocess", job, cluster).resources
    profile = stage("preprocess", "", cluster).resources
    default = stage("preprocess").resources
    assert (both.cpus, both.memory_mib, both.time_s) == (3, 10240, default.time_s)
    assert (profile.cpus, profile.memory_mib) == (2, 10240)
    assert (default.cpus, default.memory_mib) == (8, 32768)


def test_a_gpu_brings_its_cpus_and_memory_unless_the_job_or_profile_says_otherwise() -> None:
    two = stage("train", "resources: {train: {gpus: 2}}\n").resources
    assert (two.gpus, two.cpus, two.memory_mib, two.device) == (2, 24, 2 * 124 * 1024, "cuda")
    asked = stage("train", "resources: {train: {cpus: 5}}\n").resources
    assert (asked.cpus, asked.memory_mib) == (5, 124 * 1024)
    site = stage("train", "", "resources: {train: {memory: 60GB}}\n").resources
    assert (site.cpus, site.memory_mib) == (12, 60 * 1024)


def test_sbatch_parameters_of_the_job_count_over_the_sites_and_the_sites_over_ours() -> None:
    found = stage(
        "prepare",
        "resources: {prepare: {sbatch: {nice: 7, qos: mine}}}\n",
        "qos: site\nsbatch: {nice: 5, requeue: false, licenses: x}\n",
    ).sbatch
    assert (found["nice"], found["qos"], found["licenses"]) == (7, "mine", "x")
    assert "requeue" not in found  # false: without ours


def test_what_a_site_wants_is_in_every_stage() -> None:
    cluster = "account: def-lab\npartition: long\nconstraint: zen4\n"
    for one in expanded("", cluster).stages:
        assert one.sbatch["account"] == "def-lab"
        assert one.sbatch["partition"] == "long"
        assert one.sbatch["constraint"] == "zen4"
        assert "qos" not in one.sbatch


def test_a_job_gets_what_sbatch_has_and_limits_of_its_node() -> None:
    found = stage("train", "", "environment: [PATH]\n").sbatch
    # with names the node would ask a login shell for the rest
    assert (found["export"], found["propagate"]) == ("ALL", "NONE")


# --- GPUs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "parameter", "value"),
    [
        ("--gpus=h100:{count}", "gpus", "h100:2"),
        ("--gres=gpu:a100:{count}", "gres", "gpu:a100:2"),
        ("--gpus-per-node={count}", "gpus-per-node", "2"),
        ("--gpus=h100_3g.40gb:{count}", "gpus", "h100_3g.40gb:2"),
    ],
)
def test_a_gpu_is_asked_for_in_the_sites_own_way(flag: str, parameter: str, value: str) -> None:
    cluster = f'  other: {{flag: "{flag}", cpus: 4, ram: 30GB}}\n'
    train = stage("train", "resources: {train: {gpu: other, gpus: 2}}\n", cluster)
    assert train.sbatch[parameter] == value
    for name in ("prepare", "preprocess", "evaluate", "report"):
        assert parameter not in stage(name, "", cluster).sbatch


@pytest.mark.parametrize(
    "flag", ["gpu:{count}", "--gpus=1", "--gpus={n}", "-G {count}", "--gpus={count", "--gpus={}"]
)
def test_a_flag_that_sbatch_could_not_read_is_refused_with_the_profile(flag: str) -> None:
    with pytest.raises(SpecError, match=r"gpus\.other\.flag"):
        expanded("", f'  other: {{flag: "{flag}", cpus: 4, ram: 30GB}}\n')


def test_a_slice_of_a_gpu_is_given_out_at_most_once_per_job() -> None:
    cluster = '  mig: {flag: "--gpus=h100_3g.40gb:{count}", cpus: 6, ram: 62GB, most: 1}\n'
    job = "resources: {{train: {{gpu: mig, gpus: {n}}}}}\n"
    assert stage("train", job.format(n=1), cluster).resources.gpus == 1
    with pytest.raises(SpecError, match="at most 1 of mig per job, 2 asked for"):
        stage("train", job.format(n=2), cluster)


def test_a_gpu_that_the_cluster_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(SpecError, match=r"has no h200 \(it has: a100\)"):
        expanded("resources: {train: {gpu: h200}}\n")


def test_a_job_without_gpus_trains_on_cpus() -> None:
    train = stage("train", "resources: {train: {gpus: 0, cpus: 6}}\n")
    assert (train.resources.gpus, train.resources.cpus, train.resources.device) == (0, 6, "cpu")
    assert "gres" not in train.sbatch


# --- whole nodes and packing -------------------------------------------------------------------

WHOLE = "whole_node: true\nnode: {cpus: 48, memory: 500GB, gpus: 4}\n"


def test_where_jobs_get_whole_nodes_the_gpus_are_filled_with_folds() -> None:
    train = stage("train", "", WHOLE)
    assert [len(e.tasks) for e in train.elements] == [4, 4, 2]
    resources = train.resources
    assert (resources.gpus, resources.cpus, resources.memory_mib) == (4, 48, 500 * 1024)
    assert train.sbatch["exclusive"] is True
    assert train.sbatch["gres"] == "gpu:a100:4"


def test_stages_without_gpus_do_not_take_whole_nodes() -> None:
    prepare = stage("prepare", "", WHOLE)
    assert not prepare.resources.whole_node
    assert prepare.resources.cpus == 4
    assert "exclusive" not in prepare.sbatch


def test_packed_folds_share_one_element() -> None:
    train = stage("train", "resources: {train: {pack: 3}}\n")
    assert [[t.id for t in e.tasks] for e in train.elements][-1] == ["train-scratch-fold4"]
    assert [len(e.tasks) for e in train.elements] == [3, 3, 3, 1]


def test_a_task_in_an_element_that_is_not_full_gets_no_more_cpus_than_the_others() -> None:
    # other numbers of threads give other rounding
    for job, cluster in (("resources: {train: {pack: 3}}\n", ""), ("", WHOLE)):
        assert len({e.slots for e in stage("train", job, cluster).elements}) == 1


def test_more_tasks_than_cpus_do_not_fit_in_an_element() -> None:
    with pytest.raises(SpecError, match=r"resources\.train\.pack: 4 tasks on 2 CPUs"):
        stage("train", "resources: {train: {pack: 4, cpus: 2}}\n")


@given(pack=st.integers(1, 12), folds=st.integers(2, 9))
def test_however_packed_every_task_is_in_one_element(pack: int, folds: int) -> None:
    train = stage("train", f"splits: {{folds: {folds}}}\nresources: {{train: {{pack: {pack}}}}}\n")
    ids = [task.id for task in train.tasks]
    assert len(ids) == len(set(ids)) == 2 * folds
    assert all(1 <= len(e.tasks) <= e.slots == pack for e in train.elements)


# --- limits ------------------------------------------------------------------------------------


def test_a_longer_time_than_the_site_allows_is_refused_with_the_longest() -> None:
    site = 'limits: {longest_job: "12:00:00"}\n'
    with pytest.raises(
        SpecError, match=r"resources\.train\.time: 1-00:00:00 is more than"
    ) as refused:
        expanded("", site)
    assert refused.value.hint == (
        'write at most "12:00:00", or keep the time and cut it: slice: "12:00:00"'
    )
    assert stage("train", 'resources: {train: {slice: "12:00:00"}}\n', site).links == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("train: {slice: 13h}", r"resources\.train\.slice: 13:00:00 is more than the 12:00:00"),
        (
            "train: {time: 12h}, report: {time: 13h}",
            r"resources\.report\.time: 13:00:00 is more than the 12:00:00",
        ),
    ],
)
def test_what_cannot_be_cut_is_to_be_shorter(asked: str, told: str) -> None:
    with pytest.raises(SpecError, match=told) as refused:
        expanded(f"resources: {{{asked}}}\n", "limits: {longest_job: 12h}\n")
    assert refused.value.hint == 'write at most "12:00:00"'


def test_a_shorter_time_than_the_site_takes_is_lengthened() -> None:
    cluster = "limits: {shortest_job: 3h}\n"
    assert stage("report", "", cluster).resources.time_s == 3 * 3600
    assert stage("report", "", cluster).sbatch["time"] == "03:00:00"
    assert stage("train", "", cluster).resources.time_s == 24 * 3600


@pytest.mark.parametrize(
    ("asked", "at_once"), [("", 10), ("{at_once: 3}", 3), ("{at_once: 50}", 10)]
)
def test_no_more_elements_run_at_once_than_asked_for_or_there_are(asked: str, at_once: int) -> None:
    job = f"resources: {{train: {asked}}}\n" if asked else ""
    assert stage("train", job).at_once == at_once


def test_more_jobs_than_the_site_takes_are_refused_with_the_way_out() -> None:
    assert len(expanded("", "limits: {jobs: 14}\n").stages) == 5  # 10 folds and four others
    with pytest.raises(SpecError, match="14 jobs are more than the 13 of cluster here") as refused:
        expanded("", "limits: {jobs: 13}\n")
    assert "resources.train.pack" in str(refused.value.hint)
    assert expanded("resources: {train: {pack: 2}}\n", "limits: {jobs: 13}\n")


# --- short stages in one job -------------------------------------------------------------------


def test_short_stages_can_share_a_job_and_then_run_in_order() -> None:
    flow = expanded("", "fuse_short_stages: true\n")
    assert [(s.name, s.after, s.condition) for s in flow.stages] == [
        ("prepare", None, "afterok"),
        ("train", "prepare", "afterok"),
        ("evaluate", "train", "afterany"),
    ]
    (element,) = flow.stages[0].elements
    assert ([t.id for t in element.tasks], element.slots) == (
        ["prepare-shard0", "assemble", "preprocess"],
        1,
    )
    (last,) = flow.stages[2].elements
    assert [t.id for t in last.tasks] == ["evaluate", "report"]


def test_a_shared_job_has_the_time_of_both_and_the_most_of_the_rest() -> None:
    resources = stage("prepare", "", "fuse_short_stages: true\n").resources
    assert resources.time_s == (4 + 12) * 3600
    assert (resources.cpus, resources.memory_mib) == (8, 32 * 1024)


# --- all of it ---------------------------------------------------------------------------------


def test_the_local_machine_is_asked_for_no_more_than_it_has() -> None:
    cluster = "executor: local\nnode: {cpus: 2, memory: 4GB}\n"
    for one in expanded("resources: {train: {gpus: 0}}\n", cluster).stages:
        assert one.resources.cpus <= 2
        assert one.resources.memory_mib <= 4096


def test_the_same_job_gives_the_same_workflow_to_the_byte() -> None:
    text = encode(expanded("folds: [2, 0]\n", WHOLE))
    assert encode(expanded("folds: [2, 0]\n", WHOLE)) == text


def test_a_workflow_is_read_back_as_it_was_written() -> None:
    flow = expanded("resources: {train: {sbatch: {nice: 3, hold: true}}}\n", WHOLE)
    assert decode(Workflow, encode(flow)) == flow


def test_an_element_is_found_with_its_stage() -> None:
    flow = expanded()
    found, element = flow.stage_of("train.4")
    assert (found.name, element.tasks[0].id) == ("train", "train-finetune-fold2")
    with pytest.raises(KeyError):
        flow.stage_of("train.99")


# --- slices and continuation ---------------------------------------------------------------------

SLICED = 'resources: {train: {time: "24:00:00", slice: "3:00:00"}}\n'


def test_a_training_in_slices_asks_for_the_slice_alone() -> None:
    train = stage("train", SLICED)
    assert train.resources.time_s == 3 * 3600
    assert train.sbatch["time"] == "03:00:00"
    assert train.links == 1  # the job is queued again


def test_where_sites_continue_by_arrays_a_chain_has_the_slices_of_the_time_and_two_to_spare() -> (
    None
):
    assert stage("train", SLICED, "continuation: array\n").links == 10
    assert stage("train", "", "continuation: array\n").links == 3
    assert stage("prepare", "", "continuation: array\n").links == 1


def test_links_count_as_jobs() -> None:
    site = "continuation: array\nlimits: {jobs: 100}\n"
    with pytest.raises(SpecError, match="104 jobs are more than the 100") as refused:
        expanded(SLICED, site)
    assert refused.value.hint == (
        "each training is a chain of 10 jobs (continuation: array): a longer "
        "resources.train.slice, resources.train.pack, or continuation: resubmit"
    )
    with pytest.raises(SpecError, match="34 jobs are more than the 20") as refused:
        expanded("", "continuation: array\nlimits: {jobs: 20}\n")
    assert "slice" not in str(refused.value.hint)  # there is none that could be longer


def test_a_profile_cannot_cut_what_is_one_job_either() -> None:
    with pytest.raises(SpecError, match=r"here\.yaml:\d+:\d+: .*only predict and train can be cut"):
        expanded("", "resources: {evaluate: {slice: 1h}}\n")


def test_a_shorter_time_of_the_job_counts_over_the_slice_of_the_profile() -> None:
    train = stage("train", "resources: {train: {time: 1h}}\n", "resources: {train: {slice: 3h}}\n")
    assert train.resources.time_s == 3600


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        ("", {"train": 24 * 3600}),
        ("continuation: array\n", {"train": 24 * 3600}),
        ("executor: local\n", {}),  # nothing ends a process there
    ],
)
def test_what_is_cut_into_slices_is_known_with_its_whole_time(
    cluster: str, told: dict[str, int]
) -> None:
    spec = completed(door.read(JobSpec, JOB + SLICED, file="job.yaml"))
    site = door.read(Cluster, CLUSTER + cluster, file="here.yaml")
    assert sliced(spec, site, expanded(SLICED, cluster, test_sets=True)) == told


@pytest.mark.parametrize(("time", "signal"), [("24:00:00", "B:USR2@120"), ("2min", "B:USR2@15")])
def test_a_short_job_is_not_warned_before_it_has_begun(time: str, signal: str) -> None:
    assert stage("train", f'resources: {{train: {{time: "{time}"}}}}\n').sbatch["signal"] == signal


def test_the_rules_of_retrying_reach_the_node() -> None:
    rules = expanded("retry: {node: 7, host-memory: {most_memory: 64GB}}\nmax_gpu_hours: 40\n")
    assert rules.retry[Failure.NODE].tries == 7
    assert rules.retry[Failure.HOST_MEMORY].most_memory_mib == 64 * 1024
    assert rules.max_gpu_hours == 40
    assert decode(Workflow, encode(rules)) == rules
