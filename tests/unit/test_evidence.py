"""What an attempt leaves behind, gathered on the node, and what is made of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc import processes
from ca_hpc.attempts.evidence import MOST_LINES, oom_kills, tail, told
from ca_hpc.attempts.history import dead
from ca_hpc.attempts.verdicts import judge
from ca_hpc.core.codec import encode
from ca_hpc.core.failures import TOLD_MARK, Evidence, Told, Verdict, diagnose
from ca_hpc.core.rules import Failure
from ca_hpc.store.run_folder import RunFolder

F = Failure


# --- the end of a log


def test_a_short_log_is_read_whole(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("first\n\nlast, without a newline")
    assert tail(log) == ("first", "last, without a newline")


def test_of_a_long_log_the_last_whole_lines_are_read(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        stream.writelines(f"line {i}\n" for i in range(100_000))
    lines = tail(log)
    assert lines == tuple(f"line {i}" for i in range(100_000 - MOST_LINES, 100_000))
    assert tail(log, most_bytes=20) == ("line 99999",)


def test_a_huge_log_costs_no_more_than_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        stream.truncate(1 << 40)  # a hole of a terabyte
        stream.seek(0, 2)
        stream.write(b"\nthe end\n")
    assert tail(log)[-1] == "the end"


def test_of_a_progress_bar_the_last_state_is_a_line(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes("0%\r 50%\r100% \u2588\r\nnext\n".encode())
    assert tail(log) == ("100% \u2588", "next")


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert tail(tmp_path / "nothing") == ()
    assert tail(tmp_path) == ()


@given(content=st.binary(max_size=3000), most=st.integers(1, 2000))
def test_any_bytes_have_an_end(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, most: int
) -> None:
    log = tmp_path_factory.mktemp("any") / "log.txt"
    log.write_bytes(content)
    lines = tail(log, most_bytes=most, most_lines=7)
    assert len(lines) <= 7
    assert all("\n" not in line and line.strip() for line in lines)
    assert sum(map(len, lines)) <= most


# --- what the step says


def test_a_step_is_heard_by_its_file_or_else_by_its_log(tmp_path: Path) -> None:
    assert told(tmp_path) is None
    first, second = Told("in the log", errno=28), Told("in the file", hint="so")
    line = "".join(encode(first).split("\n"))
    (tmp_path / "log.txt").write_text(f"epoch 1\n{TOLD_MARK}{line}\n{TOLD_MARK}{{cut off\n")
    assert told(tmp_path) == first
    (tmp_path / "error.json").write_text(encode(second))
    assert told(tmp_path) == second
    (tmp_path / "error.json").write_text('{"mess')
    assert told(tmp_path) == first


def test_a_file_of_an_earlier_version_is_understood(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text('{"message": "no", "hint": null}')
    assert told(tmp_path) == Told("no")


# --- what the kernel counts

V1 = "9:name=systemd:/\n4:memory:/slurm/uid_1/job_2\n1:cpu:/\n0::/\n"
V2 = "0::/system.slice/slurmstepd.scope/job_2/step_batch/user/task_0\n"


@pytest.mark.parametrize(
    ("memberships", "file", "content", "kills"),
    [
        (
            V1,
            "memory/slurm/uid_1/job_2/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            1,
        ),
        (
            V2,
            "system.slice/slurmstepd.scope/job_2/step_batch/user/task_0/memory.events",
            "low 0\nhigh 0\nmax 31\noom 3\noom_kill 2\noom_group_kill 0\n",
            2,
        ),
        (V2, "elsewhere", "", None),
        (V1, "memory/slurm/uid_1/job_2/memory.oom_control", "under_oom 0\n", None),
    ],
)
def test_kills_for_want_of_memory_are_those_of_the_own_cgroup(
    tmp_path: Path, memberships: str, file: str, content: str, kills: int | None
) -> None:
    (tmp_path / "cgroup").write_text(memberships)
    place = tmp_path / "fs" / file
    place.parent.mkdir(parents=True)
    place.write_text(content)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "fs") == kills


def test_without_cgroups_nothing_is_known(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "cgroup", tmp_path) is None


# --- from a real end to its verdict

STEP = """
import ctypes, os, resource, signal, sys
from pathlib import Path
from ca_hpc.steps.entry import main

def step(call):
    {body}

main(step, ["--run", sys.argv[1], "--attempt", sys.argv[1]])
"""


def judged(attempt: Path, body: str) -> Verdict:
    """The verdict on a step that really ran and ended so."""
    file = attempt / "step.py"
    file.write_text(STEP.format(body=body))
    argv = [sys.executable, "-u", str(file), str(attempt)]
    done = processes.run(argv, log=attempt / "log.txt")
    return diagnose(Evidence(done.returncode, told=told(attempt), lines=tail(attempt / "log.txt")))


@pytest.mark.parametrize(
    ("body", "failure", "cause"),
    [
        (
            "raise ValueError('no fold')",
            F.CODE,
            "ValueError: no fold ({0}/step.py, line 7, in step)",
        ),
        ("sys.exit(0)", F.CODE, "SystemExit: 0 ({0}/step.py, line 7, in step)"),
        ("return 85", F.TIME, "it stopped before the end of its time; its state is saved"),
        ("os._exit(7)", F.CRASH, "it ended with status 7 and no error"),
        ("ctypes.string_at(0)", F.CRASH, "it crashed (SIGSEGV, segmentation fault)"),
        ("os.abort()", F.CRASH, "it aborted (SIGABRT)"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            F.UNKNOWN,
            "it was killed without a word (SIGKILL), most often for want of memory",
        ),
        (
            "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(1 << 31)",
            F.HOST_MEMORY,
            "the node's memory is used up",
        ),
        ("Path('/dev/full').write_text('x')", F.DISK, "the disk is full"),
        (  # then neither error.json nor the log takes another word
            "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); raise ValueError('unheard')",
            F.DISK,
            "it could not write down why it ended, most often because the disk is full",
        ),
        (
            "Path(sys.argv[1], 'gone', 'x').read_text()",
            F.ACCESS,
            "a file or folder is missing ({0}/gone/x)",
        ),
        (
            "raise MemoryError from OSError(5, 'Input/output error')",
            F.HOST_MEMORY,
            "the node's memory is used up",
        ),
    ],
)
def test_a_step_that_really_ended_so_is_known_by_what_it_left(
    tmp_path: Path, body: str, failure: Failure, cause: str
) -> None:
    verdict = judged(tmp_path, body)
    assert (verdict.failure, verdict.cause) == (failure, cause.format(tmp_path))


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("import torch; torch.save(torch.ones(9999), '/dev/full')", F.DISK),
        ("import torch; torch.save(torch.ones(9), '/nowhere/at/all')", F.ACCESS),
        ("import torch; torch.ones(10**14)", F.HOST_MEMORY),
        (
            "import os, torch.utils.data as d; list(d.DataLoader([0], num_workers=1, "
            "worker_init_fn=lambda number: os.kill(os.getpid(), 9)))",
            F.UNKNOWN,
        ),
    ],
)
def test_what_torch_says_is_understood(tmp_path: Path, body: str, failure: Failure) -> None:
    pytest.importorskip("torch")
    verdict = judged(tmp_path, body)
    assert verdict.failure is failure
    assert verdict.lines


@pytest.mark.parametrize(
    ("body", "fatal"),
    [("ctypes.string_at(0)", "Segmentation fault"), ("os.abort()", "Aborted")],
)
def test_a_trainer_that_really_crashes_is_found_in_what_python_wrote(
    tmp_path: Path, body: str, fatal: str
) -> None:
    trainers = tmp_path / "trainers"
    trainers.mkdir()
    (trainers / "mine.py").write_text(f"import ctypes, os\ndef train_step():\n    {body}\n")
    call = f"import faulthandler; faulthandler.enable(); sys.path.insert(0, {str(trainers)!r})"
    verdict = judged(tmp_path, f"{call}; import mine; mine.train_step()")
    assert verdict.failure is F.CRASH
    assert verdict.lines == (
        f"Fatal Python error: {fatal}",
        f'  File "{trainers}/mine.py", line 3 in train_step',
    )
    assert "mend mine.py in your own folder" in str(verdict.hint)


def test_what_is_written_down_can_be_typed(tmp_path: Path) -> None:
    place = tmp_path / "my runs"
    place.mkdir()
    run = RunFolder.create(place, "neck")
    _, attempt = run.new_attempt("train-x-fold1", job="7", restart=0)
    typed = f"ca-hpc logs '{run.path}' train-x-fold1"
    assert str(judge(-11, run, attempt).hint).endswith(typed)
    assert str(dead(run, attempt).hint).endswith(typed)
