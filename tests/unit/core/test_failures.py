"""From what is left of an attempt to its class, one sentence, and the lines that show it.

The texts were left by the real thing: torch 2.13.0, numpy, blosc2 and nibabel on a full 64 MB
tmpfs, a read-only one and a 16 MB /dev/shm, Apptainer 1.4.5 with images and binds that were broken
for it. CUDA's and SLURM's, which this took no part in, are those of their sources.
"""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.failures import (
    UNSAID_STATUS,
    Evidence,
    Told,
    Verdict,
    addressed,
    diagnose,
)
from ca_hpc.core.log_lines import MOST_CHARACTERS, MOST_LINES
from ca_hpc.core.model import TaskState
from ca_hpc.core.rules import DEFAULTS, Failure
from ca_hpc.core.states import Row
from ca_hpc.errors import CaHpcError, DigestMismatch

F, S = Failure, TaskState


def of_error(said: str, *, lines: tuple[str, ...] = (), number: int | None = None) -> Verdict:
    kind = said.partition(":")[0]
    told = Told(said, kind=kind, errno=number)
    return diagnose(Evidence(exit_status=1, told=told, lines=lines))


def of_log(*lines: str, status: int | None = 1) -> Verdict:
    return diagnose(Evidence(exit_status=status, lines=lines))


@pytest.mark.parametrize(
    ("said", "failure", "cause"),
    [
        # --- GPU memory
        (
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total "
            "capacity of 23.64 GiB of which 3.00 MiB is free.",
            F.GPU_MEMORY,
            "the GPU's memory is full (Tried to allocate 20.00 MiB)",
        ),
        (
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling "
            "`cublasCreate(handle)`",
            F.GPU_MEMORY,
            "the GPU's memory is full",
        ),
        ("RuntimeError: CUDA error: out of memory", F.GPU_MEMORY, "the GPU's memory is full"),
        # --- GPU
        (
            "RuntimeError: CUDA error: uncorrectable ECC error encountered",
            F.GPU,
            "the GPU is broken (uncorrectable ECC error)",
        ),
        (
            "RuntimeError: CUDA error: an illegal memory access was encountered\nCUDA kernel "
            "errors might be asynchronously reported at some other API call",
            F.GPU,
            "the GPU failed (an illegal memory access was encountered)",
        ),
        (
            "RuntimeError: CUDA driver version is insufficient for CUDA runtime version",
            F.GPU,
            "the GPU's driver does not work on this node (CUDA driver version is insufficient for "
            "CUDA runtime version)",
        ),
        (
            "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an "
            "NVIDIA GPU and installed a driver",
            F.GPU,
            "the GPU's driver does not work on this node (Found no NVIDIA driver)",
        ),
        (
            "RuntimeError: Failed to initialize NVML: Driver/library version mismatch",
            F.GPU,
            "the GPU's driver does not work on this node "
            "(Failed to initialize NVML: Driver/library version mismatch)",
        ),
        (
            "RuntimeError: No CUDA GPUs are available",
            F.GPU,
            "the job asked for a GPU and sees none on this node (No CUDA GPUs are available)",
        ),
        (
            "RuntimeError: CUDA error: no CUDA-capable device is detected",
            F.GPU,
            "the job asked for a GPU and sees none on this node "
            "(no CUDA-capable device is detected)",
        ),
        (
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            F.GPU,
            "torch in this image knows no GPU of this kind "
            "(no kernel image is available for execution on the device)",
        ),
        (
            "RuntimeError: CUDA error: device-side assert triggered",
            F.CODE,
            "a computation on the GPU got values it cannot take, such as a label out of range "
            "(device-side assert triggered)",
        ),
        # --- the node's memory
        ("MemoryError", F.HOST_MEMORY, "the node's memory is used up"),
        (
            "_ArrayMemoryError: Unable to allocate 72.8 TiB for an array with shape "
            "(10000000, 1000000) and data type float64",
            F.HOST_MEMORY,
            "the node's memory is used up (72.8 TiB)",
        ),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: "
            "can't allocate memory: you tried to allocate 40000000000000 bytes. Error code 12 "
            "(Cannot allocate memory)",
            F.HOST_MEMORY,
            "the node's memory is used up (40000000000000 bytes)",
        ),
        (
            "OSError: [Errno 12] Cannot allocate memory",
            F.HOST_MEMORY,
            "the node's memory is used up",
        ),
        # --- disks
        (
            "OSError: [Errno 28] No space left on device: '/runs/a/log.txt'",
            F.DISK,
            "the disk is full (/runs/a/log.txt)",
        ),
        ("OSError: [Errno 28] No space left on device", F.DISK, "the disk is full"),
        (
            "OSError: [Errno 122] Disk quota exceeded: '/home/a/x'",
            F.DISK,
            "the disk quota is used up (/home/a/x)",
        ),
        (
            "OSError: [Errno 27] File too large",
            F.DISK,
            "a file became larger than the limit allows (ulimit -f)",
        ),
        (
            "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
            F.DISK,
            "a checkpoint could not be written to its end, most often because the disk is full",
        ),
        (
            "RuntimeError: Could not update the desired chunk",
            F.DISK,
            "an image could not be written to its end, most often because the disk is full",
        ),
        (
            "RuntimeError: unable to allocate shared memory(shm) for file "
            "</torch_30365_4155491365_0>: No space left on device (28)",
            F.DISK,
            "shared memory (/dev/shm) of the node is full",
        ),
        (
            "RuntimeError: unable to open shared memory object </torch_12_3> in read-write mode: "
            "Too many open files (24)",
            F.DISK,
            "shared memory (/dev/shm) of the node is full",
        ),
        # --- places and permissions
        (
            "OSError: [Errno 30] Read-only file system: 'ro/a.npz'",
            F.ACCESS,
            "a folder is read-only (ro/a.npz)",
        ),
        (
            "RuntimeError: [enforce fail at inline_container.cc:747] . open file failed with "
            "strerror: Read-only file system",
            F.ACCESS,
            "a folder is read-only",
        ),
        (
            "PermissionError: [Errno 13] Permission denied: '/data/x'",
            F.ACCESS,
            "no permission (/data/x)",
        ),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'nofolder/a'",
            F.ACCESS,
            "a file or folder is missing (nofolder/a)",
        ),
        (
            "RuntimeError: Parent directory nofolder does not exist.",
            F.ACCESS,
            "a file or folder is missing (nofolder)",
        ),
        ("RuntimeError: Could not build empty array", F.ACCESS, "an image could not be written"),
        # --- the node's file systems
        (
            "OSError: [Errno 116] Stale file handle: '/data/x'",
            F.NODE,
            "a file system failed on this node (Stale file handle)",
        ),
        (
            "OSError: [Errno 5] Input/output error",
            F.NODE,
            "a file system failed on this node (Input/output error)",
        ),
        # --- everything else
        ("ValueError: no such fold", F.CODE, "ValueError: no such fold"),
        ("SystemExit: 0", F.CODE, "SystemExit: 0"),
        ("KeyError: 'memory'", F.CODE, "KeyError: 'memory'"),
    ],
)
def test_what_an_exception_says_tells_its_class(said: str, failure: Failure, cause: str) -> None:
    verdict = of_error(said)
    assert (verdict.failure, verdict.cause) == (failure, cause)
    assert verdict.hint


@pytest.mark.parametrize(
    ("number", "failure", "cause"),
    [
        (errno.ENOSPC, F.DISK, "the disk is full (RuntimeError: it failed)"),
        (errno.EDQUOT, F.DISK, "the disk quota is used up (RuntimeError: it failed)"),
        (errno.ENOMEM, F.HOST_MEMORY, "the node's memory is used up (RuntimeError: it failed)"),
        (errno.EROFS, F.ACCESS, "a folder is read-only (RuntimeError: it failed)"),
        (errno.EIO, F.NODE, "a file system failed on this node (RuntimeError: it failed)"),
        (errno.EEXIST, F.CODE, "RuntimeError: it failed"),
    ],
)
def test_an_error_that_hides_why_is_known_by_the_errno_behind_it(
    number: int, failure: Failure, cause: str
) -> None:
    verdict = of_error("RuntimeError: it failed", number=number)
    assert (verdict.failure, verdict.cause) == (failure, cause)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (CaHpcError("Fold 9 is not in the splits.", hint="0 to 4"), F.INPUT),
        (DigestMismatch("the weights are not those that were recorded"), F.CHANGED),
        (DigestMismatch("image /a.sif is sha256:0, recorded is sha256:1"), F.CHANGED),
        (CaHpcError("image /a.sif cannot be read: Permission denied", hint="check"), F.IMAGE),
        (CaHpcError("image /a.sif does not exist"), F.IMAGE),
        (CaHpcError("/a.sif is not a SIF"), F.IMAGE),
        (CaHpcError("/a.sif cannot be mounted here"), F.NODE),
        (CaHpcError("cannot write in /a: No space left on device"), F.DISK),
        (CaHpcError("The job asks for a GPU, and torch sees none on this node."), F.GPU),
        (CaHpcError("a patch of 9 needs about 90 GB of GPU memory at batch 1"), F.GPU_MEMORY),
    ],
)
def test_an_error_of_our_own_keeps_its_words_and_its_hint(
    error: CaHpcError, failure: Failure
) -> None:
    verdict = diagnose(Evidence(exit_status=int(error.exit_code), told=Told.of(error)))
    assert (verdict.failure, verdict.cause) == (failure, error.message)
    assert error.hint in (None, verdict.hint)


@pytest.mark.parametrize(
    ("line", "failure", "cause"),
    [
        (
            "FATAL:   container creation failed: image driver mount failure: image driver "
            "squashfuse_ll instance exited with error: squashfuse_ll exited: Something went wrong "
            "trying to read the squashfs image.",
            F.IMAGE,
            "the image is damaged",
        ),
        (
            "FATAL:   While checking container encryption: could not open image /i/cut.sif: "
            "reading descriptors: unexpected EOF",
            F.IMAGE,
            "the image is damaged",
        ),
        (
            "FATAL:   While checking container encryption: could not open image /i/text.sif: image "
            "format not recognized",
            F.IMAGE,
            "the image is damaged",
        ),
        (
            "FATAL:   While checking container encryption: could not open image /i/secret.sif: "
            "/i/secret.sif is not readable by the current user, check permissions",
            F.IMAGE,
            "the image cannot be read on this node (/i/secret.sif)",
        ),
        (
            "FATAL:   While checking container encryption: could not open image /i/gone.sif: "
            "failed to retrieve path for /i/gone.sif: lstat /i/gone.sif: no such file or directory",
            F.IMAGE,
            "the image cannot be read on this node (/i/gone.sif)",
        ),
        (
            'FATAL:   "nocommand": executable file not found in $PATH',
            F.IMAGE,
            "the image lacks a program (nocommand)",
        ),
        (
            "FATAL:   container creation failed: mount hook function failure: mount /d/gone->/x "
            "error: while mounting /d/gone: mount source /d/gone doesn't exist",
            F.ACCESS,
            "a folder that the task is to see is not there on this node (/d/gone)",
        ),
        (
            "FATAL:   container creation failed: mount hook function failure: mount /d/priv->/x "
            "error: while mounting /d/priv: while getting stat for /d/priv: stat /d/priv: "
            "permission denied",
            F.ACCESS,
            "a folder that the task is to see is not there on this node (/d/priv)",
        ),
        (
            "FATAL:   container creation failed: failed to create /d/work/home: mkdir "
            "/d/work/home: no such file or directory",
            F.ACCESS,
            "a file or folder is missing (/d/work/home)",
        ),
        (
            "FATAL:   container creation failed: something new",
            F.NODE,
            "Apptainer cannot start the image on this node: container creation failed: something "
            "new",
        ),
    ],
)
def test_apptainer_s_last_word_tells_what_kept_it_from_starting(
    line: str, failure: Failure, cause: str
) -> None:
    verdict = of_log(
        "WARNING: skipping mount of /d/gone: stat /d/gone: no such file or directory",
        "INFO:    Terminating squashfuse_ll after timeout",
        line,
        status=255,
    )
    assert (verdict.failure, verdict.cause) == (failure, cause)
    assert verdict.lines == (line[:MOST_CHARACTERS],)


@pytest.mark.parametrize("form", [lambda n: -n, lambda n: 128 + n])
@pytest.mark.parametrize(
    ("number", "failure"),
    [
        (4, F.CRASH), (6, F.CRASH), (7, F.CRASH), (8, F.CRASH), (11, F.CRASH), (13, F.CRASH),
        (24, F.TIME), (25, F.DISK), (15, F.PREEMPTED), (9, F.UNKNOWN),
    ],
)  # fmt: skip
def test_a_signal_tells_what_it_can(form: object, number: int, failure: Failure) -> None:
    assert callable(form)
    assert diagnose(Evidence(exit_status=form(number))).failure is failure


@pytest.mark.parametrize(
    ("oom_kills", "asked", "failure"),
    [
        (1, False, F.HOST_MEMORY),  # the kernel has counted it
        (0, False, F.CRASH),  # it counts, and it was not that
        (None, False, F.UNKNOWN),  # nobody knows
        (None, True, F.PREEMPTED),  # the end of SLURM's patience
    ],
)
def test_a_kill_is_for_want_of_memory_only_where_the_kernel_says_so(
    oom_kills: int | None, asked: bool, failure: Failure
) -> None:
    for status in (-9, 137):
        evidence = Evidence(exit_status=status, oom_kills=oom_kills, asked_to_stop=asked)
        assert diagnose(evidence).failure is failure


@pytest.mark.parametrize(
    "said",
    [
        "RuntimeError: One or more background workers are no longer alive. Exiting. Please check "
        "the print statements above for the actual error message",
        "RuntimeError: DataLoader worker (pid 28806) is killed by signal: Killed. ",
        "RuntimeError: DataLoader worker (pid(s) 28806) exited unexpectedly",
        "BrokenProcessPool: A process in the process pool was terminated abruptly while the future "
        "was running or pending.",
    ],
)
def test_the_end_of_a_process_is_no_fault_of_the_one_that_tells_of_it(said: str) -> None:
    told = Told(said, kind=said.partition(":")[0])
    for kills, failure in ((2, F.HOST_MEMORY), (0, F.CRASH), (None, F.UNKNOWN)):
        assert diagnose(Evidence(1, told=told, oom_kills=kills)).failure is failure
    above = ("Traceback (most recent call last):", "OSError: [Errno 28] No space left on device")
    assert diagnose(Evidence(1, told=told, lines=above)).failure is F.DISK


def test_a_signal_counts_before_what_the_step_still_said() -> None:
    told = Told("BrokenPipeError: [Errno 32] Broken pipe", kind="BrokenPipeError")
    assert diagnose(Evidence(143, told=told)).failure is F.PREEMPTED
    assert diagnose(Evidence(139, told=told)).failure is F.CRASH


def test_the_log_explains_an_abort() -> None:
    log = ("terminate called after throwing an instance of 'std::bad_alloc'",)
    assert of_log(*log, status=134).failure is F.HOST_MEMORY
    bus = "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient "
    assert of_log(bus + "shared memory (shm).", status=135).failure is F.DISK


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ("*** JOB 12 ON n1 CANCELLED AT 2026-11-22T05:00:00 DUE TO TIME LIMIT ***", F.TIME),
        ("*** JOB 12 ON n1 CANCELLED AT 2026-11-22T05:00:00 DUE TO PREEMPTION ***", F.PREEMPTED),
        ("*** JOB 12 ON n1 CANCELLED AT 2026-11-22T05:00:00 DUE TO JOB REQUEUE ***", F.PREEMPTED),
        (
            "*** JOB 12 ON n1 CANCELLED AT 2026-11-22T05:00:00 DUE TO NODE FAILURE, SEE SLURMCTLD "
            "LOG FOR DETAILS ***",
            F.NODE,
        ),
        ("*** JOB 12 ON n1 CANCELLED AT 2026-11-22T05:00:00 ***", F.CANCELLED),
        ("StepId=12.batch exceeded memory limit (102400 > 51200), being killed", F.HOST_MEMORY),
        (
            "Detected 1 oom_kill event in StepId=12.batch. Some of the step tasks have been OOM "
            "Killed.",
            F.HOST_MEMORY,
        ),
    ],
)
@pytest.mark.parametrize("status", [None, 143, -9])
def test_slurm_says_why_it_ended_a_job(line: str, failure: Failure, status: int | None) -> None:
    verdict = of_log("epoch 3", f"slurmstepd: error: {line}", status=status)
    assert verdict.failure is failure
    assert verdict.lines == (f"slurmstepd: error: {line}",)


def test_a_job_over_its_memory_is_cancelled_for_that_and_not_by_somebody() -> None:
    verdict = of_log(
        "slurmstepd: error: StepId=12.batch exceeded memory limit (102400 > 51200), being killed",
        "slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026-11-22T05:00:00 ***",
        status=None,
    )
    assert verdict.failure is F.HOST_MEMORY


@pytest.mark.parametrize(
    ("row", "failure"),
    [
        (Row(S.TIMEOUT), F.TIME),
        (Row(S.OUT_OF_MEMORY), F.HOST_MEMORY),
        (Row(S.NODE_FAIL, "n1"), F.NODE),
        (Row(S.PREEMPTED), F.PREEMPTED),
        (Row(S.CANCELLED), F.CANCELLED),
        (Row(S.CANCELLED, "", "Dependency"), F.DEPENDENCY),
        (Row(S.PENDING, "", "DependencyNeverSatisfied"), F.DEPENDENCY),
        (Row(S.FAILED), F.UNKNOWN),
        (Row(S.COMPLETED), F.UNKNOWN),
        (None, F.UNKNOWN),
    ],
)
def test_a_job_that_left_nothing_is_known_by_its_row(row: Row | None, failure: Failure) -> None:
    assert diagnose(Evidence(row=row)).failure is failure


def test_a_failed_job_without_a_result_is_known_by_its_log() -> None:
    lines = ("OSError: [Errno 28] No space left on device: '/runs/x/result.json'",)
    verdict = diagnose(Evidence(row=Row(S.FAILED), lines=lines))
    assert (verdict.failure, verdict.lines) == (F.DISK, lines)


def test_who_saved_and_left_was_asked_to_or_ran_out_of_time() -> None:
    assert diagnose(Evidence(85, asked_to_stop=True)).failure is F.PREEMPTED
    assert diagnose(Evidence(85)).failure is F.TIME


def test_without_any_word_the_status_is_told() -> None:
    verdict = of_log("training", "", "epoch 3", status=7)
    assert verdict == Verdict(
        F.CRASH,
        "it ended with status 7 and no error",
        "see its log: ca-hpc logs RUN TASK",
        ("training", "epoch 3"),
    )
    assert of_log(status=UNSAID_STATUS).failure is F.DISK


@pytest.mark.parametrize(
    ("line", "failure", "cause"),
    [
        (
            "python -m ca_hpc.steps.STEP: error: unrecognized arguments: --ends-at 1",
            F.IMAGE,
            "the image holds another version of ca-hpc than the one that submitted the run "
            "(unrecognized arguments: --ends-at 1)",
        ),
        (
            "/usr/bin/python3.11: No module named ca_hpc",
            F.IMAGE,
            "the Python that runs the tasks lacks a package (ca_hpc)",
        ),
        ("ValueError: bad import", F.CODE, "ValueError: bad import"),
    ],
)
def test_a_step_that_did_not_come_to_its_start_is_known_by_its_log(
    line: str, failure: Failure, cause: str
) -> None:
    verdict = of_log("Traceback (most recent call last):", line)
    assert (verdict.failure, verdict.cause, verdict.lines) == (failure, cause, (line,))


def test_what_is_only_warned_of_is_no_cause() -> None:
    warned = "x.py:1: UserWarning: CUDA initialization: Found no NVIDIA driver on your system."
    assert of_log(warned, status=139).failure is F.CRASH


def test_an_exception_is_shown_with_the_place_that_raised_it() -> None:
    log = (
        "epoch 3",
        "Traceback (most recent call last):",
        '  File "/opt/ca_hpc/steps/entry.py", line 60, in main',
        "    status = step(call)",
        "             ^^^^^^^^^^",
        '  File "/data/mine/trainer.py", line 33, in train_step',
        "    raise ValueError('no such fold')",
        "ValueError: no such fold",
    )
    verdict = of_error("ValueError: no such fold", lines=log)
    assert verdict.cause == (
        "ValueError: no such fold (/data/mine/trainer.py, line 33, in train_step)"
    )
    assert verdict.lines == (log[5], log[6], log[7])


# --- code of the user's own

PACKAGES = "/opt/venv/lib/python3.11/site-packages"
MEND = (
    "mend mine.py in your own folder (RUN/trainers has the copy that was used), and submit the "
    "job again"
)
SEE = "see its log: ca-hpc logs RUN TASK"
MINE = ("/runs/a-001/trainers/mine.py", "train_step")
OURS = (f"{PACKAGES}/ca_hpc/nnunet/trainer.py", "_train_iterations")
TORCH = (f"{PACKAGES}/torch/nn/functional.py", "conv3d")
RUNPY = ("<frozen runpy>", "_run_code")
STDLIB = ("/usr/lib/python3.11/json/decoder.py", "decode")


def traceback(*frames: tuple[str, str], said: str = "ValueError: no") -> tuple[str, ...]:
    """As Python writes it, outermost first."""
    shown = [
        line
        for file, name in frames
        for line in (f'  File "{file}", line 8, in {name}', "    code()", "    ^^^^^^")
    ]
    return ("Traceback (most recent call last):", *shown, said)


@pytest.mark.parametrize(
    ("frames", "hint"),
    [
        ((RUNPY, OURS, MINE), MEND),
        ((RUNPY, OURS, MINE, TORCH), MEND),
        ((RUNPY, OURS, MINE, STDLIB), MEND),
        ((OURS, ("/home/me/trainers/runs/a/trainers/mine.py", "train_step")), MEND),
        ((RUNPY, OURS, MINE, OURS), SEE),
        ((RUNPY, OURS, TORCH), SEE),
        ((OURS, (f"{PACKAGES}/other/trainers/mine.py", "step")), SEE),
    ],
)
def test_who_wrote_the_trainer_that_raised_is_told_which_copy_to_mend(
    frames: tuple[tuple[str, str], ...], hint: str
) -> None:
    assert of_error("ValueError: no", lines=traceback(*frames)).hint == hint


def test_only_the_last_traceback_counts() -> None:
    handled = traceback(OURS, MINE, said="KeyError: 1")
    during = "During handling of the above exception, another exception occurred:"
    log = (*handled, "", during, "", *traceback(OURS, TORCH))
    assert of_error("ValueError: no", lines=log).hint == SEE


def test_a_full_disk_is_not_the_trainer_s_fault() -> None:
    said = "OSError: [Errno 28] No space left on device"
    verdict = of_error(said, lines=traceback(OURS, MINE, said=said))
    assert verdict.failure is F.DISK
    assert "mend" not in str(verdict.hint)


def crash(*frames: tuple[str, str], said: str = "Segmentation fault") -> tuple[str, ...]:
    """As faulthandler writes it, innermost first, another thread before the one that crashed."""
    return (
        f"Fatal Python error: {said}",
        "Thread 0x00007ff9615266c0 (most recent call first):",
        '  File "/usr/lib/python3.11/threading.py", line 975 in run',
        '  File "/elsewhere/watch.py", line 3 in beat',
        "Current thread 0x00007fc676592040 (most recent call first):",
        *(f'  File "{file}", line 8 in {name}' for file, name in frames),
        "Extension modules: yaml._yaml, torch._C, torch._C._fft (total: 38)",
    )


MINE_LINE = '  File "/runs/a-001/trainers/mine.py", line 8 in train_step'
OURS_LINE = f'  File "{OURS[0]}", line 8 in _train_iterations'


@pytest.mark.parametrize(
    ("frames", "shown", "hint"),
    [
        ((TORCH, MINE, OURS, RUNPY), (MINE_LINE,), MEND),
        ((TORCH, OURS, RUNPY), (OURS_LINE,), SEE),
        ((RUNPY,), (), SEE),
    ],
)
def test_a_crash_is_shown_with_the_innermost_frame_outside_of_libraries(
    frames: tuple[tuple[str, str], ...], shown: tuple[str, ...], hint: str
) -> None:
    for status in (-11, 139):
        verdict = of_log("epoch 3", *crash(*frames), status=status)
        assert verdict.lines == ("Fatal Python error: Segmentation fault", *shown)
        assert verdict.hint == hint


def test_of_an_abort_the_c_library_s_word_is_shown_too() -> None:
    log = ("epoch 3", "2026-11-22 07:43:44.904628: ", "double free or corruption (out)")
    verdict = of_log(*log, *crash(TORCH, OURS, said="Aborted"), status=-6)
    assert verdict.lines == (log[2], "Fatal Python error: Aborted", OURS_LINE)


def test_lines_without_words_show_nothing() -> None:
    log = (
        "This split has 4 training and 1 validation cases.",
        "#######################",
        "2026-11-22 07:43:44.904628: ",
        "2026-11-22 07:43:44.904647: Epoch 0",
        "2026-11-22T07:43:44+00:00",
        "2026-11-22 07:43:44.904680: Current learning rate: 0.01",
        "----",
    )
    assert of_log(*log, status=3).lines == (log[0], log[3], log[5])


def test_a_trainer_in_a_crash_that_was_only_listed_is_not_blamed() -> None:
    dumped = crash(MINE, OURS)[1:]  # a list of threads, as on request
    assert of_log(*dumped, status=-11).hint == SEE


# --- hints that can be typed


@pytest.mark.parametrize(
    ("hint", "typed"),
    [
        ("see: ca-hpc logs RUN TASK", "see: ca-hpc logs /runs/a-001 train-x-fold1"),
        (MEND, "mend mine.py in your own folder (/runs/a-001/trainers has the copy that was used), "
               "and submit the job again"),
        ("then `ca-hpc retry RUN`.", "then `ca-hpc retry /runs/a-001`."),
        ("then ca-hpc retry RUN.", "then ca-hpc retry /runs/a-001."),
        ("/data/RUN/x, RUNS, MY_RUN, RUN-3, RUN.txt and TASKS are names",) * 2,
        ("resources.STAGE.gpu",) * 2,
        (None, None),
    ],
)  # fmt: skip
def test_hints_name_the_run_and_the_task(hint: str | None, typed: str | None) -> None:
    verdict = Verdict(F.CODE, "RUN and TASK", hint, ("RUN",))
    filled = addressed(verdict, run="/runs/a-001", task="train-x-fold1")
    assert filled == Verdict(F.CODE, "RUN and TASK", typed, ("RUN",))


def test_names_in_hints_are_quoted_for_the_shell_and_not_filled_in_again() -> None:
    verdict = Verdict(F.CODE, "no", "ca-hpc logs RUN TASK")
    filled = addressed(verdict, run=r"/my TASK/\1", task="t")
    assert filled.hint == r"ca-hpc logs '/my TASK/\1' t"


words = st.text(max_size=400)


@given(
    st.builds(
        Evidence,
        exit_status=st.none() | st.integers(-64, 255),
        told=st.none()
        | st.builds(
            Told, words, hint=st.none() | words, errno=st.none() | st.integers(1, 133),
            ours=st.booleans(),
        ),
        lines=st.lists(words, max_size=30).map(tuple),
        row=st.none() | st.builds(Row, st.sampled_from(TaskState), reason=words),
        oom_kills=st.none() | st.integers(0, 3),
        asked_to_stop=st.booleans(),
    )
)  # fmt: skip
def test_whatever_is_left_there_is_one_verdict_with_a_rule_for_it(evidence: Evidence) -> None:
    verdict = diagnose(evidence)
    assert verdict.failure in DEFAULTS
    assert len(verdict.lines) <= MOST_LINES
    assert all(len(line) <= MOST_CHARACTERS for line in verdict.lines)
    assert set(verdict.lines) <= {line[:MOST_CHARACTERS] for line in evidence.lines}
    ours = evidence.told is not None and evidence.told.ours
    assert ours or "\n" not in verdict.cause


@pytest.mark.parametrize("status", [2, 255])
def test_a_container_that_was_stopped_while_it_started_has_not_failed(status: int) -> None:
    assert diagnose(Evidence(status, asked_to_stop=True)).failure is Failure.PREEMPTED
    assert diagnose(Evidence(status)).failure is not Failure.PREEMPTED


def test_a_node_without_user_namespaces_is_told_and_not_tried_again() -> None:
    """As Apptainer 1.4.5, not setuid, ends in a chroot, where the kernel allows none."""
    lines = (
        "INFO   :   apptainer-suid, or compile with ./mconfig --with-suid",
        "\x1b[91mERROR  : Failed to create user namespace: not allowed to create user namespace",
        "\x1b[0m",
    )
    verdict = diagnose(Evidence(1, lines=lines))
    assert verdict.failure is Failure.ACCESS
    assert "lets users have no namespaces" in verdict.cause
    assert "runtime: none" in str(verdict.hint)


def test_a_program_that_the_node_lacks_is_named_with_the_way_to_it() -> None:
    verdict = diagnose(Evidence(2, lines=("error: apptainer is not on this node",)))
    assert verdict.failure is Failure.ACCESS
    assert verdict.cause == "a program is missing (apptainer)"
    assert "module load" in str(verdict.hint)
