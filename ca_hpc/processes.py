"""The one file that starts processes.

An argument list is a sequence of strings; a shell line does not exist, so a path may hold
spaces, quotes and newlines. Whoever needs a process takes :data:`Run` as an argument.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol, TypeAlias

from ca_hpc.errors import CaHpcError

#: what :func:`start` returns
Child: TypeAlias = "subprocess.Popen[bytes]"
# linux/prctl.h
PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36

_LIBC: Final = ctypes.CDLL(None)


class ProgramMissing(CaHpcError):
    """The program is not installed, not on PATH or not executable."""


class ProgramTimedOut(CaHpcError):
    """The program did not end within its time limit and was killed."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended. ``returncode`` is negative for a signal, as in ``subprocess``.

    ``stdout`` and ``stderr`` are empty where the output went to a log file.
    """

    returncode: int
    stdout: str = ""
    stderr: str = ""


class Run(Protocol):
    """The signature of :func:`run`, for those who take it as an argument."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        timeout_s: float | None = None,
    ) -> Finished: ...


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    timeout_s: float | None = None,
) -> Finished:
    """Run a program to its end; a nonzero status is the caller's to judge.

    ``env`` is the whole environment (``None``: this process's own). With ``log``, both streams
    are appended to that file and not returned. Standard input is empty, so nothing waits for a
    terminal. Raises :class:`ProgramMissing` and :class:`ProgramTimedOut`.
    """
    with _output(log) as (stdout, stderr), _named(argv):
        try:
            done = subprocess.run(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=None if env is None else dict(env),
                cwd=cwd,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            raise ProgramTimedOut(
                f"{argv[0]} did not answer within {timeout_s:g} s and was stopped"
            ) from expired
    return Finished(done.returncode, _text(done.stdout), _text(done.stderr))


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    own_session: bool = False,
    ignoring: Collection[signal.Signals] = (),
    end_with_us: signal.Signals | None = None,
    descriptors: Collection[int] = (),
) -> Child:
    """Start a program and return at once. Without ``log`` it inherits this process's streams.

    With ``own_session`` it survives the terminal, and signals of the terminal do not reach it.
    It ignores ``ignoring`` until it decides otherwise; signals that this process holds back
    (a mask) come through to it. ``end_with_us`` is what it is sent when the thread that called this
    dies. ``descriptors`` stay open in it. Raises :class:`ProgramMissing`.
    """
    us = os.getpid()

    def prepare() -> None:
        # between fork and exec, perhaps of a process with threads: nothing here takes a lock
        for number in ignoring:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what came meanwhile comes now
        if end_with_us is not None:
            end_with_parent(end_with_us, parent=us)

    held = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with contextlib.ExitStack() as stack:
        stream = None if log is None else stack.enter_context(log.open("ab"))
        stack.enter_context(_named(argv))
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=own_session,
            pass_fds=tuple(descriptors),
            preexec_fn=prepare if held or ignoring or end_with_us is not None else None,
        )


def fork(body: Callable[[], int]) -> int:
    """Run ``body`` in a copy of this process, which exits with what it returns. Returns its pid.

    For a process without threads. The copy is asked to end (SIGTERM) when this process dies.
    """
    us = os.getpid()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        end_with_parent(parent=us)
        status = body()
    except BaseException:  # nothing of the copied process may go on after it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def end_with_parent(number: signal.Signals = signal.SIGTERM, *, parent: int | None = None) -> None:
    """Have this process sent a signal when the one that started it dies, even of SIGKILL.

    prctl(2): what counts is the thread that started it, so that thread must live as long.
    ``parent``, its pid where it is known: if it is dead already, the signal comes at once.
    """
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, int(number))
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Make this process the parent of whatever its children leave behind (prctl(2))."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)


def children() -> tuple[int, ...]:
    """Pids of this process's children, adopted and unreaped ones too; for one without threads."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")  # proc(5); not in every kernel
    return tuple(map(int, listed.read_text().split())) if listed.exists() else ()


@contextlib.contextmanager
def _output(log: Path | None) -> Iterator[tuple[int | IO[bytes], int | IO[bytes]]]:
    if log is None:
        yield subprocess.PIPE, subprocess.PIPE
        return
    with log.open("ab") as stream:
        yield stream, stream


@contextlib.contextmanager
def _named(argv: Sequence[str]) -> Iterator[None]:
    """Turn the operating system's errors about ``argv[0]`` into ours."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        # also raised for a missing working directory, which is a caller's mistake, not the user's
        if error.filename is not None and str(error.filename) != argv[0]:
            raise
        raise ProgramMissing(f"{argv[0]}: {error.strerror or 'cannot be started'}") from error


def _text(stream: bytes | None) -> str:
    # foreign programs print file names in any encoding; a message must not fail over one
    return "" if stream is None else stream.decode("utf-8", errors="replace")
