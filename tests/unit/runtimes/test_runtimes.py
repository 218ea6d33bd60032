"""From a command to the command that is started: what gets in, and what does not."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.model import Command, Mount, Pin, Runtime
from ca_hpc.runtimes import wrap

IMAGE = Pin("/images/neck.sif", "ab" * 32)
APPTAINER = Runtime("apptainer", "python3", IMAGE)
BARE = Runtime("none", "/venv/bin/python")
INNER = Command(("python3", "-m", "step", "--run", "/runs/a b"), {"OMP_NUM_THREADS": "2"})
HOSTILE = {
    "APPTAINER_BIND": "/etc",
    "APPTAINERENV_LD_PRELOAD": "/evil.so",
    "APPTAINERENV_PYTHONPATH": "/evil",
    "SINGULARITY_BIND": "/etc",
    "SINGULARITYENV_PATH": "/evil",
    "PYTHONPATH": "/evil",
    "PYTHONSTARTUP": "/evil.py",
    "PYTHONHOME": "/evil",
    "LD_PRELOAD": "/evil.so",
    "BASH_ENV": "/evil.sh",
    "nnUNet_results": "/other/results",
    "OMP_NUM_THREADS": "64",
}
PLAIN = {"PATH": "/usr/bin", "HOME": "/home/me", "USER": "me", "LOGNAME": "me"}

paths = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)


def wrapped(
    runtime: Runtime = APPTAINER,
    *,
    mounts: tuple[Mount, ...] = (),
    gpu: bool = False,
    environment: Mapping[str, str] = PLAIN,
    node_python: str | None = None,
) -> Command:
    return wrap(
        INNER,
        runtime,
        mounts=mounts,
        work_folder="/local/work",
        gpu=gpu,
        host_environment=environment,
        node_python=node_python,
    )


def mounts_in(argv: tuple[str, ...]) -> list[list[str]]:
    """The fields of every --mount, as Apptainer's CSV reader sees them."""
    values = [value for flag, value in pairwise(argv) if flag == "--mount"]
    return [next(csv.reader([value], strict=True)) for value in values]


@pytest.mark.parametrize("runtime", [APPTAINER, BARE], ids=lambda r: r.kind)
def test_nothing_of_the_callers_containers_python_or_loader_gets_through(runtime: Runtime) -> None:
    found = wrapped(runtime, environment=PLAIN | HOSTILE).environment
    assert not [value for value in found.values() if "evil" in value or "/etc" in value]
    assert not [key for key in found if key.startswith(("PYTHON", "LD_PRELOAD", "SINGULARITY"))]
    assert {key for key in found if key.startswith("APPTAINER")} <= {"APPTAINERENV_OMP_NUM_THREADS"}
    assert "64" not in found.values()


def test_an_image_sees_the_tasks_variables_and_nothing_of_the_host() -> None:
    assert wrapped().environment == {**PLAIN, "APPTAINERENV_OMP_NUM_THREADS": "2"}


def test_without_an_image_a_task_has_its_variables_and_the_nodes_basic_ones() -> None:
    assert wrapped(BARE).environment == {
        **PLAIN,
        "HOME": "/local/work/home",
        "TMPDIR": "/local/work",
        "OMP_NUM_THREADS": "2",
    }


def test_without_an_image_the_command_is_started_as_it_is() -> None:
    assert wrapped(BARE, gpu=True).argv == INNER.argv


def test_apptainer_runs_the_image_with_the_command_last() -> None:
    argv = wrapped().argv
    assert argv[:2] == ("apptainer", "exec")
    end = len(argv) - len(INNER.argv)
    assert argv[end - 1 :] == ("/images/neck.sif", *INNER.argv)


def test_an_image_is_closed_to_the_host_but_for_its_mounts() -> None:
    argv = wrapped().argv
    assert {"--containall", "--cleanenv", "--no-eval"} <= set(argv)
    assert argv[argv.index("--workdir") + 1] == "/local/work"
    assert argv[argv.index("--home") + 1] == "/local/work/home:/home/ca-hpc"


def test_the_gpus_driver_comes_in_only_where_there_is_a_gpu() -> None:
    assert "--nv" in wrapped(gpu=True).argv
    assert "--nv" not in wrapped(gpu=False).argv


def test_an_image_is_run_by_the_guard_which_gets_the_same_command_and_environment() -> None:
    plain, guarded = wrapped(), wrapped(node_python="/venv/bin/python")
    guard = ("/venv/bin/python", "-I", "-m", "ca_hpc.guard", "--image", "/images/neck.sif")
    assert guarded.argv[: len(guard)] == guard
    assert guarded.argv[len(guarded.argv) - len(plain.argv) - 1 :] == ("--", *plain.argv)
    assert guarded.environment == plain.environment


def test_what_the_guard_writes_lies_in_the_work_folder() -> None:
    argv = wrapped(node_python="/venv/bin/python").argv
    assert argv[argv.index("--mount-point") + 1] == "/local/work/image"
    assert argv[argv.index("--record") + 1] == "/local/work/image-mount.txt"


def test_without_an_image_there_is_no_guard() -> None:
    assert wrapped(BARE, node_python="/venv/bin/python").argv == INNER.argv


def test_a_sites_own_executable_and_arguments_are_used() -> None:
    site = Runtime("apptainer", "python3", IMAGE, "/opt/bin/singularity", ("--userns", "-c x"))
    assert wrapped(site).argv[:4] == ("/opt/bin/singularity", "exec", "--userns", "-c x")


def test_a_mount_is_read_only_unless_it_says_otherwise() -> None:
    found = mounts_in(wrapped(mounts=(Mount("/data"), Mount("/runs", writable=True))).argv)
    assert ["type=bind", "src=/data", "dst=/data", "ro"] in found
    assert ["type=bind", "src=/runs", "dst=/runs"] in found


@pytest.mark.parametrize(
    "path",
    ["/a b", "/a,b", '/say "hi"', "/it's", "/two\nlines", "/a=b", "/ü", "/$(rm -rf)", "/a:b"],
)
def test_a_mount_keeps_any_path(path: str) -> None:
    found = mounts_in(wrapped(mounts=(Mount(path),)).argv)
    assert found[-1] == ["type=bind", f"src={path}", f"dst={path}", "ro"]


@given(st.lists(paths, max_size=3))
def test_mounts_read_back_as_csv_whatever_their_paths(folders: list[str]) -> None:
    argv = wrapped(mounts=tuple(Mount(folder) for folder in folders)).argv
    found = [fields[1].removeprefix("src=") for fields in mounts_in(argv)]
    assert found[len(found) - len(folders) :] == folders
