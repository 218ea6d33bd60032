"""The dry run's text can be pasted into a shell, and says how many jobs there are."""

from __future__ import annotations

import shlex
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.model import Command, Element, Resources, Runtime, Stage, Task, Workflow
from ca_hpc.core.render import render

words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x00"))


@given(st.lists(words, min_size=1, max_size=5))
def test_a_command_reads_back_as_its_argv(argv: list[str]) -> None:
    task = Task("one", "module")
    flow = Workflow(
        run_folder="/r", executor="local", node_python="python", node_local=None, setup=(),
        runtime=Runtime("none", "python"), mounts=(), threads=None,
        stages=(
            Stage("only", (Element("only.0", (task,)),), Resources(60, 1, 1024), {}, at_once=1),
        ),
    )  # fmt: skip
    command = Command(tuple(argv), {"B": "2 3", "A": "1"})
    lines = render(flow, sliced={}, script=None, started=lambda *_: command).split("\n")
    start = lines.index("-- only.0 one")
    assert lines[start + 1 : start + 3] == ["   A=1", "   B='2 3'"]
    assert shlex.split("\n".join(lines[start + 3 : -1])) == argv


def shown(*, sliced: dict[str, int], elements: int = 2, links: int = 1, **flow: Any) -> list[str]:
    """The text's lines of a workflow with a stage of jobs of three hours."""
    stage = Stage(
        "train",
        tuple(Element(f"train.{i}", (Task(f"fold{i}", "module"),)) for i in range(elements)),
        Resources(3 * 3600, 8, 32 * 1024, gpus=1),
        {},
        at_once=elements,
        links=links,
    )
    workflow = Workflow(
        run_folder="/r", executor="slurm", node_python="python", setup=(),
        runtime=Runtime("none", "python"), mounts=(), threads=None, stages=(stage,),
        **{"node_local": None, **flow},
    )  # fmt: skip
    text = render(
        workflow, sliced=sliced, script=lambda _: "#SBATCH", started=lambda *_: Command(("a",))
    )
    return text.splitlines()


def test_a_chain_for_each_element_shows_as_one_with_the_number_of_all() -> None:
    lines = shown(sliced={"train": 24 * 3600}, links=10, continuation="array")
    start = lines.index("== train: 2 tasks in 2 elements, each 8 CPUs, 32GB, 1 GPU, 03:00:00")
    assert lines[start + 1 : start + 4] == [
        "   each element is one array of 10 jobs, one at a time: 1-00:00:00 in 8 slices of 03:00:00"
        ", and 2 to spare; 20 jobs",
        "   the first of 2 arrays, which differ in the submission's number only:",
        "   #SBATCH",
    ]


def test_the_chain_of_a_single_element_is_the_only_one() -> None:
    lines = shown(sliced={}, links=3, elements=1, continuation="array")
    start = lines.index("== train: 1 task in 1 element, each 8 CPUs, 32GB, 1 GPU, 03:00:00")
    assert lines[start + 1 : start + 3] == [
        "   one array of 3 jobs, one at a time: 03:00:00 in 1 job, and 2 to spare",
        "   #SBATCH",
    ]


def test_the_head_names_what_a_run_goes_on_by_and_ends_at() -> None:
    lines = shown(sliced={"train": 10 * 3600}, node_local="$SLURM_TMPDIR", max_gpu_hours=40.0)
    assert lines[: lines.index("")] == [
        "run folder  /r",
        "executor    slurm",
        "runtime     none",
        "continuation  requeue",
        "slices      train: 10:00:00 in 4 slices of 03:00:00",
        "ceiling     40 GPU hours",
        "staging     auto ($SLURM_TMPDIR)",
    ]
    assert not any("array" in line for line in lines)
