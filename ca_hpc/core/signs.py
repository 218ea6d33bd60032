"""What failures look like in words: texts of torch, Python, Apptainer and SLURM, and their meaning.

In order: the first sign that is found decides. Where the texts come from stands in
``tests/unit/core/test_failures.py``.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ca_hpc.core.rules import Failure

F = Failure

_SMALLER: Final = (
    "a smaller plans.patch_size or plans.batch_size, or a GPU with more memory "
    "(resources.STAGE.gpu): change the job file and submit it anew; a retry keeps plans and batch"
)
_MORE: Final = "more resources.STAGE.memory, or fewer training.workers"
_FREE: Final = "free space or raise the quota there, then: ca-hpc retry RUN"
_SHARED: Final = "fewer training.workers, or nodes with a larger /dev/shm"
_VISIBLE: Final = (
    "nodes must see it at the same path, with your permissions; then: ca-hpc retry RUN"
)
_IMAGE: Final = "put the image back that was recorded, or build one: ca-hpc image build"
_STAFF: Final = "further attempts leave that node out; tell the site's staff"


@dataclass(frozen=True, slots=True)
class Sign:
    """``pattern``'s first group, if it has one, is quoted after the ``cause``."""

    failure: Failure
    pattern: re.Pattern[str]
    cause: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A sign that was found, in which of the lines, and what of it is to be quoted."""

    sign: Sign
    line: int
    quoted: str


def _sign(failure: Failure, pattern: str, cause: str, hint: str | None = None) -> Sign:
    return Sign(failure, re.compile(pattern), cause, hint)


# SLURM's last words (slurmstepd, srun); memory first: such a job is cancelled too
ENDINGS: Final = (
    _sign(
        F.HOST_MEMORY,
        r"(?:exceeded (?:job |step )?memory limit(?: \([^)]*\))?|oom[-_]kill event)",
        "SLURM ended the job: it used more memory than it had asked for",
        _MORE,
    ),
    _sign(F.TIME, r"DUE TO TIME LIMIT", "the job reached its time limit"),
    _sign(F.PREEMPTED, r"DUE TO PREEMPTION", "a job of higher priority took its place"),
    _sign(F.NODE, r"DUE TO (?:NODE FAILURE|JOB NOT RUNNING)", "the node failed"),
    _sign(F.NODE, r"STEPD TERMINATED ON", "the node did not end the job in order"),
    _sign(F.PREEMPTED, r"DUE TO JOB REQUEUE", "the job was put back into the queue"),
    _sign(
        F.CANCELLED, r"slurmstepd: error: \*\*\* .* CANCELLED AT .*\*\*\*", "the job was cancelled"
    ),
)

# What an error says, or the log where there is none.
SIGNS: Final = (
    _sign(
        F.ACCESS,
        r"^error: (.+) is not on this node$",  # ca_hpc/guard
        "a program is missing",
        "the cluster profile loads it: setup: [module load apptainer]; then: ca-hpc retry RUN",
    ),
    _sign(
        F.ACCESS,
        r"ERROR +: Failed to create user namespace: (.+)",  # apptainer that is not setuid
        "this node lets users have no namespaces, and Apptainer there needs them",
        "ask the site's staff for user namespaces or a setuid Apptainer; or work without an image: "
        "runtime: none",
    ),
    # GPU memory
    _sign(
        F.GPU_MEMORY,
        r"(?:CUDA|HIP) out of memory(?:\. (Tried to allocate [\d.]+ \w+))?"
        r"|CUDA error: out of memory|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
        r"|OutOfMemoryError(?!.*out of memory)",
        "the GPU's memory is full",
        _SMALLER,
    ),
    _sign(
        F.GPU_MEMORY, r"GB of GPU memory at batch 1", "the patch is too large for the GPU", _SMALLER
    ),
    # of the data, though CUDA says it
    _sign(
        F.CODE,
        r"CUDA error: (device-side assert triggered)",
        "a computation on the GPU got values it cannot take, such as a label out of range",
        "check the labels of the data; training on the CPU tells where",
    ),
    # the GPU, its driver or the way to it (texts: cudaGetErrorString, torch/cuda, NVML, the kernel)
    _sign(
        F.GPU,
        r"(uncorrectable (?:ECC|NVLink) error|fallen off the bus|NVRM: Xid|Xid \(PCI"
        r"|hardware stack error)",
        "the GPU is broken",
        _STAFF,
    ),
    _sign(
        F.GPU,
        r"(Driver/library version mismatch|CUDA driver version is insufficient[ \w]*"
        r"|NVIDIA driver on your system is too old|Found no NVIDIA driver"
        r"|Failed to initialize NVML.*|driver shutting down|system not yet initialized"
        r"|forward compatibility was attempted[ \w-]*)",
        "the GPU's driver does not work on this node",
        _STAFF,
    ),
    _sign(
        F.GPU,
        r"torch sees none on this node|(no CUDA-capable device is detected"
        r"|No CUDA GPUs are available|invalid device ordinal"
        r"|CUDA-capable device\(s\) is/are busy or unavailable)",
        "the job asked for a GPU and sees none on this node",
        "check nvidia-smi there, and that the job and Apptainer (--nv) pass the GPU on",
    ),
    _sign(
        F.GPU,
        r"GPU driver \S+ is too old|has compute capability \S+, and CUDA",  # core/gpu_fit.py
        "GPU and image do not fit",
        "ask for other nodes (resources.STAGE.gpu), or build an image with another CUDA",
    ),
    _sign(
        F.GPU,
        r"(no kernel image is available for execution on the device)",
        "torch in this image knows no GPU of this kind",
        "ask for another GPU (resources.STAGE.gpu), or build the image with another torch",
    ),
    _sign(
        F.GPU,
        r"CUDA error: (.+)|(?:CUBLAS|CUDNN)_STATUS_(?!NOT_SUPPORTED)\w+|CUDA unknown error",
        "the GPU failed",
        "if it fails on other nodes too, it is the code: CUDA_LAUNCH_BLOCKING=1 tells where",
    ),
    # shared memory is a disk of its own
    _sign(
        F.DISK,
        r"insufficient shared memory|allocate shared memory|shared memory object"
        r"|(?:file </torch_|/dev/shm/).*No space left|out of shared memory",
        "shared memory (/dev/shm) of the node is full",
        _SHARED,
    ),
    # memory of the node
    _sign(
        F.HOST_MEMORY,
        r"\bMemoryError\b|Unable to allocate ([\d.]+ \w+) for an array|std::bad_alloc"
        r"|can't allocate memory(?:: you tried to allocate (\d+ bytes))?|Cannot allocate memory"
        r"|cannot allocate memory",
        "the node's memory is used up",
        _MORE,
    ),
    _sign(
        F.HOST_MEMORY,
        r"Out of memory: Killed process|oom[-_]kill",
        "a process was killed for want of memory",
        _MORE,
    ),
    # disks
    _sign(F.DISK, r"No space left on device(?:: '([^']+)')?", "the disk is full", _FREE),
    _sign(F.DISK, r"[Qq]uota exceeded(?:: '([^']+)')?", "the disk quota is used up", _FREE),
    _sign(F.DISK, r"\[Errno 27\]", "a file became larger than the limit allows (ulimit -f)", _FREE),
    # torch and blosc2 do not say why: so they end on a full tmpfs and at a file size limit
    _sign(
        F.DISK,
        r"PytorchStreamWriter failed writing|file write failed|unexpected pos \d+ vs \d+",
        "a checkpoint could not be written to its end, most often because the disk is full",
        _FREE,
    ),
    _sign(
        F.DISK,
        r"Could not (?:update the desired chunk|append the buffer)"
        r"|wrote only \d+ of \d+ bytes to file",
        "an image could not be written to its end, most often because the disk is full",
        _FREE,
    ),
    # the image
    _sign(
        F.IMAGE,
        r"image (\S+) (?:is sha256:|does not exist)|is not a SIF|has no system partition"
        r"|is cut off",
        "the image is not the one that was recorded",
        _IMAGE,
    ),
    _sign(
        F.IMAGE,
        r"image format not recognized|reading descriptors|trying to read the squashfs image"
        r"|doesn't look like a squashfs|SQUASHFS error|zlib decompression failed",
        "the image is damaged",
        _IMAGE,
    ),
    _sign(
        F.IMAGE,
        r"could not open image (\S+?):|image (\S+) cannot be read",
        "the image cannot be read on this node",
        _VISIBLE,
    ),
    _sign(
        F.IMAGE,
        r'FATAL: +"([^"]+)": executable file not found',
        "the image lacks a program",
        _IMAGE,
    ),
    _sign(
        F.IMAGE,
        r"is built without CUDA, and the task",  # core/gpu_fit.py
        "the image has no CUDA",
        _IMAGE,
    ),
    _sign(
        F.IMAGE,
        r"and the run was submitted with ca-hpc \S+",  # steps/entry.py
        "the tasks' ca-hpc is another version than the one that submitted the run",
        _IMAGE,
    ),
    _sign(
        F.IMAGE,
        r"error: (unrecognized arguments: .+)",
        "the image holds another version of ca-hpc than the one that submitted the run",
        _IMAGE,
    ),
    _sign(
        F.IMAGE,
        r"No module named '?((?:ca_hpc|nnunetv2|torch)\b[\w.]*)",
        "the Python that runs the tasks lacks a package",
        _IMAGE,
    ),
    _sign(
        F.NODE,
        r"(the image's server ended|cannot be mounted here|image driver mount failure"
        r"|fusermount3?: [^\n]+|failed to create user namespace)",
        "the node does not keep the image mounted",
        _STAFF,
    ),
    # file systems that went away
    _sign(
        F.NODE,
        r"(Stale file handle|Transport endpoint is not connected|Input/output error)",
        "a file system failed on this node",
        _STAFF,
    ),
    # permissions and places
    _sign(
        F.ACCESS,
        r"mount source (\S+) doesn't exist|while checking mount source|while mounting (\S+?):",
        "a folder that the task is to see is not there on this node",
        _VISIBLE,
    ),
    _sign(F.ACCESS, r"Read-only file system(?:: '([^']+)')?", "a folder is read-only", _VISIBLE),
    _sign(
        F.ACCESS,
        r"(?:Permission denied|Operation not permitted)(?:: '([^']+)')?",
        "no permission",
        _VISIBLE,
    ),
    _sign(
        F.ACCESS,
        r"No such file or directory: '([^']+)'|Parent directory (\S+) does not exist"
        r"|failed to create \S+: mkdir (\S+):",
        "a file or folder is missing",
        _VISIBLE,
    ),
    _sign(F.ACCESS, r"Could not build empty array", "an image could not be written", _VISIBLE),
)

# Where the text does not tell; of an OSError anywhere behind an exception.
ERRNOS: Final = {
    errno.ENOSPC: (F.DISK, "the disk is full", _FREE),
    errno.EDQUOT: (F.DISK, "the disk quota is used up", _FREE),
    errno.EFBIG: (F.DISK, "a file became larger than the limit allows (ulimit -f)", _FREE),
    errno.ENOMEM: (F.HOST_MEMORY, "the node's memory is used up", _MORE),
    errno.EROFS: (F.ACCESS, "a folder is read-only", _VISIBLE),
    errno.EACCES: (F.ACCESS, "no permission", _VISIBLE),
    errno.EPERM: (F.ACCESS, "no permission", _VISIBLE),
    errno.ENOENT: (F.ACCESS, "a file or folder is missing", _VISIBLE),
    errno.EIO: (F.NODE, "a file system failed on this node", _STAFF),
    errno.ESTALE: (F.NODE, "a file system failed on this node", _STAFF),
    errno.ENOTCONN: (F.NODE, "a file system failed on this node", _STAFF),
    errno.ENODEV: (F.NODE, "a file system failed on this node", _STAFF),
}

# Said by the survivors of a process that died, so by itself no cause.
SURVIVED: Final = re.compile(
    r"background workers? (?:are|is) no longer alive|exited unexpectedly|BrokenProcessPool"
    r"|is killed by signal: Killed"
    r"|terminated abruptly|a process that read images was killed|6 feet under"
    r"|Connection reset by peer"
)
# What went on in spite of it is no sign: "UserWarning: CUDA initialization: Found no NVIDIA driver"
_SURVIVABLE: Final = re.compile(r"Warning:|^WARNING|^INFO|^ca-hpc: image mount:")


def look(signs: Sequence[Sign], lines: Sequence[str]) -> Found | None:
    """The first of ``signs`` in the lines, and of those where it stands the last."""
    return next(_found(signs, lines), None)


def _found(signs: Sequence[Sign], lines: Sequence[str]) -> Iterator[Found]:
    for sign in signs:
        for number in range(len(lines) - 1, -1, -1):
            if _SURVIVABLE.search(lines[number]):
                continue
            if match := sign.pattern.search(lines[number]):
                yield Found(sign, number, next(filter(None, match.groups()), ""))
