"""Whether a task is tried again, where, when and with how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.door import read
from ca_hpc.core.retry import MOST_EXCLUDED, MOST_GROWTH, MOST_WAIT_S, Decision, Past, decide
from ca_hpc.core.retry_spec import FINAL, Change, Retried, merged
from ca_hpc.core.rules import DEFAULTS, Failure, Rule
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import SpecError

F = Failure
GIB = 1024


def after(*past: Past, rules: dict[Failure, Rule] | None = None, **more: int) -> Decision:
    return decide(past, {**DEFAULTS, **(rules or {})}, **{"memory_mib": 16 * GIB, **more})


# --- which classes


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (F.PREEMPTED, 4), (F.TIME, 4), (F.NODE, 4),  # no-progress ends them after the fifth
        (F.GPU, 3), (F.HOST_MEMORY, 3), (F.CRASH, 2), (F.UNKNOWN, 2),
        (F.GPU_MEMORY, 0), (F.DISK, 0), (F.ACCESS, 0), (F.IMAGE, 0), (F.CODE, 0), (F.INPUT, 0),
        (F.DEPENDENCY, 0), (F.CANCELLED, 0), (F.BUDGET, 0), (F.NO_PROGRESS, 0),
    ],
)  # fmt: skip
def test_a_task_that_gets_nowhere_is_tried_again_so_many_times(
    failure: Failure, tries: int
) -> None:
    past = [Past(failure, f"n{i}") for i in range(20)]
    rules = (
        {F.NO_PROGRESS: DEFAULTS[F.NO_PROGRESS]}
        if failure is not F.NO_PROGRESS
        else {F.NO_PROGRESS: Rule()}
    )
    again = [after(*past[: i + 1], rules=rules).again for i in range(20)]
    assert again == [True] * tries + [False] * (20 - tries)


def test_a_training_that_is_preempted_daily_and_advances_goes_on_for_ever() -> None:
    past = [Past(F.PREEMPTED, "n1", progress=(day, 0)) for day in range(200)]
    assert all(after(*past[: day + 1]).again for day in range(200))


def test_what_is_interrupted_at_the_same_place_again_and_again_ends_as_no_progress() -> None:
    kinds = (F.PREEMPTED, F.TIME, F.PREEMPTED, F.NODE, F.PREEMPTED)
    past = [Past(F.PREEMPTED, progress=(3, 10)), *(Past(k, progress=(3, 10)) for k in kinds)]
    assert after(*past[:-1]).again
    ended = after(*past)
    assert (ended.again, ended.failure) == (False, F.NO_PROGRESS)
    assert ended.why == ("5 times in a row (preempted, time, node) it ended no further than before")


def test_to_fall_back_to_an_older_checkpoint_is_no_progress() -> None:
    places = [(5, 0), (4, 0), (4, 9), (5, 0), (3, 0), (4, 0)]
    past = [Past(F.PREEMPTED, progress=place) for place in places]
    assert not after(*past).again
    assert after(*past, Past(F.PREEMPTED, progress=(5, 1))).again


def test_progress_in_between_gives_a_class_its_tries_back() -> None:
    past = [Past(F.CRASH, progress=(1,)), Past(F.CRASH, progress=(1,))]
    assert after(*past).again
    assert not after(*past, Past(F.CRASH, progress=(1,))).again
    assert after(*past, Past(F.CRASH, progress=(2,))).again


def test_other_classes_do_not_use_up_the_tries_of_one() -> None:
    past = [Past(F.CRASH), Past(F.NODE), Past(F.NODE)]
    assert after(*past, Past(F.CRASH)).again


def test_a_run_without_budget_ends() -> None:
    past = [Past(F.PREEMPTED, progress=(1,))]
    assert decide(past, DEFAULTS, memory_mib=1, gpu_hours_left=0.5).again
    ended = decide(past, DEFAULTS, memory_mib=1, gpu_hours_left=0.0)
    assert (ended.again, ended.failure) == (False, F.BUDGET)


# --- with how much memory


def test_want_of_memory_is_answered_with_half_as_much_again_up_to_four_times() -> None:
    given, got = 16 * GIB, []
    past: list[Past] = []
    for _ in range(3):
        past.append(Past(F.HOST_MEMORY, memory_mib=given))
        decision = after(*past)
        assert decision.memory_mib is not None
        given = decision.memory_mib
        got.append(given)
    assert got == [24 * GIB, 36 * GIB, 54 * GIB]
    assert not after(*past, Past(F.HOST_MEMORY, memory_mib=given)).again


def test_at_the_most_it_ends_and_says_with_how_much() -> None:
    rule = {F.HOST_MEMORY: Rule(tries=9, more_memory=2, most_memory_mib=20 * GIB)}
    first = Past(F.HOST_MEMORY, memory_mib=16 * GIB)
    assert after(first, rules=rule).memory_mib == 20 * GIB
    ended = after(first, Past(F.HOST_MEMORY, memory_mib=20 * GIB), rules=rule)
    assert (ended.again, ended.why) == (False, "host-memory with 20GB, the most it may have")


def test_at_the_most_it_still_goes_on_where_it_advances_as_with_a_slow_leak() -> None:
    rule = {F.HOST_MEMORY: Rule(tries=3, more_memory=2, most_memory_mib=16 * GIB)}
    past = [Past(F.HOST_MEMORY, progress=(epoch,)) for epoch in range(30)]
    decision = after(*past, rules=rule)
    assert (decision.again, decision.memory_mib) == (True, None)


def test_what_nodes_have_is_the_most_too() -> None:
    decision = after(Past(F.HOST_MEMORY), most_memory_mib=20 * GIB)
    assert decision.memory_mib == 20 * GIB


def test_the_memory_that_was_granted_stays_with_the_task() -> None:
    past = (Past(F.HOST_MEMORY), Past(F.PREEMPTED, memory_mib=24 * GIB, progress=(1,)))
    assert after(*past).memory_mib == 24 * GIB


# --- where


def test_a_node_is_left_out_after_two_failures_there_and_a_gpu_at_once() -> None:
    assert after(Past(F.NODE, "n1")).exclude == ()
    assert after(Past(F.NODE, "n1"), Past(F.NODE, "n2")).exclude == ()
    assert after(Past(F.NODE, "n1"), Past(F.NODE, "n1")).exclude == ("n1",)
    assert after(Past(F.GPU, "n7")).exclude == ("n7",)


def test_a_node_stays_out_when_the_task_is_preempted_elsewhere() -> None:
    assert after(Past(F.GPU, "n7"), Past(F.PREEMPTED, "n8", progress=(1,))).exclude == ("n7",)


def test_preemption_and_time_are_no_fault_of_a_node() -> None:
    past = [Past(F.PREEMPTED, "n1", progress=(i,)) for i in range(9)]
    assert after(*past).exclude == ()


def test_not_all_nodes_are_left_out() -> None:
    rule = {F.GPU: Rule(tries=99, elsewhere=1)}
    past = [Past(F.GPU, f"n{i:02}", progress=(i,)) for i in range(30)]
    assert after(*past, rules=rule).exclude == tuple(f"n{i}" for i in range(20, 30))
    assert after(*past, rules=rule, nodes=5).exclude == ("n28", "n29")
    assert after(*past, rules=rule, nodes=1).exclude == ()


# --- when


def test_the_wait_doubles_up_to_an_hour() -> None:
    rules = {F.NODE: Rule(tries=99, wait_s=60), F.NO_PROGRESS: Rule(tries=99)}
    waits = [after(*[Past(F.NODE)] * n, rules=rules).wait_s for n in (1, 2, 3, 6, 7, 90)]
    assert waits == [60, 120, 240, 1920, MOST_WAIT_S, MOST_WAIT_S]
    assert after(Past(F.PREEMPTED)).wait_s == 0
    patient = {F.DISK: Rule(tries=2, wait_s=2 * MOST_WAIT_S)}
    assert after(Past(F.DISK), rules=patient).wait_s == 2 * MOST_WAIT_S


# --- what is said


@pytest.mark.parametrize(
    ("past", "why"),
    [
        (
            [Past(F.HOST_MEMORY, "n1", memory_mib=16 * GIB)],
            "host-memory: again, 1 of 3 times without progress, with 24GB instead of 16GB",
        ),
        ([Past(F.GPU, "n1")], "gpu: again, 1 of 3 times without progress, not on n1"),
        ([Past(F.CODE)], "code is not tried again by itself"),
        ([Past(F.CRASH)] * 3, "crash: tried again 2 times, in vain"),
    ],
)
def test_a_decision_says_why(past: Sequence[Past], why: str) -> None:
    assert after(*past).why == why


# --- for all histories

histories = st.lists(
    st.builds(
        Past,
        failure=st.sampled_from(Failure),
        node=st.none() | st.sampled_from(["n1", "n2", "n3"]),
        memory_mib=st.none() | st.integers(1, 64 * GIB),
        progress=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=25,
)
rule_sets = st.fixed_dictionaries(
    {
        failure: st.builds(
            Rule,
            tries=st.integers(0, 1000),
            wait_s=st.integers(0, 7200),
            elsewhere=st.none() | st.integers(1, 3),
            more_memory=st.none() | st.floats(1.01, 10),
            most_memory_mib=st.none() | st.integers(1, 64 * GIB),
        )
        for failure in Failure
    }
)


@given(histories, rule_sets, st.integers(1, 32 * GIB), st.none() | st.integers(1, 12))
def test_any_decision_is_sound(
    past: list[Past], rules: dict[Failure, Rule], memory_mib: int, nodes: int | None
) -> None:
    decision = decide(past, rules, memory_mib=memory_mib, nodes=nodes)
    assert decision.why
    if not decision.again:
        return
    assert rules[past[-1].failure].tries > 0
    assert len(set(decision.exclude)) == len(decision.exclude) <= MOST_EXCLUDED
    assert set(decision.exclude) <= {p.node for p in past}
    assert nodes is None or len(decision.exclude) < nodes
    given = past[-1].memory_mib or memory_mib
    most = rules[past[-1].failure].most_memory_mib or MOST_GROWTH * memory_mib
    assert given <= (decision.memory_mib or memory_mib) <= max(given, most)
    assert 0 <= decision.wait_s <= max(MOST_WAIT_S, rules[past[-1].failure].wait_s)


@given(rule_sets, st.lists(st.sampled_from(Failure), min_size=1), st.integers(1, 8))
def test_nothing_is_tried_for_ever_without_progress(
    rules: dict[Failure, Rule], kinds: list[Failure], most: int
) -> None:
    """Also when a task stands at a place that it reached once."""
    rules = {**rules, F.NO_PROGRESS: Rule(tries=most)}
    past = [Past(kinds[0], progress=(1, 1))]
    while decide(past, rules, memory_mib=GIB).again:
        past.append(Past(kinds[len(past) % len(kinds)], progress=(1, 1)))
        assert len(past) <= most + 1


# --- in the job spec


SPEC = """\
kind: train
name: a
cluster: local
data: [{type: bids, path: /d}]
"""


def spec(retry: str) -> JobSpec:
    return read(JobSpec, SPEC + f"retry: {retry}\n", file="job.yaml")


def test_a_job_changes_what_it_names_and_leaves_the_rest() -> None:
    asked = spec(
        "{node: 3, host-memory: {more_memory: 2.0, most_memory: 64GB}, disk: {tries: 2, wait: 1h}}"
    )
    rules = merged(asked.retry)
    assert rules[F.NODE] == Rule(tries=3, wait_s=60, elsewhere=2)
    assert rules[F.HOST_MEMORY] == Rule(tries=3, more_memory=2, most_memory_mib=64 * GIB)
    assert rules[F.DISK] == Rule(tries=2, wait_s=3600)
    unchanged = set(Failure) - {F.NODE, F.HOST_MEMORY, F.DISK}
    assert all(rules[failure] == DEFAULTS[failure] for failure in unchanged)


def test_without_a_word_the_defaults_hold() -> None:
    assert merged({}) == dict(DEFAULTS)
    assert merged({"node": Change()}) == dict(DEFAULTS)


def test_every_class_has_a_default_and_may_be_retried_or_says_why_not() -> None:
    values = {failure.value for failure in Failure}
    assert set(DEFAULTS) == set(Failure)
    assert set(get_args(Retried)) | set(FINAL) == values
    assert not set(get_args(Retried)) & set(FINAL)


def test_rules_are_kept_in_a_record() -> None:
    rules = merged({"node": 3})
    assert decode(dict[Failure, Rule], encode(rules)) == rules


@pytest.mark.parametrize(
    ("retry", "said"),
    [
        (
            "{cancelled: 1}",
            "retry.cancelled: is never tried again by itself: somebody wanted it to end",
        ),
        ("{input: 1}", "retry.input: is never tried again by itself: the same input"),
        ("{nod: 1}", "did you mean node?"),
        ("{node: -1}", "retry.node: should be greater than or equal to 0"),
        ("{node: {tires: 1}}", "unknown key retry.node.tires; did you mean tries?"),
        ("{node: {wait: 60}}", "retry.node.wait: a duration is text with a unit"),
        (
            "{node: {most_memory: 2GB}}",
            "retry.node.most_memory: is for host-memory and unknown, not for node",
        ),
        ("{host-memory: {more_memory: 0.5}}", "retry.host-memory.more_memory: should be greater"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(retry: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(retry)
    (_, problem) = refused.value.message.split("\n")
    assert problem.startswith("job.yaml:5:")
    assert said in problem
