"""The dry run's text can be pasted into a shell."""

from __future__ import annotations

import shlex

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
    lines = render(flow, script=None, started=lambda *_: command).split("\n")
    start = lines.index("-- only.0 one")
    assert lines[start + 1 : start + 3] == ["   A=1", "   B='2 3'"]
    assert shlex.split("\n".join(lines[start + 3 : -1])) == argv
