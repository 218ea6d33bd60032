"""The one file that starts processes.

An argument list is a sequence of strings; a shell line does not exist, so a path may hold
spaces, quotes and newlines. Whoever needs a process takes :data:`Run` as an argument.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol, TypeAlias

from ca_hpc.errors import CaHpcError

#: what :func:`start` returns
Child: TypeAlias = "subprocess.Popen[bytes]"
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


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
) -> Child:
    """Start a program and return at once. Without ``log`` it inherits this process's streams.

    With ``own_session`` it survives the terminal, and signals of the terminal do not reach it.
    Raises :class:`ProgramMissing`.
    """
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
        )


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have this process sent a signal when the one that started it dies, even of SIGKILL.

    prctl(2): what counts is the thread that started it, so that thread must live as long.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


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
